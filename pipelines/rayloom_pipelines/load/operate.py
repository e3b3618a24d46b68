"""Running an operation of a model: in batches, whose size and number of workers change nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, Operation, operations
from rayloom.core.seeding import stream_seed

CHUNK = 256  # rows that share a number of the noise
BLOCK = 16  # rows that share a key of the noise: what a single row costs to draw
BATCH = 64  # rows at a time, and what a worker gets at least


def find(model: Any, name: str) -> Operation:
    """An operation of a model.

    Args:
        model: The model, or its class.
        name: Of the operation.

    Raises:
        UserError: It has none of that name; lists those that it has.
    """
    cls = model if isinstance(model, type) else type(model)
    known = operations(cls)
    if name in known:
        return known[name]
    if callable(getattr(cls, name, None)) and name == "sample":
        raise UserError(
            f"{cls.__name__}.sample() is of an old form; write `@operation(gives=...)` over "
            "`sample(self, batch, *, rng, settings) -> Batch` (rayloom.core.protocols)"
        )
    if name == "sample":
        raise UserError(f"{cls.__name__} cannot draw samples; it can: {_listed(known)}")
    hint = did_you_mean(name, known)
    raise UserError(f"{cls.__name__} has no operation {name!r}{hint} It has: {_listed(known)}")


def operate(
    model: Any,
    operation: Operation,
    fields: Mapping[str, Tensor],
    num: int,
    *,
    settings: Any,
    seed: int,
    batch_size: int = BATCH,
    part: tuple[int, int] | None = None,
) -> Batch:
    """What an operation gives for rows 0 to `num`, on the CPU.

    Row i draws from (seed, i) alone, in blocks of 16: more rows begin like fewer, and batches and
    workers of any number give the same. (Last digits may differ between batch sizes: how a matrix
    product is summed depends on the number of rows.)

    Args:
        model: The model, in evaluation mode.
        operation: One of its operations.
        fields: What is given, (num, ...) each.
        num: How many rows.
        settings: An instance of the operation's settings.
        seed: Of the noise.
        batch_size: Rows at a time.
        part: (rank, world): only the batches of this worker; None: all.

    Raises:
        UserError: The result is none: no mapping of tensors with a row each.
    """
    like = next((p for p in model.parameters()), torch.zeros(()))
    pieces: list[Batch] = []
    for start, stop in batches_of(num, batch_size, part):
        chunk = start // CHUNK
        rng = Noise(
            stream_seed(seed, "samples"),
            step=chunk,
            total=CHUNK,
            start=start - chunk * CHUNK,
            stop=stop - chunk * CHUNK,
            device=like.device,
            dtype=like.dtype if like.is_floating_point() else torch.float32,
            block=BLOCK,
        )
        batch = {name: value[start:stop].to(like.device) for name, value in fields.items()}
        with torch.no_grad():
            made = getattr(model, operation.name)(batch, rng=rng, settings=settings)
        pieces.append(_checked(made, stop - start, type(model).__name__, operation))
    if not pieces:
        return {}
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def batches_of(
    num: int, batch_size: int, part: tuple[int, int] | None = None
) -> Iterator[tuple[int, int]]:
    """(start, stop) of the batches: cut where chunks of the noise are, shared out in order."""
    cuts = [
        (start, min(start + batch_size, first + CHUNK, num))
        for first in range(0, num, CHUNK)
        for start in range(first, min(first + CHUNK, num), batch_size)
    ]
    rank, world = part or (0, 1)
    base, extra = divmod(len(cuts), world)
    begin = rank * base + min(rank, extra)
    yield from cuts[begin : begin + base + (rank < extra)]


def _checked(made: Any, rows: int, model: str, operation: Operation) -> Batch:
    what = f"{model}.{operation.name}()"
    if not isinstance(made, Mapping) or not made:
        raise UserError(f"{what} gave a {type(made).__name__}, not {{field: tensor}}")
    for name, value in made.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{what}[{name!r}] is {found}, not a tensor of {rows} rows")
    said = operation.gives or made
    main = next((name for name in said if name in made), None)  # of what may be there
    if main is None:
        raise UserError(f"{what} gave {', '.join(made)}, and not {' or '.join(said)} as it says")
    made = {main: made[main], **made}
    return {name: value.detach().cpu() for name, value in made.items()}


def _listed(known: Mapping[str, Operation]) -> str:
    return ", ".join(known) or "nothing"
