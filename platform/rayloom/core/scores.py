"""What a score is worth: the one place that says which of two is better.

A score counts only if it is a finite number. NaN, an infinity and a missing one are never better
than anything, and any finite one is better than they are: a run that broke never wins, be it among
checkpoints, seeds, trials or registered versions, or in early stopping.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def usable(score: Any) -> float | None:
    """A score as a finite float; None for NaN, infinities, None, text and whatever else.

    `run.json` holds a float that is not finite as text, so text is one of these.
    """
    if isinstance(score, bool | str) or score is None:
        return None
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_better(score: Any, than: Any, direction: str, *, by: float = 0.0) -> bool:
    """Whether a score improves on another one by more than `by`.

    Args:
        score: The new one.
        than: The old one; what is not usable is beaten by all that is.
        direction: `min` or `max`: whether a small or a large score is good.
        by: Least improvement.
    """
    new, old = usable(score), usable(than)
    if new is None:
        return False
    if old is None:
        return True
    return new < old - by if direction == "min" else new > old + by


def merit(score: Any, direction: str) -> float:
    """The score turned so that larger is better; -inf where it is not usable."""
    number = usable(score)
    if number is None:
        return -math.inf
    return -number if direction == "min" else number


def best_index(scores: Iterable[Any], direction: str) -> int | None:
    """Place of the best score, the first of equals; None if none is usable."""
    found, best = None, None
    for place, score in enumerate(scores):
        if is_better(score, best, direction):
            found, best = place, usable(score)
    return found


def mean(scores: Sequence[Any]) -> float:
    """Mean of several runs' scores; NaN if one is not usable: nothing is won by leaving it out."""
    numbers = [usable(score) for score in scores]
    finite = [number for number in numbers if number is not None]
    if not finite or len(finite) < len(numbers):
        return math.nan
    return sum(finite) / len(finite)
