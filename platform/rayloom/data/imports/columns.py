"""How the columns of Parquet files become fields: planned from schemas, then read in batches."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayloom.core.errors import UserError
from rayloom.core.fields import FEW_CHANNELS, IMAGE_CHANNELS, image_fault
from rayloom.core.protocols import FieldSpec
from rayloom.data.exporting import METADATA, OPTIONS, TOKENIZERS
from rayloom.data.imports.checks import (
    check_classes,
    check_finite,
    check_unit,
)
from rayloom.data.imports.kinds import check_all_used, mask_classes, stored_masks
from rayloom.data.imports.parquet import (
    common_types,
    fits_label,
    is_any_list,
    is_encoded,
    is_list,
    is_number,
    is_text,
    no_nulls,
    read_columns,
    read_rows,
    why_not,
)
from rayloom.data.names import TEXT_NAMES, TOKEN_NAMES, chosen, folded, is_label, one_form
from rayloom.data.store.manifest import FieldInfo, inner_shape, varies
from rayloom.data.store.writer import CHUNK
from rayloom.data.text.tokenizers import Bytes, tokenizer_from

_ROWS = 1024  # rows read at once
_CHANNELS = (*IMAGE_CHANNELS, *FEW_CHANNELS)


class Plan:
    """How the columns of some files become fields."""

    def __init__(
        self,
        files: Mapping[str, Path],
        columns: Sequence[str],
        vector: Sequence[str],
        size: int | None,
        said: Mapping[str, str],
    ) -> None:
        self.size, self.said = size, said
        self.black_white: dict[str, tuple[int, bool]] = {}  # of masks
        self.fields: dict[str, FieldSpec] = {}
        self.classes: dict[str, tuple[str, ...]] = {}
        self.tokenizers: dict[str, dict[str, Any]] = {}
        self.options: dict[str, Any] = {}
        self.readers: dict[str, Any] = {}  # field: function of an Arrow array
        self.paths = list(files.values())
        found = [read_columns(path) for path in self.paths]
        first = found[0]
        have, where = list(first.types), str(self.paths[0])
        self.vector = chosen(vector, have, where, "--vector", "column")
        named = chosen(columns, have, where, "--columns", "column")
        used = [*named, *self.vector] if columns else []
        self.types = common_types(self.paths, found, used)
        self.columns = [n for n in (named or have) if n not in self.vector]
        left = dict.fromkeys(name for each in found for name in each.index)
        self.notes = [f"left out, the index that pandas wrote: {', '.join(left)}"] if left else []
        self.known = self._read_metadata(first.metadata)
        check_all_used(where, said, [one_form(name) for name in self.columns], "column")
        for name in self.columns:
            self._plan_column(name, self.types[name])
            if is_label(name) and not fits_label(self.types[name]):
                self.notes.append(f"{name}: {self.types[name]}, no labels (whole numbers or text)")
        if self.vector:
            if "vector" in self.fields:
                raise UserError(f"{self.paths[0]}: a column is called 'vector' already")
            self.fields["vector"] = FieldSpec((len(self.vector),), "float32", "vector")
        self.tokenizers = {k: v for k, v in self.tokenizers.items() if k in self.fields}

    def _read_metadata(self, metadata: Mapping[bytes, bytes]) -> dict[str, FieldInfo]:
        text = metadata.get(METADATA)
        if text is None:
            return {}
        try:
            self.tokenizers = json.loads(metadata.get(TOKENIZERS, b"{}"))
            self.options = json.loads(metadata.get(OPTIONS, b"{}"))
            for plain in self.tokenizers.values():
                tokenizer_from(plain)
            return {k: FieldInfo.model_validate(v) for k, v in json.loads(text).items()}
        except (ValueError, AttributeError, UserError):
            raise UserError(f"{self.paths[0]}: its rayloom metadata are damaged") from None

    def hint(self) -> str:
        """What to do with columns that cannot be fields: join the numbers, or choose others."""
        numbers = _sayable(name for name in self.columns if is_number(self.types[name]))
        vector = f"--vector {','.join(numbers[:8])} joins columns of numbers" if numbers else ""
        return f"; {vector or '--columns'}{', --columns' if vector else ''} chooses columns"

    def _refuse(self, name: str, why: str) -> UserError:
        return UserError(f"{self.paths[0]}: column {name!r} {why}")

    def _plan_column(self, name: str, kind: pa.DataType) -> None:
        info, said = self.known.get(name), self.said.get(one_form(name))
        storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        labels = said == "label" or (said is None and is_label(name) and fits_label(storage))
        tokens = folded(name) in TOKEN_NAMES and is_list(storage) and info is None
        field = one_form(name)
        if said is None:
            field = "label" if labels else "tokens" if tokens else field
        if field in self.fields:
            raise self._refuse(name, f"means {field!r}, as another does; choose with --columns")
        if info is not None:
            self.fields[field] = FieldSpec(info.shape, info.dtype, info.kind, info.num_classes)
            if info.classes:
                self.classes[field] = info.classes
        elif labels:
            if not fits_label(storage):
                raise self._refuse(name, f"is {kind}; labels are whole numbers or text")
            self.fields[field] = self._plan_label(field, name, storage)
        elif said == "text" or (said is None and is_text(storage) and folded(name) in TEXT_NAMES):
            if not is_text(storage):
                raise self._refuse(name, f"is {kind}, no text")
            self.fields[field] = FieldSpec((-1,), "uint8", "text", 256)
            self.tokenizers[field] = Bytes().plain()
        elif is_encoded(storage) and said in (None, "image"):
            self.fields[field] = self._plan_images(name)
        else:
            spec = FieldSpec(*self._shape(name, kind, storage))
            tokens = tokens and spec.shape == (-1,)
            self.fields[field] = self._as_said(name, spec, said or ("tokens" if tokens else ""))
        self.readers[field] = name

    def _as_said(self, name: str, spec: FieldSpec, said: str) -> FieldSpec:
        """The spec of numbers as the user (or, of tokens, the name) says what they are."""
        if said == "tokens":
            return self._plan_tokens(name, spec)
        if said == "vector":
            return FieldSpec(spec.shape, spec.dtype)
        if said == "image":
            return FieldSpec(spec.shape, spec.dtype, "image")  # `check_import` says if it is none
        if said != "mask":
            return spec
        if len(spec.shape) != 2 or -1 in spec.shape or np.dtype(spec.dtype).kind not in "iub":
            raise self._refuse(
                name, f"is {spec.dtype} {spec.shape}; masks are (H, W), whole numbers"
            )
        parts = [
            np.unique(_flat(_values(batch.column(0))))
            for path in self.paths
            for batch in read_rows(path, [name], _ROWS)
            if batch.num_rows
        ]
        found = mask_classes(self._where(self.paths[0], name), parts)
        self.black_white[one_form(name)] = found
        return FieldSpec(spec.shape, "uint8" if found[0] <= 256 else "int64", "mask", found[0])

    def _shape(
        self, name: str, kind: pa.DataType, storage: pa.DataType
    ) -> tuple[tuple[int, ...], str, str]:
        if isinstance(kind, pa.FixedShapeTensorType):
            shape: tuple[int, ...] = tuple(kind.shape)
            value = kind.value_type
        else:
            shape, value = (), storage
            while is_any_list(value):
                if is_list(value) and shape:
                    raise self._refuse(
                        name,
                        f"is a list of lists ({kind}), whose lengths may differ; store tensors of "
                        "one shape (pyarrow.FixedShapeTensorArray), or flat lists",
                    )
                shape += (-1 if is_list(value) else value.list_size,)
                value = value.value_type
        if pa.types.is_boolean(value):
            dtype = "bool"
        elif pa.types.is_integer(value) or pa.types.is_floating(value):
            dtype = np.dtype(value.to_pandas_dtype()).name
        else:
            others = _sayable(n for n, t in self.types.items() if n != name and _usable(n, t))
            cure = f"; --columns {','.join(others[:8])} leaves it out" if others else ""
            raise self._refuse(name, why_not(value if shape else kind) + cure)
        if not folded(name).startswith("image"):
            image = dtype == "uint8" and not image_fault(shape, dtype) and shape[0] in _CHANNELS
        elif image := len(shape) in (2, 3) and min(shape) > 0:
            if len(shape) == 3 and shape[0] not in _CHANNELS and shape[2] in _CHANNELS:
                raise self._refuse(name, f"is {shape}: the channels of a picture come first")
        return shape, dtype, "image" if image else "vector"

    def _plan_label(self, field: str, name: str, kind: pa.DataType) -> FieldSpec:
        found: set[Any] = {
            one_form(value) if isinstance(value, str) else value
            for path in self.paths
            for batch in read_rows(path, [name], _ROWS)
            for value in pc.unique(batch.column(0)).to_pylist()
        } - {None}
        if not found:
            raise self._refuse(name, "has no values")
        if is_text(kind):
            self.classes[field] = tuple(sorted(found))
            check_classes(self.classes[field], f"{self.paths[0]}: column {name!r}")
            return FieldSpec((), "int64", "label", len(found))
        if min(found) < 0:
            raise self._refuse(name, f"holds the label {min(found)}; labels must be 0 or more")
        return FieldSpec((), "int64", "label", int(max(found)) + 1)

    def _plan_tokens(self, name: str, spec: FieldSpec) -> FieldSpec:
        """Whole numbers from 0 have as many classes as the greatest says."""
        if np.dtype(spec.dtype).kind not in "iu":
            return spec
        least, most = 0, -1
        for path in self.paths:
            for batch in read_rows(path, [name], _ROWS):
                found = pc.min_max(_values(batch.column(0))).as_py()
                least, most = min(least, found["min"] or 0), max(most, found["max"] or 0)
        if least < 0:
            raise self._refuse(name, f"holds the token {least}; tokens must be 0 or more")
        return FieldSpec(spec.shape, spec.dtype, "tokens", int(most) + 1)

    def _plan_images(self, name: str) -> FieldSpec:
        from rayloom.data.imports.images import read_header

        grey, seen = True, None
        for path, row, data in self._encoded(name):
            header = read_header(BytesIO(data), f"{path}: column {name!r}, row {row}")
            grey = grey and header.grey
            now = (header.width, header.height)
            seen = seen or now
            if self.size is None and now != seen:
                raise UserError(
                    f"{path}: column {name!r}, row {row}: {now[0]} x {now[1]} pixels, the first is "
                    f"{seen[0]} x {seen[1]}; give --size N to bring all to N x N"
                )
        if seen is None:
            raise self._refuse(name, "has no rows")
        width, height = (self.size, self.size) if self.size else seen
        return FieldSpec((1 if grey else 3, height, width), "uint8", "image")

    def _encoded(self, name: str) -> Iterator[tuple[Path, int, bytes]]:
        for path in self.paths:
            row = 0
            for batch in read_rows(path, [name], _ROWS):
                for data in _image_bytes(batch.column(0), self._where(path, name), row):
                    yield path, row, data
                    row += 1

    def _where(self, path: Path, name: str) -> str:
        return f"{path}: column {name!r}"

    def batches(self, path: Path) -> Iterator[dict[str, Any]]:
        """Examples of a file, some rows at a time."""
        names = [*self.readers.values(), *self.vector]
        width = sum(abs(math.prod(field.shape)) for field in self.fields.values())
        row = 0
        for batch in read_rows(path, names, max(1, min(_ROWS, CHUNK // width))):
            made = {}
            for field, name in self.readers.items():
                made[field] = self._convert(path, field, name, batch.column(name), row)
            if self.vector:
                made["vector"] = self._join(path, batch, row)
            for field, values in made.items():
                if not isinstance(values, list):
                    rows = range(row, row + batch.num_rows)
                    check_finite(f"{path}: {field!r}", values, rows)
                    if self.fields[field].kind == "image":
                        check_unit(f"{path}: {field!r}", values, rows)
            if batch.num_rows:
                yield made
            row += batch.num_rows

    def _join(self, path: Path, batch: pa.RecordBatch, row: int) -> np.ndarray:
        parts = []
        for name in self.vector:
            array, where = batch.column(name), self._where(path, name)
            if not is_number(array.type):
                raise UserError(f"{where}: is no column of numbers")
            parts.append(no_nulls(array, where, row).to_numpy(zero_copy_only=False))
        return np.stack(parts, 1).astype(np.float32)

    def _convert(self, path: Path, field: str, name: str, array: pa.Array, row: int) -> Any:
        spec, where = self.fields[field], self._where(path, name)
        if is_encoded(array.type):
            from rayloom.data.imports.images import decode

            channels, height, width = spec.shape
            data = _image_bytes(array, where, row)
            return np.stack(
                [
                    decode(BytesIO(d), f"{where}, row {row + k}", (width, height), channels == 1)
                    for k, d in enumerate(data)
                ]
            )
        array = no_nulls(array, where, row)
        if is_text(array.type) and spec.kind == "text":
            return [np.frombuffer(text.encode(), np.uint8) for text in array.to_pylist()]
        if spec.kind == "label" and self.classes.get(field) and not is_number(array.type):
            codes = {name: code for code, name in enumerate(self.classes[field])}
            return np.array([codes[one_form(v)] for v in array.to_pylist()], np.int64)
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        try:
            if field in self.black_white:
                values = _flat(array).reshape(len(array), *spec.shape)
                return stored_masks(values, *self.black_white[field])
            if not varies(spec):
                return _flat(array).astype(spec.dtype).reshape(len(array), *spec.shape)
            starts = np.concatenate([[0], np.cumsum(pc.list_value_length(array).to_numpy())])
            steps = _flat(array.flatten()).astype(spec.dtype)
            steps = steps.reshape(-1, *inner_shape(spec))
        except (ValueError, TypeError, AttributeError, pa.ArrowException) as error:
            raise UserError(f"{where}: does not hold what its metadata say ({error})") from None
        check_finite(where, steps, np.repeat(np.arange(row, row + len(array)), np.diff(starts)))
        return [steps[a:b] for a, b in itertools.pairwise(starts.tolist())]


def _flat(array: pa.Array) -> np.ndarray:
    while pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _values(array: pa.Array) -> pa.Array:
    """The values of lists, without the lists."""
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    while is_any_list(array.type):
        array = array.flatten()
    return array


def _sayable(names: Iterable[str]) -> list[str]:
    """Names that a flag of names with commas between them can hold."""
    return [name for name in names if name and "," not in name]


def _usable(name: str, kind: pa.DataType) -> bool:
    """Whether a column could be a field, by its type."""
    while is_any_list(kind):
        kind = kind.value_type
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return (
        is_number(kind)
        or is_any_list(kind)
        or is_encoded(kind)
        or (is_label(name) and is_text(kind))
    )


def _image_bytes(array: pa.Array, where: str, row: int) -> list[bytes]:
    if pa.types.is_struct(array.type):
        array = array.field("bytes")
    return list(no_nulls(array, where, row).to_pylist())
