"""Which checkpoint a resumed run starts from: the newest one that verifies and fits."""

from collections.abc import Callable
from typing import Any

import torch

from rayloom.core.errors import CheckpointError, RayloomError
from rayloom.core.protocols import Collective, State
from rayloom.records import Checkpoints

# What taking over a state that verifies but is not of this run raises.
_UNFIT = (RayloomError, LookupError, TypeError, ValueError, RuntimeError, AttributeError)


def restore(
    checkpoints: Checkpoints | None,
    take: Callable[[State], Any],
    *,
    collective: Collective,
    say: Callable[[str], None],
) -> int | None:
    """Hand the newest checkpoint that verifies and fits to `take`; rank 0 chooses it.

    One that verifies and does not fit is put aside once an older one has been taken: where none
    fits, it is the code that has changed, and all of them stay.

    Args:
        checkpoints: Of the run folder; None where there is none.
        take: Takes a state over.
        collective: The workers.
        say: Hears which are not used.

    Returns:
        Its step; None if there is no checkpoint.

    Raises:
        CheckpointError: None of them fits.
    """
    steps: list[int] = []
    if collective.rank == 0 and checkpoints is not None:
        newest = checkpoints.latest()
        known = [] if newest is None else [info.step for info in checkpoints.complete()]
        steps = [step for step in reversed(known) if newest is not None and step <= newest.step]
    steps = collective.broadcast_json(steps)
    unfit: dict[int, str] = {}
    first: Exception | None = None
    for step in steps:
        error = _taken(checkpoints, step, take)
        first = first or error
        why = collective.broadcast_json("" if error is None else _text(error))
        if why:
            unfit[step] = why
            continue
        if error is not None:
            raise error  # of this rank alone
        for bad, reason in unfit.items():
            say(f"checkpoint step-{bad:012d} is not used: {reason}")
            if collective.rank == 0 and checkpoints is not None:
                checkpoints.put_aside(bad)
        return step
    if isinstance(first, RayloomError):
        raise first
    if unfit:
        step, why = next(iter(unfit.items()))
        raise CheckpointError(f"the checkpoint at {step} does not fit: {why}") from first
    return None


def _taken(
    checkpoints: Checkpoints | None, step: int, take: Callable[[State], Any]
) -> Exception | None:
    if checkpoints is None:
        return CheckpointError("to resume, every rank needs the run folder")
    try:
        take(checkpoints.load(step))
    except _UNFIT as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return error
    return None


def _text(error: Exception) -> str:
    text = " ".join(str(error).split())[:300] or "no message"
    return text if isinstance(error, RayloomError) else f"{type(error).__name__}: {text}"
