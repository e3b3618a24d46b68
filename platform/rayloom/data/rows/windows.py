"""Windows: pieces of one length of each example, at a stride, never across two examples.

Dimension key: n examples of the split, B rows taken, L steps of a window.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from rayloom.config.data import WindowsConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.core.seeding import stream_seed
from rayloom.data.ordering import spread
from rayloom.data.orders import Order
from rayloom.data.rows.pieces import Pieces
from rayloom.data.split import Split


class Windows(Pieces):
    """Windows of the examples of a split, by number.

    Args:
        split: The examples.
        fields: Their specs, as stored.
        rows: Length and stride. A window that would reach beyond its example is none.
        stride: In place of that of `rows`.
    """

    def __init__(
        self,
        split: Split,
        fields: Mapping[str, FieldSpec],
        rows: WindowsConfig,
        stride: int | None = None,
    ) -> None:
        super().__init__(split, fields, rows)
        self.stride = stride or rows.stride or rows.length
        self.length = rows.length
        self.counts = ((self.examples - rows.length) // self.stride + 1).clamp(min=0)  # (n,)
        self.ends = self.counts.cumsum(0)
        if len(self) == 0:
            raise UserError(
                f"data.rows: no example of the split {split.name!r} has {rows.length} steps (the "
                f"longest has {int(self.examples.max())}): make length smaller"
            )

    def __len__(self) -> int:
        """Number of windows."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def place(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Example and number within it, int64 (B,) each, of some windows."""
        example = torch.searchsorted(self.ends, index, right=True)
        return example, index - (self.ends[example] - self.counts[example])

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Some windows: the cut fields (B, L, *inner), and the fixed ones of their examples."""
        example, number = self.place(index)
        wanted = self._wanted(fields)
        others = set(self.split.columns) - set(self.cut) - self.split.varying_names
        batch = self.split.take(example, fields=others if fields is None else others & set(fields))
        steps = (number * self.stride).unsqueeze(1) + torch.arange(self.length)  # (B, L)
        for name in wanted:
            batch[name] = self.split.steps(name, example.unsqueeze(1), steps)
        return batch


class Jittered:
    """The order of windows that begin anywhere in their stride, drawn afresh in every epoch.

    Args:
        inner: Order of the windows at their stride.
        coarse: Those windows.
        fine: The windows at every step: their numbers are what comes out.
        seed: Of the run.
    """

    def __init__(self, inner: Order, coarse: Windows, fine: Windows, seed: int) -> None:
        self.inner, self.coarse, self.fine, self.seed = inner, coarse, fine, seed

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """A piece of the epoch's order."""
        index = self.inner.rows(epoch, start, stop)
        example, number = self.coarse.place(index)
        stride = self.coarse.stride
        begin = number * stride
        room = (self.fine.counts[example] - begin).clamp(max=stride)  # places for it
        key = stream_seed(self.seed, "windows", epoch)
        drawn = spread(index.numpy().astype(np.uint64), key) >> np.uint64(1)
        shift = torch.from_numpy(drawn.astype(np.int64)) % room
        return self.fine.ends[example] - self.fine.counts[example] + begin + shift
