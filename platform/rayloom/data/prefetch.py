"""Reading ahead in a thread, for splits whose rows come from the disk."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rayloom.core.protocols import BatchSource, DataSpec, LocalBatch


class Prefetching:
    """A source that reads the next batches while the current one is used.

    It guesses that batch b + 1 follows batch b. What it returns is what the inner source
    returns; a wrong guess costs a read. One thread, so that the inner source needs no locks.

    Args:
        source: The inner source.
        depth: Batches to read ahead.
    """

    def __init__(self, source: BatchSource, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; it must be at least 1")
        self.source, self.depth = source, depth
        self.spec: DataSpec = source.spec
        self.num_examples, self.batch_size = source.num_examples, source.batch_size
        self.batches_per_epoch, self.lanes = source.batches_per_epoch, source.lanes
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[int, int, int], Future[LocalBatch]] = {}

    def batch(self, number: int, *, rank: int = 0, world: int = 1) -> LocalBatch:
        """The local slice of global batch `number`."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="rayloom-data")
        wanted = [(number + k, rank, world) for k in range(self.depth + 1)]
        for key in [key for key in self._ahead if key not in wanted]:
            self._ahead.pop(key).cancel()
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = self._pool.submit(_read, self.source, *key)
        return self._ahead.pop(wanted[0]).result()

    def close(self) -> None:
        """Stop the thread; a later `batch` starts it again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._ahead.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Threads do not travel to other processes."""
        return {**self.__dict__, "_pool": None, "_ahead": {}}


def _read(source: BatchSource, number: int, rank: int, world: int) -> LocalBatch:
    return source.batch(number, rank=rank, world=world)
