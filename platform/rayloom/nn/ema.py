"""Exponential moving average of parameters and buffers.

Polyak and Juditsky, 1992; the warm-up is the one common in diffusion models: without it, the first
thousands of averages still hold the random start.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Places = Mapping[str, tuple[int, torch.Size]]  # name: (first element in the tensor, shape)


class EMA:
    """shadow <- d_t shadow + (1 - d_t) tensor, over a list of floating tensors.

    d_t = `decay`, or min(decay, (1 + t) / (10 + t)) with `warmup`, where t counts earlier updates.

    Args:
        tensors: What is averaged: flat parameters and floating buffers, updated in place by others.
        decay: In (0, 1).
        warmup: Whether the early decay is shorter.
        places: For each tensor the named pieces that it holds, for the state; None: numbers.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        *,
        decay: float,
        warmup: bool = True,
        places: Sequence[Places] | None = None,
    ) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay}")
        for tensor in tensors:
            if not tensor.is_floating_point():
                raise ValueError(f"cannot average a tensor of {tensor.dtype}")
        self.tensors = [t.detach() for t in tensors]
        self.shadow = [t.clone() for t in self.tensors]
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self._only = (self.shadow[0], self.tensors[0]) if len(self.tensors) == 1 else None
        named = (
            [{str(n): (0, t.shape)} for n, t in enumerate(tensors)] if places is None else places
        )
        self.views: dict[str, Tensor] = {
            name: shadow.view(-1)[start : start + shape.numel()].view(shape)
            for shadow, pieces in zip(self.shadow, named, strict=True)
            for name, (start, shape) in pieces.items()
        }

    def decay_at(self, update: int) -> float:
        """d_t of the update numbered `update` (from 0)."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def update(self) -> None:
        """Move the average one step towards the tensors."""
        weight = 1.0 - self.decay_at(self.updates)
        self.updates += 1
        if self._only is not None:
            self._only[0].lerp_(self._only[1], weight)
        else:
            torch._foreach_lerp_(self.shadow, self.tensors, weight)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averages stand in the tensors inside the block; the originals come back after it.

        They come back to the bit, also after an exception. What the block writes into the tensors
        is lost.
        """
        kept = [t.clone() for t in self.tensors]
        try:
            torch._foreach_copy_(self.tensors, self.shadow)
            yield
        finally:
            torch._foreach_copy_(self.tensors, kept)

    def put(self) -> None:
        """Write the averages into the tensors, for good."""
        torch._foreach_copy_(self.tensors, self.shadow)

    def move_rows(self, name: str, source: Tensor, fresh: Tensor, values: Tensor) -> None:
        """Reorder the rows of a named piece; the average of fresh ones is their value.

        Args:
            name: Of the piece, (capacity, ...).
            source: int64 (capacity,), where each row comes from.
            fresh: bool (capacity,), rows that begin anew.
            values: What the piece's tensor holds now.
        """
        rows = self.views[name]
        rows.copy_(rows[source])
        rows[fresh] = values.detach()[fresh]

    def state_dict(self) -> dict[str, Any]:
        """The averages by name (copies) and the number of updates."""
        shadow = {name: value.clone() for name, value in self.views.items()}
        return {"updates": self.updates, "shadow": shadow}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in; also one of before, which had the tensors by number.

        Raises:
            ValueError: Names or shapes differ: it is the state of another model.
        """
        given = {name: torch.as_tensor(value) for name, value in state["shadow"].items()}
        mine = self.views
        if set(given) != set(mine) and all(name.isdigit() for name in given):
            mine = {str(number): value for number, value in enumerate(self.shadow)}
        if {k: v.shape for k, v in given.items()} != {k: v.shape for k, v in mine.items()}:
            raise ValueError("the averages in the state have other shapes than this model")
        for name, value in mine.items():
            value.copy_(given[name])
        self.updates = int(state["updates"])
