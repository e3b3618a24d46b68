"""Batches by number, in an order that is a function of (seed, epoch).

Dimension key: n examples of the source, N examples of a global batch, B of the local slice.

There is no hidden position: batch `b` is batch `b % batches_per_epoch` of epoch
`b // batches_per_epoch`, whoever asks and whenever, so that the cursor of a resumed run is one
integer. A rank takes a contiguous slice of the global batch: joined in rank order the slices are
the batch, for any number of ranks.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import BatchSource, DataSpec, LocalBatch, slice_of
from rayloom.core.seeding import numpy_stream
from rayloom.data.dataset import Dataset, Split

_INT32_ROWS = 1 << 31
_CACHED_EPOCHS = 2  # the tail of one and the head of the next
_CACHED_WINDOWS = 4


class Order(Protocol):
    """The order of one source's examples."""

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """int64 (stop - start,), the rows at these places of an epoch."""
        ...


class Sequential:
    """As stored, every epoch."""

    def __init__(self, total: int) -> None:
        self.total = total

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """The places themselves."""
        return torch.arange(start, stop)


class Shuffled:
    """A permutation of the whole set per epoch, kept in memory: 4 bytes per example."""

    def __init__(self, total: int, seed: int) -> None:
        self.total, self.seed = total, seed
        self._cache: OrderedDict[int, Tensor] = OrderedDict()

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """A piece of the epoch's permutation."""
        order = self._cache.get(epoch)
        if order is None:
            while len(self._cache) >= _CACHED_EPOCHS:
                self._cache.popitem(last=False)
            order = _permutation(self.total, self.seed, epoch)
            self._cache[epoch] = order
        return order[start:stop].long()


class Windowed:
    """Windows of neighbouring rows in random order, shuffled inside: disk and cache friendly.

    Memory: 4 bytes per row of a few windows, and per window. Two examples more than a window
    apart in the store meet in one batch only where windows join.
    """

    def __init__(self, total: int, seed: int, window: int) -> None:
        self.total, self.seed, self.window = total, seed, window
        self.count = -(-total // window)
        self._last = total - (self.count - 1) * window  # rows of the short window
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            while len(self._orders) >= _CACHED_EPOCHS:
                self._orders.popitem(last=False)
            self._orders[epoch] = _permutation(self.count, self.seed, epoch, "windows").numpy()
        return self._orders[epoch]

    def _inside(self, epoch: int, window: int) -> Tensor:
        key = (epoch, window)
        if key not in self._windows:
            while len(self._windows) >= _CACHED_WINDOWS:
                self._windows.popitem(last=False)
            size = self._last if window == self.count - 1 else self.window
            self._windows[key] = _permutation(size, self.seed, epoch, "window", window)
        return self._windows[key]

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """A piece of the epoch's order."""
        order = self._order(epoch)
        short = int(np.flatnonzero(order == self.count - 1)[0])  # turn of the short window
        missing = self.window - self._last
        pieces = []
        while start < stop:
            turn = start // self.window
            if turn > short or (turn == short and start >= short * self.window + self._last):
                turn = (start + missing) // self.window
            begin = turn * self.window - (missing if turn > short else 0)
            window = int(order[turn])
            inside = self._inside(epoch, window)
            end = min(stop, begin + len(inside))
            pieces.append(inside[start - begin : end - begin].long() + window * self.window)
            start = end
        return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)


def _permutation(total: int, seed: int, epoch: int, *names: str | int) -> Tensor:
    kind = np.int32 if total < _INT32_ROWS else np.int64
    order = np.arange(total, dtype=kind)
    numpy_stream(seed, "data order", epoch, *names).shuffle(order)
    return torch.from_numpy(order)


class StoreSource:
    """Batches of one split; see `make_source`."""

    lanes = 0

    def __init__(
        self,
        spec: DataSpec,
        split: Split,
        order: Order,
        *,
        num_examples: int,
        batch_size: int,
        fields: Collection[str] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.spec, self.split, self.order, self.fields = spec, split, order, fields
        self.num_examples, self.batch_size = num_examples, batch_size
        if drop_last:
            self.num_examples -= num_examples % batch_size
        self.batches_per_epoch = -(-self.num_examples // batch_size)

    def indices(self, number: int) -> Tensor:
        """int64 (N,), rows of global batch `number`; the last of an epoch may be smaller."""
        if number < 0:
            raise IndexError(f"batch number {number} is negative")
        epoch, place = divmod(number, self.batches_per_epoch)
        start = place * self.batch_size
        return self.order.rows(epoch, start, min(start + self.batch_size, self.num_examples))

    def batch(self, number: int, *, rank: int = 0, world: int = 1) -> LocalBatch:
        """The local slice of global batch `number`; varying fields have the global batch's L."""
        index = self.indices(number)
        total = len(index)
        start, lengths = 0, None
        if self.split.varying:
            lengths = self.split.longest(index)
        if world != 1:
            start, stop = slice_of(total, rank, world)
            index = index[start:stop]
        rows = self.split.take(index, lengths=lengths, fields=self.fields)
        return LocalBatch(rows, total, start, index)


def make_source(
    dataset: Dataset,
    split: str,
    *,
    batch_size: int | Literal["all"],
    seed: int,
    shuffle: bool,
    shuffle_window: int = 0,
    limit: int = 0,
    prefetch: int | None = None,
    fields: Collection[str] | None = None,
    drop_last: bool = False,
) -> BatchSource:
    """Batches of a split.

    Args:
        dataset: Where from.
        split: Name of the split.
        batch_size: N, examples per global batch; the last batch of an epoch holds what is left.
            `all`: the whole split, as stored, is one batch.
        seed: Seed of the run; the order of epoch e is a function of (seed, e).
        shuffle: Whether to shuffle at all; evaluation does not.
        shuffle_window: Shuffle inside windows of so many neighbouring rows, and the windows
            among themselves; 0 shuffles the whole set.
        limit: Use only the first so many examples as stored; 0: all, or as the data set's `use`
            says.
        prefetch: Batches read ahead by a thread; None: 2 where rows come from the disk, else 0.
        fields: Gather these alone, such as the `reads` of a model; None: all.
        drop_last: Leave out what would be a smaller last batch, as what lives in a batch's rows
            from step to step wants it.

    Raises:
        UserError: No such split or field, a number out of range, or no whole batch.
    """
    chosen = dataset.split(split)
    if batch_size != "all" and batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if limit < 0 or shuffle_window < 0:
        raise UserError(f"limit ({limit}) and shuffle_window ({shuffle_window}) must be 0 or more")
    limit = limit or dataset.use.limit
    total = min(limit, len(chosen)) if limit else len(chosen)
    spec = dataset.spec if fields is None else dataset.spec.only(fields)
    size = total if batch_size == "all" else batch_size
    if drop_last and size > total:
        raise UserError(
            f"the split {split!r} of {dataset.name!r} has {total} examples, fewer than a batch of "
            f"{size}, and no smaller one will do here: set data.batch_size to {total} or less"
        )
    order: Order
    if not shuffle or batch_size == "all":
        order = Sequential(total)
    elif 0 < shuffle_window < total:
        order = Windowed(total, seed, shuffle_window)
    else:
        order = Shuffled(total, seed)
    source = StoreSource(
        spec,
        chosen,
        order,
        num_examples=total,
        batch_size=size,
        fields=None if fields is None else frozenset(fields),
        drop_last=drop_last,
    )
    ahead = (2 if chosen.streamed else 0) if prefetch is None else prefetch
    if ahead:
        from rayloom.data.prefetch import Prefetching

        return Prefetching(source, ahead)
    return source
