"""What the rows of the global batch carry from batch to batch: hidden states, chains, pools.

Row b of a batch gets what row b of the batch before left (`core.protocols.Carry`); where the batch
says `first`, it gets what the model's `memory` gives. Each rank keeps its own rows; a state holds
all of them, so that a run may go on with another number of workers.

Dimension key: B rows of the local slice, N rows of the global batch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import Batch, BatchSource, Collective, slice_of

PREFIX = "memory."


class RowMemory:
    """The memory of one rank's rows.

    Args:
        model: Its method `memory(num)` gives what rows begin with.
        source: Training batches.
        collective: The workers.
        device: Where the rows live.

    Raises:
        UserError: Batches differ in size, so that rows have no successor.
    """

    def __init__(
        self, model: Any, source: BatchSource, collective: Collective, device: torch.device
    ) -> None:
        self.total = source.batch_size
        if source.num_examples != source.batches_per_epoch * self.total:
            raise UserError(
                f"rows of {type(model).__name__} have a memory, so every batch must have "
                f"{self.total} rows, but the last one of an epoch has fewer: "
                "make_source(..., drop_last=True), or data.rows={name: lanes, length: ...}"
            )
        self._collective = collective
        self._start, self._stop = slice_of(self.total, collective.rank, collective.world)
        with torch.no_grad():
            begin = model.memory(max(1, self._stop - self._start))
        self._begin: Batch = {name: value.to(device) for name, value in begin.items()}
        if not self._begin:
            raise UserError(f"{type(model).__name__}.memory gives no names")
        self._now = {name: value.clone() for name, value in self._begin.items()}

    def attach(self, fields: Batch, *, fresh: bool) -> Batch:
        """The fields with the memory of their rows beside them.

        Args:
            fields: Of this rank's slice; their `first`, if any, marks rows that begin anew.
            fresh: Whether it is another batch than before.
        """
        first = fields.get("first") if fresh else None
        if first is not None:
            for name, value in self._now.items():
                mask = first.view(-1, *(1 for _ in value.shape[1:]))
                self._now[name] = torch.where(mask, self._begin[name], value)
        return {**fields, **{PREFIX + name: value for name, value in self._now.items()}}

    def update(self, carried: Mapping[str, Tensor]) -> None:
        """What a step's rows leave.

        Raises:
            UserError: A name or shape is not that of the beginning.
        """
        for name, value in carried.items():
            begin = self._begin.get(name)
            if begin is None:
                known = ", ".join(self._begin)
                raise UserError(f"Carry {name!r} is none of what memory() gives: {known}")
            if value.shape[1:] != begin.shape[1:] or len(value) != self._stop - self._start:
                raise UserError(
                    f"Carry {name!r} has shape {tuple(value.shape)}; memory() gives rows of "
                    f"{tuple(begin.shape[1:])}"
                )
            if len(value):
                self._now[name] = value.to(begin.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The rows of all ranks; every rank must call it."""
        return {name: self._gathered(value) for name, value in self._now.items()}

    def _gathered(self, value: Tensor) -> Tensor:
        """(N, ...): bytes of the ranks, added to zeros, so that no bit changes."""
        if self._collective.world == 1:
            return value.cpu().clone()
        whole = torch.zeros(self.total, *value.shape[1:], dtype=value.dtype)
        whole[self._start : self._stop] = value[: self._stop - self._start].cpu()
        self._collective.all_reduce(whole.view(-1).view(torch.uint8))
        return whole

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this rank's rows out of a state.

        Raises:
            ValueError: It is of other rows.
        """
        if set(state) != set(self._begin):
            raise ValueError(f"the rows' memory holds {sorted(state)}, not {sorted(self._begin)}")
        for name, begin in self._begin.items():
            given = torch.as_tensor(state[name])
            if given.shape != (self.total, *begin.shape[1:]):
                raise ValueError(
                    f"the memory {name!r} is of {len(given)} rows, the batch has {self.total}"
                )
            mine = given[self._start : self._stop].to(begin)
            self._now[name] = mine.clone() if len(mine) else begin.clone()
