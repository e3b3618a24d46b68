"""Batches by number, in an order that is a function of (seed, epoch).

Dimension key: n examples of the source, N examples of a global batch, B of the local slice.

There is no hidden position: batch `b` is batch `b % batches_per_epoch` of epoch
`b // batches_per_epoch`, whoever asks and whenever, so that the cursor of a resumed run is one
integer. A rank takes a contiguous slice of the global batch: joined in rank order the slices are
the batch, for any number of ranks.
"""

from collections.abc import Collection
from typing import Literal

from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import Batch, BatchSource, DataSpec, LocalBatch, slice_of
from rayloom.data.dataset import Dataset
from rayloom.data.labelled import MASK
from rayloom.data.orders import Bootstrap, Order, Sequential, Shuffled, Windowed
from rayloom.data.rows.lanes import LaneOrder, Lanes
from rayloom.data.rows.windows import Jittered, Windows
from rayloom.data.split import Split


class StoreSource:
    """Batches of one split; see `make_source`."""

    def __init__(
        self,
        spec: DataSpec,
        split: Split | Windows | Lanes,
        order: Order,
        *,
        num_examples: int,
        batch_size: int,
        fields: Collection[str] | None = None,
        drop_last: bool = False,
        lanes: int = 0,
    ) -> None:
        self.lanes = lanes
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
    stored = dataset.split(split)
    if batch_size != "all" and batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if limit < 0 or shuffle_window < 0:
        raise UserError(f"limit ({limit}) and shuffle_window ({shuffle_window}) must be 0 or more")
    if fields is not None and "label" in fields and dataset.use.labelled is not None:
        fields = {*fields, MASK}  # who reads labels must know which are shown
    spec = dataset.spec if fields is None else dataset.spec.only(fields)
    limit, wanted = limit or dataset.use.limit, None if fields is None else frozenset(fields)
    rows = dataset.use.rows
    if rows is not None and rows.name == "lanes":
        if batch_size == "all":
            raise UserError(
                "data.batch_size: all, but rows of lanes come lane by lane: say how many lanes"
            )
        lanes = Lanes(
            stored, dataset.stored.fields, rows, lanes=batch_size, limit=limit, whole=not shuffle
        )
        return _ahead(
            StoreSource(
                spec,
                lanes,
                LaneOrder(lanes),
                num_examples=len(lanes),
                batch_size=batch_size,
                fields=wanted,
                lanes=batch_size,
            ),
            prefetch,
        )
    chosen: Split | Windows = stored
    if rows is not None:
        chosen = Windows(stored, dataset.stored.fields, rows)
    total = min(limit, len(chosen)) if limit else len(chosen)
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
    if dataset.use.bootstrap and shuffle:
        order = Bootstrap(order, total, seed)
    if isinstance(chosen, Windows) and shuffle and rows is not None and rows.random:
        fine = Windows(stored, dataset.stored.fields, rows, stride=1)
        order, chosen = Jittered(order, chosen, fine, seed), fine
    source = StoreSource(
        spec,
        chosen,
        order,
        num_examples=total,
        batch_size=size,
        fields=wanted,
        drop_last=drop_last,
    )
    return _ahead(source, prefetch)


def _ahead(source: StoreSource, prefetch: int | None) -> BatchSource:
    """The source, read ahead by a thread where rows come from the disk."""
    ahead = (2 if source.split.streamed else 0) if prefetch is None else prefetch
    if ahead:
        from rayloom.data.prefetch import Prefetching

        return Prefetching(source, ahead)
    return source


def first_batch(dataset: Dataset, split: str, num: int = 2) -> Batch:
    """The fields of the first examples of a split, as batches have them: a model's first look."""
    num = min(num, len(dataset.split(split))) if dataset.use.rows is None else 1
    return (
        make_source(dataset, split, batch_size=num, seed=0, shuffle=False, prefetch=0)
        .batch(0)
        .fields
    )
