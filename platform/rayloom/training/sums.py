"""`Sum`s of one step: added over chunks and ranks, in float64.

They travel in one all-reduce of their own; a model without any pays nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import Collective, Part, Sum


class StepSums:
    """Room for the `Sum`s of one set of parts.

    Args:
        parts: What a loss gave; those that are `Sum`s fix names and shapes.
        names: Which these are.
        where: For messages.
    """

    def __init__(self, parts: Mapping[str, Part], names: Sequence[str], *, where: str) -> None:
        values = {name: cast(Sum, parts[name]).value for name in names}
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{where} gave Sum {name!r} of {type(value).__name__}, no tensor")
        self._where = where
        sizes = [value.numel() for value in values.values()]
        device = next(iter(values.values())).device
        self._flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self.views: dict[str, Tensor] = {
            name: piece.view(value.shape)
            for (name, value), piece in zip(values.items(), self._flat.split(sizes), strict=True)
        }

    def clear(self) -> None:
        """Begin a step."""
        self._flat.zero_()

    def add(self, parts: Mapping[str, Any]) -> None:
        """Take in one chunk.

        Raises:
            UserError: A shape differs from that of the first step.
        """
        for name, view in self.views.items():
            value = parts[name].value.detach()
            if value.shape != view.shape:
                raise UserError(
                    f"{self._where} gave Sum {name!r} of shape {tuple(value.shape)}; at first it "
                    f"was {tuple(view.shape)}, and it must stay so"
                )
            view.add_(value)

    def reduce(self, collective: Collective) -> None:
        """Add the other ranks' sums."""
        collective.all_reduce(self._flat)
