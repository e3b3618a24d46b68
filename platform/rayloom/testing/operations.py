"""The rules of operations (`rayloom.core.protocols.operation`), checked on a tiny batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, Operation, operations


@torch.no_grad()
def check_operations(model: Any, batch: Batch, noise: Callable[[int, int, int], Noise]) -> None:
    """Equal noise, equal results, however the rows are cut: none depends on its neighbours.

    Args:
        model: In float64.
        batch: Rows; an operation that reads other fields is left out.
        noise: (total, start, stop) to noise.

    Raises:
        AssertionError: A rule is broken; the message says which.
    """
    model.eval()
    num = len(next(iter(batch.values())))
    for name, made in operations(type(model)).items():
        if not set(made.reads) <= set(batch):
            continue
        cuts = ((0, num), (0, num), (0, num // 3), (num // 3, num))
        whole, again, first, second = (
            _applied(model, made, batch, noise(num, *cut), cut) for cut in cuts
        )
        for field, value in whole.items():
            assert isinstance(value, Tensor), f"{name}()[{field!r}] is no tensor"
            assert len(value) == num, f"{name}()[{field!r}] has {len(value)} rows for {num}"
            assert torch.equal(value, again[field]), f"{name}() with equal `rng` gave two results"
            joined = torch.cat([first[field], second[field]])
            assert torch.allclose(joined.double(), value.double(), rtol=1e-9, atol=1e-9), (
                f"{name}()[{field!r}] differs between one batch and two: draw from `rng` only, and "
                "let no row depend on its neighbours"
            )


def _applied(
    model: Any, made: Operation, batch: Batch, rng: Noise, cut: tuple[int, int]
) -> dict[str, Any]:
    """What an operation with its default settings gives for some of the rows."""
    rows = {field: batch[field][slice(*cut)] for field in made.reads}
    settings = made.settings() if made.settings else None
    result = getattr(model, made.name)(rows, rng=rng, settings=settings)
    assert isinstance(result, dict), f"{made.name}() gave a {type(result).__name__}, not a Batch"
    return result
