"""Lanes: the examples one after another, cut into as many lanes as a batch has rows.

Dimension key: B lanes, K rows of a lane, L steps of a row, S steps in all.

Row b of batch k + 1 continues row b of batch k, so that a model can carry what it remembers from
batch to batch. A row has `length` steps of its own, and before them the last `overlap` steps of the
row before it: with one such step, each step of a text is predicted once, the first one excepted.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from rayloom.config.data import LanesConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.rows.pieces import Pieces
from rayloom.data.split import Split
from rayloom.data.store.columns import SIGNED


class Lanes(Pieces):
    """Rows of lanes by number: row k of lane b has number b * K + k.

    Args:
        split: The examples.
        fields: Their specs, as stored.
        rows: Length and overlap.
        lanes: B.
        limit: Use the first so many rows' steps; 0: all.
        whole: Whether the last row of a lane may reach beyond the end, where `<field>_mask` is
            False: so that every step is there. Else the steps that fill no batch are left out.
    """

    def __init__(
        self,
        split: Split,
        fields: Mapping[str, FieldSpec],
        rows: LanesConfig,
        *,
        lanes: int,
        limit: int = 0,
        whole: bool = False,
    ) -> None:
        super().__init__(split, fields, rows)
        self.lanes, self.length, self.overlap = lanes, rows.length, rows.overlap
        self.ends = self.examples.cumsum(0)
        self.total = int(self.ends[-1]) if len(self.ends) else 0  # S
        if limit:
            self.total = min(self.total, limit * self.length + self.overlap)
        own = max(0, self.total - self.overlap)
        per_batch = lanes * self.length
        self.depth = -(-own // per_batch) if whole else own // per_batch  # K
        if self.depth == 0:
            raise UserError(
                f"data.rows: the {self.total:,} steps of the split {split.name!r} do not fill "
                f"{lanes} lanes of {self.length} steps: make data.batch_size (lanes) or "
                "data.rows.length smaller"
            )

    def __len__(self) -> int:
        """B * K."""
        return self.lanes * self.depth

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Some rows: cut fields (B, L, *inner), their masks, and `first`, bool (B,).

        `first` is where a lane starts anew, which it does in every epoch.
        """
        span = torch.arange(self.length + self.overlap)
        places = (index * self.length).unsqueeze(1) + span  # (B, L), lanes lie end to end
        mask = places < self.total
        places = places.clamp(max=self.total - 1)
        example = torch.searchsorted(self.ends, places, right=True)
        steps = places - (self.ends - self.examples)[example]
        batch: dict[str, Tensor] = {}
        for name in self._wanted(fields):
            values = self.split.steps(name, example, steps)
            if not bool(mask.all()):
                whole_numbers = values.view(SIGNED.get(values.dtype, values.dtype))
                whole_numbers[~mask] = 0
            batch[name], batch[f"{name}_mask"] = values, mask
        batch["first"] = index % self.depth == 0
        return batch


class LaneOrder:
    """Batch k has row k of every lane, in every epoch."""

    def __init__(self, lanes: Lanes) -> None:
        self.width, self.depth = lanes.lanes, lanes.depth

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """The rows at these places."""
        place = torch.arange(start, stop)
        return place % self.width * self.depth + place // self.width
