"""Exponential moving average of parameters and buffers.

Polyak and Juditsky, 1992; the warm-up is the one common in diffusion models: without it, the first
thousands of averages still hold the random start.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class EMA:
    """shadow <- d_t shadow + (1 - d_t) tensor, over a list of floating tensors.

    d_t = `decay`, or min(decay, (1 + t) / (10 + t)) with `warmup`, where t counts earlier updates.

    Args:
        tensors: What is averaged: flat parameters and floating buffers, updated in place by others.
        decay: In (0, 1).
        warmup: Whether the early decay is shorter.
    """

    def __init__(self, tensors: Sequence[Tensor], *, decay: float, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, not {decay}")
        for tensor in tensors:
            if not tensor.is_floating_point():
                raise ValueError(f"cannot average a tensor of {tensor.dtype}")
        self.tensors = [t.detach() for t in tensors]
        self.shadow = [t.clone() for t in self.tensors]
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self._only = (self.shadow[0], self.tensors[0]) if len(self.tensors) == 1 else None

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

    def state_dict(self) -> dict[str, Any]:
        """The averages (copies) and the number of updates."""
        shadow = {str(number): value.clone() for number, value in enumerate(self.shadow)}
        return {"updates": self.updates, "shadow": shadow}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in.

        Raises:
            ValueError: The shapes differ: it is the state of another model.
        """
        given = [torch.as_tensor(state["shadow"][str(n)]) for n in range(len(state["shadow"]))]
        if [g.shape for g in given] != [s.shape for s in self.shadow]:
            raise ValueError("the averages in the state have other shapes than this model")
        for mine, theirs in zip(self.shadow, given, strict=True):
            mine.copy_(theirs)
        self.updates = int(state["updates"])
