"""Noise for the global batch, equal on any number of workers and accumulation chunks.

Dimension key: B examples of this slice, N examples of the global batch.

A model never touches torch's global generator. It asks this object, which draws for the *global*
batch from (seed, step, name) and hands out the rows of the local slice. The draw has no state, so
a resumed run needs none, and two workers that hold 33 and 31 rows of a batch of 64 see exactly the
rows that one process would see.

Rows come in blocks, each with a key of its own, and only the blocks that the slice touches are
drawn: 64 rows of 4,096 cost what 256 cost. Which rows a block has depends on the global batch
alone. A block that is cut short (the last one) does not begin like a whole one.
"""

import functools
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256  # rows; numbers of old runs with batches up to this depend on it
_MASK = (1 << 64) - 1


@functools.lru_cache(maxsize=4096)
def _name_key(name: str) -> int:
    return zlib.crc32(name.encode()) << 20


def _key(purpose: str) -> int:
    return zlib.crc32(purpose.encode()) << 1 | 1


def _mix(a: int, b: int) -> int:
    """One splitmix64 round of a + b: cheap and well spread."""
    z = (a + b * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Noise:
    """Random tensors for rows `start..stop` of a global batch of `total` examples.

    Args:
        seed: Seed of the run (already split by purpose: training, evaluation, pictures).
        step: What numbers the draw: the batch counter in training, the batch index in evaluation.
        total: N, examples in the global batch.
        start: First row of the local slice.
        stop: One past its last row; None means `total`.
        device: Where the draws live. CPU and CUDA generators give different numbers.
        dtype: Floating type of `normal` and `uniform`.
        block: Rows that share a key. Where `total` is a multiple of it, a batch of more rows begins
            with the same numbers.
    """

    __slots__ = ("_generator", "block", "device", "dtype", "seed", "start", "step", "stop", "total")

    def __init__(
        self,
        seed: int,
        *,
        step: int = 0,
        total: int,
        start: int = 0,
        stop: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        block: int = BLOCK,
    ) -> None:
        self.seed, self.step, self.total = seed, step, total
        self.start, self.stop = start, total if stop is None else stop
        if not 0 <= self.start <= self.stop <= total:
            raise ValueError(f"rows {start}..{stop} do not lie in a batch of {total}")
        self.device, self.dtype, self.block = torch.device(device), dtype, block
        self._generator: torch.Generator | None = None

    def __len__(self) -> int:
        """B, the rows of this slice."""
        return self.stop - self.start

    def rows(self, start: int, stop: int) -> "Noise":
        """The noise of local rows `start..stop`: what an accumulation chunk uses."""
        return self._of(self.total, self.start + start, self.start + stop)

    def of_length(self, num: int) -> "Noise":
        """The noise of a whole batch of `num` rows, numbered and keyed like this one."""
        return self._of(num, 0, num)

    def under(self, purpose: str) -> "Noise":
        """The noise of the same rows for another purpose, under names of its own."""
        return self._of(self.total, self.start, self.stop, _mix(self.seed & _MASK, _key(purpose)))

    def _of(self, total: int, start: int, stop: int, seed: int | None = None) -> "Noise":
        return Noise(
            self.seed if seed is None else seed,
            step=self.step,
            total=total,
            start=start,
            stop=stop,
            device=self.device,
            dtype=self.dtype,
            block=self.block,
        )

    def _seeded(self, name: str, block: int = 0) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(self.device)
        key = _mix(_mix(self.seed & _MASK, self.step), _name_key(name))
        if block:
            key = _mix(key, block)
        return self._generator.manual_seed(key >> 1)

    def _draw(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        fill: Callable[[Tensor, torch.Generator], Tensor],
    ) -> Tensor:
        start, stop, length = self.start, self.stop, self.block
        parts = []
        for block in range(start // length, -(-stop // length)):
            first = block * length
            last = min(first + length, self.total)
            # all its rows, for which of them are ours changes nothing
            rows = torch.empty((last - first, *shape), dtype=dtype, device=self.device)
            rows = fill(rows, self._seeded(name, block))
            here, there = max(start, first) - first, min(stop, last) - first
            parts.append(rows if there - here == last - first else rows[here:there])
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return torch.empty((0, *shape), dtype=dtype, device=self.device)
        return torch.cat(parts)

    def normal(self, name: str, *event_shape: int) -> Tensor:
        """Standard normal, shape (B, *event_shape)."""
        return self._draw(name, event_shape, self.dtype, lambda x, g: x.normal_(generator=g))

    def uniform(self, name: str, *event_shape: int) -> Tensor:
        """Uniform on [0, 1), shape (B, *event_shape)."""
        return self._draw(name, event_shape, self.dtype, lambda x, g: x.uniform_(generator=g))

    def integers(self, name: str, high: int, *event_shape: int) -> Tensor:
        """Uniform integers in [0, high), shape (B, *event_shape), int64."""
        return self._draw(
            name, event_shape, torch.int64, lambda x, g: x.random_(0, high, generator=g)
        )

    def shared(self, name: str, *shape: int) -> Tensor:
        """Standard normal of shape `shape`, the same on every row, worker and chunk."""
        return torch.randn(
            shape, generator=self._seeded(name), device=self.device, dtype=self.dtype
        )
