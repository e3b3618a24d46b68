"""Mean and deviation of the rows of a split, in one pass, and kept beside the store.

Dimension key: B rows looked at together, C components of a field, P values of a row per component.

Of whole numbers of up to 16 bits the sums are exact; of others they are joined chunk by chunk
(Chan, Golub and LeVeque, 1983) in float64. Chunks depend on the split alone, so that every machine
gets the same numbers.
"""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayloom.core.fields import NUMBERS
from rayloom.core.protocols import FieldSpec
from rayloom.core.statistics import FieldStatistics
from rayloom.data.split import Rows
from rayloom.data.store.manifest import inner_shape, varies

FILE = ".statistics.json"
CHUNK = 1 << 20  # values looked at together
_EXACT = ("bool", "uint8", "int8", "uint16", "int16")


def has_statistics(field: FieldSpec) -> bool:
    """Whether mean and deviation of a field mean something: not of classes and text."""
    return field.kind in NUMBERS and not field.num_classes


def field_statistics(split: Rows, name: str, field: FieldSpec) -> FieldStatistics:
    """Mean and deviation of a field over some rows.

    Args:
        split: The rows.
        name: Of the field.
        field: Its spec, as stored: pieces have the statistics of their steps.
    """
    total = len(split)
    sums: _Exact | _Joined = _Exact() if field.dtype in _EXACT else _Joined()
    start = 0
    while start < total:
        stop = _chunk_end(split, name, field, start, total)
        rows = split.take(torch.arange(start, stop), fields=(name,))
        sums.add(_components(rows, name, field))
        start = stop
    return sums.result()


def _chunk_end(split: Rows, name: str, field: FieldSpec, start: int, total: int) -> int:
    """One past the last row of the chunk: some rows, or as many short examples as fit in it."""
    inner = max(1, math.prod(inner_shape(field)))
    if not varies(field):
        return min(total, start + max(1, CHUNK // inner))
    most = torch.arange(start, min(total, start + 1024))
    lengths = split.lengths(name, most)
    padded = lengths.cummax(0).values * torch.arange(1, len(most) + 1) * inner
    return start + max(1, int((padded <= CHUNK).sum()))


def _components(rows: dict[str, Tensor], name: str, field: FieldSpec) -> Tensor:
    """float64 (C, values)."""
    values = rows[name]
    if varies(field):
        mask = rows.get(f"{name}_mask")  # windows have none: all their steps are there
        values = values.double()[mask] if mask is not None else values.double().flatten(0, 1)
        return values.reshape(len(values), math.prod(inner_shape(field))).T
    values = values.double()
    if field.kind == "image":
        return values.movedim(1, 0).reshape(values.shape[1], -1)  # (C, B * P)
    return values.reshape(len(values), -1).T


class _Exact:
    """Sums of small whole numbers: float64 holds those of a chunk exactly, Python the rest."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[int] = []
        self.squares: list[int] = []

    def add(self, values: Tensor) -> None:
        sums, squares = values.sum(1).tolist(), (values * values).sum(1).tolist()
        if not self.sums:
            self.sums, self.squares = [0] * len(sums), [0] * len(sums)
        self.count += values.shape[1]
        self.sums = [a + int(b) for a, b in zip(self.sums, sums, strict=True)]
        self.squares = [a + int(b) for a, b in zip(self.squares, squares, strict=True)]

    def result(self) -> FieldStatistics:
        n = max(1, self.count)
        pairs = zip(self.sums, self.squares, strict=True)
        std = tuple(math.sqrt(n * square - sum_ * sum_) / n for sum_, square in pairs)
        return FieldStatistics(tuple(sum_ / n for sum_ in self.sums), std, self.count)


class _Joined:
    """Mean and sum of squared distances, chunk joined to chunk."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.spread = torch.zeros(0, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        count = values.shape[1]
        if not count:
            return
        mean = values.mean(1)
        spread = ((values - mean.unsqueeze(1)) ** 2).sum(1)
        if self.count:
            total, apart = self.count + count, mean - self.mean
            spread = self.spread + spread + apart**2 * (self.count * count / total)
            mean = self.mean + apart * (count / total)
        self.mean, self.spread, self.count = mean, spread, self.count + count

    def result(self) -> FieldStatistics:
        std = (self.spread / max(1, self.count)).sqrt()
        return FieldStatistics(tuple(self.mean.tolist()), tuple(std.tolist()), self.count)


class Cache:
    """Statistics that were computed before, in a file of the store.

    Args:
        folder: Of the store.
        rows: Which rows they are of: the store's fingerprint and what is in use of it.
    """

    def __init__(self, folder: Path, rows: str) -> None:
        self.folder, self.rows = folder, rows

    def _read(self) -> dict[str, Any]:
        try:
            tree = json.loads((self.folder / FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        return tree if isinstance(tree, dict) else {}

    def get(self, name: str) -> FieldStatistics | None:
        """Those of a field, or None; what is no such thing is as if it were not there."""
        try:
            return FieldStatistics.from_plain(self._read()[self.rows][name])
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, name: str, found: FieldStatistics) -> None:
        """Keep those of a field, by renaming a complete file; a store of others stays as it is."""
        tree = self._read()
        known = tree.get(self.rows)
        tree[self.rows] = {**(known if isinstance(known, dict) else {}), name: found.plain()}
        try:
            handle, temporary = tempfile.mkstemp(prefix=FILE, dir=self.folder)
        except OSError:
            return
        with os.fdopen(handle, "w") as file:
            json.dump(tree, file)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(self.folder / FILE)
