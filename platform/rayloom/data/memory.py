"""Data sets made of arrays in memory: what `from_arrays` stands on."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.names import TOKEN_NAMES
from rayloom.data.split import Split
from rayloom.data.store.columns import Column, FixedColumn, ResidentRows, VaryingColumn
from rayloom.data.store.manifest import (
    ColumnInfo,
    FieldInfo,
    Manifest,
    SplitInfo,
    fingerprint,
    inner_shape,
    plain_sha256,
    varies,
)
from rayloom.data.store.writer import column_sha256

Values = np.ndarray | Tensor | Sequence[np.ndarray]


def infer_fields(splits: Mapping[str, Mapping[str, Values]]) -> dict[str, FieldSpec]:
    """Field specs from the arrays of the first split; class counts from all of them."""
    if not splits:
        raise UserError("a data set needs at least one split")
    first = next(iter(splits.values()))
    return {
        key: _infer(key, [split[key] for split in splits.values() if key in split]) for key in first
    }


def _infer(key: str, values: Sequence[Values]) -> FieldSpec:
    value = values[0]
    if not isinstance(value, np.ndarray | Tensor):
        part = np.asarray(value[0])
        return FieldSpec((-1, *part.shape[1:]), part.dtype.name, "vector")
    array = _numpy(value)
    shape, dtype = array.shape[1:], array.dtype.name
    if dtype == "uint8" and len(shape) == 3:
        return FieldSpec(shape, dtype, "image")
    if array.dtype.kind in "iu" and not shape and key.startswith("label"):
        top = max(int(_numpy(v).max()) for v in values if len(v))
        return FieldSpec(shape, dtype, "label", top + 1)
    if array.dtype.kind in "iu" and len(shape) == 2 and key == "mask":
        top = max(int(_numpy(v).max()) for v in values if len(v))
        return FieldSpec(shape, dtype, "mask", top + 1)
    if array.dtype.kind in "iu" and len(shape) == 1 and key in TOKEN_NAMES:
        top = max(int(_numpy(v).max()) for v in values if len(v))
        return FieldSpec(shape, dtype, "tokens", top + 1)
    return FieldSpec(shape, dtype, "vector")


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def arrays_to_columns(
    name: str,
    splits: Mapping[str, Mapping[str, Values]],
    fields: Mapping[str, FieldSpec],
    tokenizers: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Splits, fingerprint and manifest of arrays in memory, the same as a store of them has."""
    made, infos = {}, {}
    for split, values in splits.items():
        if values.keys() != fields.keys():
            raise UserError(f"split {split!r} has fields {sorted(values)}, not {sorted(fields)}")
        counts = {key: len(value) for key, value in values.items()}
        rows = next(iter(counts.values()))
        if set(counts.values()) != {rows} or rows == 0:
            raise UserError(f"split {split!r}: numbers of examples by field: {counts}")
        columns: dict[str, Column] = {}
        hashes: dict[str, ColumnInfo] = {}
        for key, field in fields.items():
            columns[key], sha256 = _column(f"{split}/{key}", values[key], field)
            hashes[key] = ColumnInfo(offset=0, num_bytes=0, starts=None, sha256=sha256)
        made[split] = Split(split, columns, rows)
        infos[split] = SplitInfo(rows=rows, num_bytes=1, sha256="0" * 64, columns=hashes)
    kept = {
        key: FieldInfo(
            shape=field.shape,
            dtype=field.dtype,
            kind=field.kind,
            num_classes=field.num_classes,
            classes=field.classes,
        )
        for key, field in fields.items()
    }
    known = {key: plain_sha256(plain) for key, plain in tokenizers.items()}
    digest = fingerprint(kept, infos, known)
    manifest = Manifest(
        name=name, source="memory", fields=kept, splits=infos, tokenizers=known, fingerprint=digest
    ).model_dump(mode="json")
    return made, digest, manifest


def _column(place: str, value: Values, field: FieldSpec) -> tuple[Column, str]:
    if not varies(field):
        array = np.ascontiguousarray(_numpy(value))
        _check(place, array, field)
        return FixedColumn(ResidentRows(torch.from_numpy(array.copy()))), _hash(array)
    parts = [np.asarray(part) for part in value]
    for part in parts:
        _check(place, part, field)
    steps = np.concatenate(parts)
    lengths = np.array([len(part) for part in parts], np.int64)
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    column = VaryingColumn(ResidentRows(torch.from_numpy(steps)), starts)
    return column, column_sha256(lengths, _hash(steps))


def _check(place: str, array: np.ndarray, field: FieldSpec) -> None:
    if array.dtype != np.dtype(field.dtype) or array.shape[1:] != inner_shape(field):
        raise UserError(
            f"{place}: {array.dtype} {array.shape[1:]} per row, "
            f"the spec says {field.dtype} {inner_shape(field)}"
        )


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
