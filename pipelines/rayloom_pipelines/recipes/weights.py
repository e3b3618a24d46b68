"""Weights of a run's checkpoint: for sampling, playing, fine-tuning and the model registry."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rayloom.core.config import load_config
from rayloom.core.errors import CheckpointError, UserError
from rayloom.core.protocols import DataSpec, FieldSpec, parameters_sha256
from rayloom.core.references import references
from rayloom.core.sections import RunConfig
from rayloom.nn.frozen import averaged_buffers, freeze
from rayloom_pipelines.recipes.build import Stages, build_model, fit_weights

Which = Literal["best", "last"]
Weights = dict[str, torch.Tensor]
STAGES = "stages"  # folder inside a run folder with its copies of first stages, by config field


def config_of_folder(path: Path) -> RunConfig:
    """The config that a run folder (or a registered version) was made with."""
    return load_config(path / "config.yaml", site=None).config


def spec_from(about: Mapping[str, Any]) -> DataSpec:
    """The data's spec as `run.json` holds it: a model is built without the data."""
    fields = about["data"]["spec"]["fields"]
    return DataSpec(
        fields={
            name: FieldSpec(
                shape=tuple(field["shape"]),
                dtype=field["dtype"],
                kind=field["kind"],
                num_classes=field["num_classes"],
            )
            for name, field in fields.items()
        },
        name=about["data"]["spec"]["name"],
    )


def read_state(path: Path, which: Which | int = "best") -> tuple[dict[str, Any], Any]:
    """The trainable's state in a checkpoint, and what is known of the checkpoint.

    Args:
        path: Run folder.
        which: `best` (the last one where none was scored), `last`, or a clock step.

    Raises:
        CheckpointError: There is no checkpoint that verifies.
    """
    from rayloom.records import RunFolder

    checkpoints = RunFolder.open(path).checkpoints(read_only=True)
    if isinstance(which, int):
        found = next((c for c in checkpoints.complete() if c.step == which), None)
        if found is None:
            steps = ", ".join(str(c.step) for c in checkpoints.complete()) or "none"
            raise UserError(f"{path.name} has no checkpoint at step {which}; it has: {steps}")
    else:
        found = checkpoints.best() if which == "best" else None
        found = found or checkpoints.latest()
    if found is None:
        raise CheckpointError(f"{path.name} has no checkpoint that verifies")
    return checkpoints.load(found)["trainable"], found


def of_state(
    config: RunConfig,
    state: Mapping[str, Any],
    spec: DataSpec | None,
    stages: Stages | None = None,
) -> Weights:
    """Weights as evaluation uses them (averaged, where the run averages), by name."""
    if "weights" in state:  # the slim checkpoint of a registered version
        return dict(state["weights"])
    if config.task == "rl":
        from rayloom.rl.collect import make_learner

        learner = make_learner(config)
        learner.load_state_dict(state["updater"]["learner"])
        return {name: value.detach().clone() for name, value in learner.parameters().items()}
    assert spec is not None
    model = build_model(config, spec, stages)
    fit_weights(model, {k: torch.as_tensor(v) for k, v in state["model"].items()})
    if "ema" in state:
        from rayloom.nn.ema import EMA
        from rayloom.optim.flat import FlatParameters

        flat = [FlatParameters(player.parameters).data for player in model.players]  # type: ignore[union-attr,operator]
        average = EMA([*flat, *averaged_buffers(model)], decay=0.5)
        average.load_state_dict(state["ema"])
        for tensor, shadow in zip(average.tensors, average.shadow, strict=True):
            tensor.copy_(shadow)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def of_run(path: Path, which: Which | int = "best") -> Weights:
    """The weights of a run folder's checkpoint."""
    from rayloom.records import RunFolder

    about = RunFolder.open(path).read()
    config = config_of_folder(path)
    spec = spec_from(about) if about.get("data") else None
    return of_state(config, read_state(path, which)[0], spec, stages_of(path))


def stages_of(path: Path) -> dict[str, torch.nn.Module]:
    """The frozen first stages of a run folder, built from its own copies; of most runs none.

    Raises:
        UserError: A copy is missing or is not the one that the run was started with.
        CheckpointError: A copy does not verify.
    """
    from rayloom.records import RunFolder

    about = RunFolder.open(path).read()
    found = {}
    for field in references(config_of_folder(path).model):
        copy, noted = path / STAGES / field, about.get(STAGES, {}).get(field)
        if noted is None or not (copy / "run.json").is_file():
            raise UserError(f"{path} has lost {STAGES}/{field}, its copy of the first stage")
        stage = load_stage(copy)
        if stage.sha256 != noted["parameters_sha256"]:
            raise UserError(f"{copy} is not the copy of {noted['run']} that the run started with")
        found[field] = stage.module
    return found


@dataclass(frozen=True)
class Stage:
    """A first stage.

    Attributes:
        path: Run folder, a copy inside another, or the folder of a registered version.
        run: Id of the run that trained it.
        info: The checkpoint, the run's best.
        sha256: Of the parameters.
        module: The frozen model.
    """

    path: Path
    run: str
    info: Any
    sha256: str
    module: torch.nn.Module


def load_stage(path: Path) -> Stage:
    """The model of a run's best checkpoint, frozen.

    Raises:
        CheckpointError: There is no checkpoint that verifies.
    """
    from rayloom.records import RunFolder

    about = RunFolder.open(path).read()
    config, spec, stages = config_of_folder(path), spec_from(about), stages_of(path)
    state, info = read_state(path, "best")
    weights = of_state(config, state, spec, stages)
    module = freeze(model_of(config, spec, weights, stages))
    return Stage(path, about["run_id"], info, parameters_sha256(weights), module)


def model_of(
    config: RunConfig, spec: DataSpec, weights: Weights, stages: Stages | None = None
) -> torch.nn.Module:
    """The model with these weights, in evaluation mode."""
    model = build_model(config, spec, stages)
    fit_weights(model, weights)
    return model.eval()


def learner_of(config: RunConfig, weights: Weights) -> Any:
    """The learner with these parameters; its optimizer and replay are new."""
    from rayloom.rl.collect import make_learner

    learner = make_learner(config)
    copy_parameters(learner.parameters(), weights)
    return learner


def copy_parameters(target: Mapping[str, torch.Tensor], weights: Weights) -> None:
    """Copy weights into live tensors.

    Raises:
        UserError: Names or shapes differ.
    """
    shapes = {name: tuple(value.shape) for name, value in target.items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if shapes != given:
        other = [n for n in {*shapes, *given} if shapes.get(n) != given.get(n)]
        raise UserError(f"the weights do not fit this learner: {', '.join(sorted(other)[:5])}")
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(weights[name])


def put_into(trainable: Any, weights: Weights) -> None:
    """Start an RL run from given parameters."""
    copy_parameters(trainable.parameters(), weights)


def register(folder: Any, config: RunConfig, *, say: Callable[[str], Any]) -> Any:
    """Make the best checkpoint a registered model version. Returns `tracking.Registered`."""
    from rayloom.tracking import register_model

    about = folder.read()
    state, info = read_state(folder.path, "best")
    spec, stages = spec_from(about) if about.get("data") else None, stages_of(folder.path)
    weights = of_state(config, state, spec, stages)
    module, example = exported(config, weights, spec, stages)
    with tempfile.TemporaryDirectory(prefix="rayloom-") as scratch:
        env_step = int(state.get("env_step", 0))
        write_slim(folder.path, Path(scratch), weights, info, env_step=env_step)
        return register_model(
            folder.path,
            module,
            example,
            name=config.tracking.register_as or about["name"],
            files={file.name: file for file in Path(scratch).iterdir()},
            sha256=parameters_sha256(weights),
            score=info.score,
            direction=info.direction,
            metadata={"rayloom_run": folder.run_id, "rayloom_step": info.step},
            say=say,
        )


def write_slim(run: Path, target: Path, weights: Weights, info: Any, *, env_step: int = 0) -> None:
    """What rebuilds a run's model: config, facts, first stages, a checkpoint of weights alone.

    Args:
        run: Run folder.
        target: Existing empty folder.
        weights: See `of_state`.
        info: Of the checkpoint that they come from.
        env_step: RL: where its clock stood.

    Raises:
        UserError: The disk refuses.
    """
    from rayloom.records import Checkpoints

    for name in ("config.yaml", "run.json"):
        shutil.copyfile(run / name, target / name)
    if (run / STAGES).is_dir():
        shutil.copytree(run / STAGES, target / STAGES)
    slim = {"trainable": {"weights": weights, "env_step": env_step}}
    said: list[str] = []
    saved = Checkpoints(target / "checkpoints", say=said.append).save(
        info.step, slim, metrics=info.metrics, score=info.score, direction=info.direction
    )
    if saved is None:
        raise UserError(f"{target} cannot be written: {'; '.join(said)}")


def exported(
    config: RunConfig, weights: Weights, spec: DataSpec | None, stages: Stages | None = None
) -> tuple[torch.nn.Module, torch.Tensor]:
    """The tensor-to-tensor part and an example of its input, two rows of zeros."""
    if config.task == "rl":
        from rayloom.rl.envs import spec_of

        env = spec_of(config.env)
        shape, dtype = tuple(env.obs_shape), torch.as_tensor(_zero(env.obs_dtype)).dtype
        return learner_of(config, weights).export_module(), torch.zeros((2, *shape), dtype=dtype)
    assert spec is not None
    model = model_of(config, spec, weights, stages)
    name = "image" if "image" in spec.fields else next(iter(spec.fields))
    field = spec.fields[name]
    example = torch.zeros((2, *field.shape), dtype=getattr(torch, field.dtype))
    return model.export_module(), example  # type: ignore[operator]


def _zero(dtype: Any) -> Any:
    import numpy as np

    return np.zeros((), dtype)
