"""The rules of a model (`rayloom.core.protocols.Model`), checked on a tiny batch of noise.

Dimension key: B examples of a slice, N examples of the global batch.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rayloom import catalogue
from rayloom.config.references import references
from rayloom.config.sections import RunConfig
from rayloom.core.declared import declared_metrics, default_metrics
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    Carry,
    DataSpec,
    Done,
    Export,
    FieldSpec,
    Model,
    Player,
    Rows,
    Sum,
    Turn,
)
from rayloom.data.memory import infer_fields
from rayloom.media.kinds import (
    Film,
    Images,
    Media,
)
from rayloom.nn.frozen import freeze
from rayloom.testing.operations import check_operations
from rayloom.training.preflight import evaluation_names
from rayloom.training.showing import check_names

IMAGES = DataSpec(
    fields={
        "image": FieldSpec(shape=(1, 8, 8), dtype="uint8", kind="image"),
        "label": FieldSpec(shape=(), dtype="int64", kind="label", num_classes=10),
    },
    name="noise",
)


def random_batch(spec: DataSpec, num: int, *, seed: int = 0) -> Batch:
    """A batch of noise for a spec; fields of varying length get length 5, mask and lengths.

    Args:
        spec: Fields to make.
        num: Examples.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    batch: Batch = {}
    for name, field in spec.fields.items():
        shape = (num, *(5 if size == -1 else size for size in field.shape))
        dtype = getattr(torch, field.dtype)
        if dtype.is_floating_point:
            batch[name] = torch.rand(shape, generator=generator).to(dtype)
        else:
            high = field.num_classes or (256 if dtype is torch.uint8 else 10)
            batch[name] = torch.randint(high, shape, generator=generator).to(dtype)
        if -1 in field.shape:
            length = torch.randint(1, 6, (num,), generator=generator)
            batch[f"{name}_length"] = length
            batch[f"{name}_mask"] = torch.arange(5)[None, :] < length[:, None]
    return batch


def check_model(
    model_class: Any,
    config: Any = None,
    spec: DataSpec | None = None,
    *,
    stages: Mapping[str, nn.Module] | None = None,
    per_example: bool = True,
    num: int = 6,
) -> None:
    """Check a model class against the contract, in float64.

    Args:
        model_class: Built as `model_class(config, spec)`; with `stages`, as
            `model_class(config, spec, stages=stages)`.
        config: Its settings; None: those of its `example()`.
        spec: The data to build it for, which are noise then; None: those of its `example()`, or
            `IMAGES` where settings are given.
        stages: First stages of a two-stage model, built for the same spec; they are frozen here.
            None: those that the settings name, see `stages_of`.
        per_example: Whether examples do not influence each other; False for batch statistics.
        num: N, examples of the batch.

    Raises:
        AssertionError: A rule is broken; the message says which.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        config, spec, batch = _given(model_class, config, spec, num)
        stages = stages_of(config, spec) if stages is None else stages
        build = _builder(model_class, config, spec, stages)
        model = build(0)
        assert isinstance(model, nn.Module), f"{model_class.__name__} is no torch.nn.Module"
        assert isinstance(model, Model), f"{model_class.__name__} lacks a method of the contract"
        assert isinstance(config, model_class.config_class), "config_class is not its config's type"
        state = torch.get_rng_state()
        _check_players(model)
        for player in model.players:
            _check_loss(model, batch, player, per_example=per_example)
        _check_evaluation(model, batch)
        _check_declared(model, batch)
        check_names(model)
        _check_shown(model, batch)
        check_operations(model, batch, _noise)
        _check_exports(model, build(1))
        assert torch.equal(state, torch.get_rng_state()), (
            "torch's global generator was used: draw from `rng`, or a run cannot be repeated"
        )
    finally:
        torch.set_default_dtype(before)


def example_of(model_class: Any) -> tuple[Any, DataSpec, Batch]:
    """(settings, data spec, batch) of a class's `example()`.

    Args:
        model_class: With `example() -> (config, arrays by field)`.

    Raises:
        AssertionError: It has none, or one that is not of this form.
    """
    name = model_class.__name__
    make = getattr(model_class, "example", None)
    assert make is not None, f"{name} has no example(): give check_model a config, or write one"
    made = make()
    assert isinstance(made, tuple), f"{name}.example() must give (config, arrays by field)"
    assert len(made) == 2, f"{name}.example() must give (config, arrays by field)"
    config, arrays = made
    spec = DataSpec(fields=infer_fields({"example": arrays}), name="example")
    batch = {key: torch.as_tensor(value) for key, value in arrays.items()}
    assert len({len(value) for value in batch.values()}) == 1, f"{name}.example(): rows differ"
    return config, spec, batch


def stages_of(config: Any, spec: DataSpec) -> Mapping[str, nn.Module] | None:
    """The first stages that the settings of an `example()` name: there a reference is a method's.

    Args:
        config: Settings; a field of type `RunReference` holds a name of the catalogue.
        spec: The data to build them for.

    Returns:
        By field, built from their own examples; None of a model without stages.
    """
    named = references(config)
    if not named:
        return None
    stages = {}
    for field, method in named.items():
        stage_class: Any = catalogue.load("models", method)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            stages[field] = stage_class(example_of(stage_class)[0], spec)
    return stages


def _given(
    model_class: Any, config: Any, spec: DataSpec | None, num: int
) -> tuple[Any, DataSpec, Batch]:
    """What to check with: an example, or noise for a spec."""
    if config is None:
        config, known, batch = example_of(model_class)
        if spec is None:
            return config, known, {key: value[:num] for key, value in batch.items()}
    spec = spec or IMAGES
    return config, spec, random_batch(spec, num)


def _builder(
    model_class: type, config: Any, spec: DataSpec, stages: Mapping[str, nn.Module] | None
) -> Callable[[int], Any]:
    """What makes the model, its first weights drawn from a seed."""
    frozen = {field: freeze(deepcopy(stage)) for field, stage in (stages or {}).items()}
    extra = {} if stages is None else {"stages": frozen}

    def build(seed: int) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = model_class(config, spec, **extra).to(torch.float64)
        kept = {id(part) for part in model.modules()}
        lost = [field for field, stage in frozen.items() if id(stage) not in kept]
        assert not lost, f"{', '.join(lost)} must be a submodule of the model"
        return model

    return build


def _noise(total: int, start: int = 0, stop: int | None = None) -> Noise:
    return Noise(11, step=3, total=total, start=start, stop=stop, dtype=torch.float64)


def _check_players(model: Any) -> None:
    owned: set[int] = set()
    for player in model.players:
        parameters = list(player.parameters)
        ids = {id(p) for p in parameters}
        assert all(p.requires_grad for p in parameters), f"player {player.name!r} owns frozen ones"
        assert not ids & owned, f"player {player.name!r} shares parameters with another player"
        owned |= ids
    idle = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in owned]
    assert not idle, f"no player owns {', '.join(idle)}: freeze them or give them to a player"


def _parts(values: Mapping[str, Any], num: int, what: str) -> dict[str, Tensor]:
    """Named parts: per example, or added up (their names begin with +).

    Of a masked part (sums, counts) both are checked.
    """
    flat: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Sum):
            flat[f"+{name}"] = value.value
            continue
        carried = isinstance(value, Carry | Rows)
        inner = value.value if carried else value
        pieces = inner if isinstance(inner, tuple) else (inner,)
        for place, piece in enumerate(pieces):
            rows = piece.shape[:1] if carried else piece.shape
            assert rows == (num,), (
                f"{what}[{name!r}] has shape {tuple(piece.shape)}, not ({num},): one value an "
                "example, summed over its dimensions (or a Sum, a Carry)"
            )
            flat[f"{name}/{place}"] = piece
    return flat


def done(
    means: Mapping[str, float] | None = None,
    sums: Mapping[str, Tensor] | None = None,
    *,
    turn: Turn = Turn(),  # noqa: B008 - a tuple
    total: int = 16,
) -> Done:
    """What a model's `after_step` is given, made by hand.

    Args:
        means: Means of parts over the global batch.
        sums: What the loss gave as `Sum`, added up.
        turn: Which step it is.
        total: N, rows of the noise.
    """
    tensors = {name: torch.tensor(float(value)) for name, value in (means or {}).items()}
    return Done(turn, means=lambda: tensors, sums=sums or {}, rng=lambda: _noise(total))


def _check_loss(model: Any, batch: Batch, player: Player, *, per_example: bool) -> None:
    num, name, moving = len(next(iter(batch.values()))), player.name, bool(len(player.parameters))

    def loss(start: int, stop: int) -> dict[str, Tensor]:
        rows = {name: value[start:stop] for name, value in batch.items()}
        values = (player.loss or model.loss)(
            rows, rng=_noise(num, start, stop), turn=Turn(player=player.name)
        )
        if moving:
            assert "loss" in values, f"loss() of player {name!r} has no key 'loss'"
            _fill_sums(values, list(player.parameters), num)
        return _parts(values, stop - start, f"loss() of player {name!r}")

    if hasattr(model, "memory"):  # as the engine gives it, where rows begin
        batch = {**batch, **{f"memory.{k}": v for k, v in model.memory(num).items()}}
    model.train()
    whole = loss(0, num)
    for part, value in whole.items():
        assert torch.isfinite(value).all(), f"part {part} of player {name!r} is not finite"
    again = loss(0, num)
    torch.testing.assert_close(again, whole, rtol=0, atol=0, msg="two equal calls differ")
    if moving:
        gradients = torch.autograd.grad(
            whole["loss/0"].sum(), list(player.parameters), allow_unused=True
        )
        names = {id(p): n for n, p in model.named_parameters()}
        pairs = zip(player.parameters, gradients, strict=True)
        missing = [names.get(id(p), "?") for p, gradient in pairs if gradient is None]
        assert not missing, f"no gradient of player {name!r} reaches {', '.join(missing)}"
    if per_example:
        cut = num // 3
        slices = [loss(0, cut), loss(cut, num)]
        for part in whole:
            added = part.startswith("+")
            joined = sum(s[part] for s in slices) if added else torch.cat([s[part] for s in slices])
            assert torch.allclose(torch.as_tensor(joined), whole[part], rtol=1e-9, atol=1e-9), (
                f"part {part} of player {name!r} differs between one slice and two: draw noise "
                "from `rng` only, and let no example influence another"
            )


def _fill_sums(values: Mapping[str, Any], parameters: list[nn.Parameter], total: int) -> None:
    """Sums are read after the backward pass, which may fill them; a later one must not."""
    sums = {name: value for name, value in values.items() if isinstance(value, Sum)}
    if sums:
        part = values["loss"]
        loss = (part[0] if isinstance(part, tuple) else part).sum() / total
        torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    for value in sums.values():
        value.value = value.value.clone()


@torch.no_grad()
def _check_evaluation(model: Any, batch: Batch) -> None:
    method: Callable[..., Any] | None = getattr(model, "evaluate_batch", None)
    if method is None:
        return
    model.eval()
    num = len(next(iter(batch.values())))
    _parts(method(batch, rng=_noise(num)), num, "evaluate_batch()")


def _check_declared(model: Any, batch: Batch) -> None:
    """What an evaluation writes is what the class declares, and its best is among it."""
    own = declared_metrics(model)
    name = type(model).__name__
    written = evaluation_names(model, RunConfig(), batch)
    told = [key for key in written if own and key not in own]
    assert not told, f"{name}.metrics does not declare {', '.join(told)}, which it writes"
    defaults = default_metrics(model)
    if len(defaults) == 1:
        assert defaults[0] in written, f"{name} does not write its default_metric {defaults[0]}"


@torch.no_grad()
def _check_shown(model: Any, batch: Batch) -> None:
    model.eval()
    num = len(next(iter(batch.values())))
    shown = model.show(batch, rng=_noise(num)) if hasattr(model, "show") else {}
    for name, medium in shown.items():
        assert isinstance(medium, Media), (
            f"show()[{name!r}] is a {type(medium).__name__}, none of rayloom.media's"
        )
        if not isinstance(medium, Images | Film):
            continue
        pixels = medium.pixels if isinstance(medium, Images) else medium.frames
        low, high = float(pixels.min()), float(pixels.max())
        inside = low >= 0 and high <= 1
        assert inside, f"show()[{name!r}] lies in [{low}, {high}], not [0, 1]"


@torch.no_grad()
def _check_exports(model: Any, other: Any) -> None:
    if not hasattr(model, "exports"):
        return
    other.load_state_dict(model.state_dict())
    model.eval()
    other.eval()
    again = other.exports()
    for name, export in model.exports().items():
        assert isinstance(export, Export), f"exports()[{name!r}] is no Export(module, example)"
        assert isinstance(export.module, nn.Module), f"exports()[{name!r}] has no torch.nn.Module"
        first, second = export.module(export.example), again[name].module(export.example)
        assert len(first) == len(export.example), (
            f"exports()[{name!r}] gave {len(first)} rows for {len(export.example)}"
        )
        assert torch.equal(first, second), f"state_dict() does not hold all that {name!r} uses"
