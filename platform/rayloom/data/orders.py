"""The order of a source's examples: a function of (seed, epoch), without a position of its own."""

from collections import OrderedDict
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rayloom.core.seeding import numpy_stream

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


class Bootstrap:
    """Places of an order mapped to rows drawn with replacement: the same in every epoch.

    Args:
        inner: Order of the places.
        total: n.
        seed: Of the run.
    """

    def __init__(self, inner: Order, total: int, seed: int) -> None:
        self.inner = inner
        drawn = numpy_stream(seed, "bootstrap").integers(0, total, total)
        self.drawn = torch.from_numpy(drawn.astype(np.int64))

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """The rows at these places of an epoch."""
        return self.drawn[self.inner.rows(epoch, start, stop)]


def _permutation(total: int, seed: int, epoch: int, *names: str | int) -> Tensor:
    kind = np.int32 if total < _INT32_ROWS else np.int64
    order = np.arange(total, dtype=kind)
    numpy_stream(seed, "data order", epoch, *names).shuffle(order)
    return torch.from_numpy(order)
