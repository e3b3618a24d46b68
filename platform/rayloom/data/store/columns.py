"""Columns of a split: where values live, and how rows are taken from them.

Dimension key: n rows of the split, B rows taken, L steps of the longest example of a batch.

Small columns are torch views of a private memory map (or of arrays in memory), so that a batch
costs one `index_select`. Columns of splits beyond the memory budget are read with `pread`: no
mapping, so that neither the resident set nor the address space grows with the data.
"""

import io
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import RayloomError

# torch indexes these only as their signed twins of the same size
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Rows(Protocol):
    """Fixed-size rows by number."""

    def take(self, index: Tensor) -> Tensor:
        """Rows (B, *shape) for int64 (B,); always a copy."""
        ...


class ResidentRows:
    """Rows of a tensor in memory, or of a view of a memory map.

    Args:
        values: (n, *shape).
    """

    __slots__ = ("_view", "values")

    def __init__(self, values: Tensor) -> None:
        twin = SIGNED.get(values.dtype)
        self._view = None if twin is None else values.dtype
        self.values = values if twin is None else values.view(twin)

    def take(self, index: Tensor) -> Tensor:
        """Rows (B, *shape) for int64 (B,)."""
        rows = self.values.index_select(0, index)
        return rows if self._view is None else rows.view(self._view)


class StreamedRows:
    """Rows of a file, read when they are asked for.

    Args:
        path: The file; it stays open as long as this object lives.
        offset: First byte of the first row.
        rows: n.
        shape: Shape of a row.
        dtype: Numpy name of the stored type.
    """

    def __init__(
        self, path: Path, *, offset: int, rows: int, shape: tuple[int, ...], dtype: str
    ) -> None:
        self.path, self.offset, self.rows, self.shape = path, offset, rows, shape
        self.dtype = np.dtype(dtype)
        self.width = math.prod(shape) * self.dtype.itemsize
        self._file: io.FileIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        """An open file does not travel to other processes."""
        return {**self.__dict__, "_file": None}

    def take(self, index: Tensor) -> Tensor:
        """Rows (B, *shape) for int64 (B,): one read per run of neighbours."""
        wanted = index.numpy()
        if len(wanted) and not (0 <= wanted.min() and wanted.max() < self.rows):
            raise IndexError(f"row numbers must lie in 0..{self.rows - 1}")
        out = np.empty((len(wanted), *self.shape), self.dtype)
        if self._file is None:
            self._file = io.FileIO(self.path, "rb")
        target = out.reshape(-1).view(np.uint8).data
        read_rows(self._file, wanted, target, width=self.width, offset=self.offset)
        return torch.from_numpy(out)


def read_rows(
    file: io.FileIO, wanted: np.ndarray, target: memoryview, *, width: int, offset: int
) -> None:
    """Read rows of a file into a buffer, one read per run of neighbours.

    Args:
        file: The open file.
        wanted: int64 (B,), rows.
        target: B * width bytes.
        width: Bytes of a row.
        offset: First byte of row 0.

    Raises:
        RayloomError: The file ends before a row does.
    """
    breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
    starts = [0, *breaks.tolist()] if len(wanted) else []
    stops = [*breaks.tolist(), len(wanted)]
    rows = wanted.tolist()
    descriptor, readv = file.fileno(), os.preadv
    for start, stop in zip(starts, stops, strict=False):
        view = target[start * width : stop * width]
        position = offset + rows[start] * width
        got = readv(descriptor, [view], position)
        while got < len(view):  # at most 2 GiB come at once
            more = readv(descriptor, [view[got:]], position + got)
            if more == 0:
                raise RayloomError(f"{file.name} became shorter while it was in use")
            got += more


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array. Of a file they are read: mapped pages would make the resident set grow.

    Args:
        array: [n, ...], in memory or a `numpy.memmap`.
        rows: int64 (B,).
    """
    width = array.nbytes // len(array)
    if not isinstance(array, np.memmap) or array.strides[0] != width:
        return array[rows]  # in memory, or a file in Fortran's order
    raw = np.empty(len(rows) * width, np.uint8)
    with io.FileIO(str(array.filename), "rb") as file:
        read_rows(file, rows, raw.data, width=width, offset=array.offset)
    return np.ndarray((len(rows), *array.shape[1:]), array.dtype, raw, strides=array.strides)


class FixedColumn:
    """A field whose examples all have one shape."""

    __slots__ = ("rows",)

    def __init__(self, rows: Rows) -> None:
        self.rows = rows


class VaryingColumn:
    """A field whose examples differ in length along the first axis.

    Args:
        steps: The steps of all examples one after another, rows of `shape[1:]`.
        starts: int64 (n + 1,), where each example begins.
    """

    def __init__(self, steps: Rows, starts: Tensor) -> None:
        self.steps, self.starts = steps, starts

    def lengths(self, index: Tensor) -> Tensor:
        """int64 (B,), steps of each example."""
        return self.starts[index + 1] - self.starts[index]

    def at(self, index: Tensor, steps: Tensor) -> Tensor:
        """Steps (*size, *inner) by example and number within it, int64 that broadcast to `size`."""
        flat = self.starts[index] + steps
        values = self.steps.take(flat.reshape(-1))
        return values.reshape(*flat.shape, *values.shape[1:])

    def take(self, index: Tensor, longest: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Padded values (B, L, *inner), mask bool (B, L) and lengths int64 (B,).

        Args:
            index: int64 (B,).
            longest: L; None means the longest of these examples. Padding is zero.
        """
        lengths = self.lengths(index)
        width = longest if longest is not None else int(lengths.max()) if len(lengths) else 0
        step = torch.arange(width)
        mask = step < lengths.unsqueeze(1)  # (B, L)
        flat = (self.starts[index].unsqueeze(1) + step)[mask]  # (sum of lengths,)
        values = self.steps.take(flat)
        dtype = values.dtype
        values = values.view(SIGNED.get(dtype, dtype))
        padded = values.new_zeros((len(index), width, *values.shape[1:]))
        padded[mask] = values
        return padded.view(dtype), mask, lengths


Column = FixedColumn | VaryingColumn
