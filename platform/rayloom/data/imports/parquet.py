"""Parquet files as others write them: which columns there are, of which plain types, and rows.

Types that mean the same are one: `large_string` and `string`, `large_list` and `list`, a
dictionary (pandas' categorical) and what it holds. Columns are known by name, in any order; the
unnamed index that pandas adds is left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayloom.core.errors import UserError
from rayloom.data.imports.checks import PARQUET
from rayloom.data.names import (
    SPLIT_NAMES,
    check_distinct,
    is_label,
    listed,
    split_of,
)

_INDEX = re.compile(r"__index_level_\d+__")  # pandas' own name of an index without a name


@dataclass(frozen=True)
class Columns:
    """Columns of one file.

    Attributes:
        types: Plain type by name, in the file's order; without pandas' unnamed index.
        index: Names of the columns that were left out for being such.
        metadata: The schema's.
    """

    types: Mapping[str, pa.DataType]
    index: tuple[str, ...]
    metadata: Mapping[bytes, bytes]


def files_by_split(path: Path) -> dict[str, Path]:
    """Files by split; split "" for a single file.

    Raises:
        UserError: There are none, or a name says no split.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        return {"": path}
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in PARQUET or file.name.startswith("."):
            continue
        split = split_of(file.stem)
        if split is None or split in found:
            also = f" ({found[split].name} is {split!r} already)" if split else ""
            raise UserError(
                f"{file}: in a folder, each file is one split: train.parquet, test.parquet, "
                f"validation.parquet{also}"
            )
        found[split] = file
    if not found:
        raise UserError(f"{path}: no .parquet files in it")
    return {split: found[split] for split in dict.fromkeys(SPLIT_NAMES.values()) if split in found}


def read_columns(path: Path) -> Columns:
    """Names and plain types of a file's columns.

    Raises:
        UserError: No Parquet file, or two columns of one name.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: cannot be read as Parquet ({text})") from None
    check_distinct(schema.names, str(path), "columns")
    index = tuple(name for name in schema.names if _INDEX.fullmatch(name))
    types = {field.name: plain(field.type, field.name) for field in schema}
    types = {name: kind for name, kind in types.items() if name not in index}
    return Columns(types, index, schema.metadata or {})


def plain(kind: pa.DataType, name: str = "") -> pa.DataType:
    """The type without what only says how it is stored; labels in lists of one are labels."""
    if pa.types.is_fixed_size_list(kind) and kind.list_size == 1:
        inside = plain(kind.value_type)
        if is_label(name) and fits_label(inside):
            return inside
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if is_text(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type), kind.list_size)
    return kind


def common_types(
    paths: Sequence[Path], columns: Sequence[Columns], used: Sequence[str]
) -> dict[str, pa.DataType]:
    """Types of the columns that are used, the same in every file; of whole numbers the widest.

    Args:
        paths: The files.
        columns: Of each.
        used: Columns to use; none means all, which must be the same in every file.

    Raises:
        UserError: A column is missing or of another type; names it and both files.
    """
    first_path, types = paths[0], dict(columns[0].types)
    for path, other in zip(paths[1:], columns[1:], strict=True):
        missing = [n for n in used or types if n not in other.types]
        extra = [] if used else [n for n in other.types if n not in types]
        if missing or extra:
            words = [f"lacks {listed(map(repr, missing))}"] if missing else []
            words += [f"has {listed(map(repr, extra))} beside"] if extra else []
            raise UserError(
                f"{path}: has other columns than {first_path}: it {' and '.join(words)}; "
                "--columns takes those that both have"
            )
        for name in used or types:
            joined = _joined(types[name], other.types[name])
            if joined is None:
                raise UserError(
                    f"{path}: column {name!r} is {other.types[name]} here and {types[name]} in "
                    f"{first_path}; store the same type in both"
                )
            types[name] = joined
    return types


def _joined(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """A type that holds what both hold, or None."""
    if a.equals(b):
        return a
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        both = np.result_type(a.to_pandas_dtype(), b.to_pandas_dtype())
        return pa.from_numpy_dtype(both) if both.kind in "iu" else None
    return None


def read_rows(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Some rows at a time, of plain types; pages that carry a checksum are checked.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(rows, columns=list(columns)):
                yield pa.record_batch(
                    {
                        name: _plain_array(name, batch.column(batch.schema.get_field_index(name)))
                        for name in columns
                    }
                )
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: is damaged ({text})") from None


def _plain_array(name: str, array: pa.Array) -> pa.Array:
    kind = plain(array.type, name)
    if pa.types.is_fixed_size_list(array.type) and not pa.types.is_fixed_size_list(kind):
        array = pc.list_element(array, 0)  # keeps what is missing
    return array if kind.equals(array.type) else array.cast(kind)


def no_nulls(array: pa.Array, where: str, row: int) -> pa.Array:
    """The array, if it has no missing values, nor in its lists.

    Args:
        array: Values of one column.
        where: File and column, for the message.
        row: Number of the first row in the file.

    Raises:
        UserError: One is missing; names the first row.
    """
    if isinstance(array, pa.ExtensionArray):
        no_nulls(array.storage, where, row)
        return array
    count, first = array.null_count, np.arange(len(array))
    inner, inside = array, ""
    while not count and is_any_list(inner.type):
        lengths = pc.list_value_length(inner).to_numpy(zero_copy_only=False)
        first = np.repeat(first, lengths)
        inner, inside = inner.flatten(), " inside its lists"
        count = inner.null_count
    if count:
        place = row + int(first[pc.index(pc.is_null(inner), True).as_py()])
        raise UserError(
            f"{where}: {count} missing values{inside}, the first in row {place}; fill or drop "
            "such rows first"
        )
    return array


def is_number(kind: pa.DataType) -> bool:
    """Whether it is a number or a boolean."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def fits_label(kind: pa.DataType) -> bool:
    """Whether values of this type can be labels."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind)) or is_text(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list whose length may vary."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_any_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any kind."""
    return is_list(kind) or bool(pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_encoded(kind: pa.DataType) -> bool:
    """Whether it may hold encoded images: bytes, or a struct with such."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_encoded(kind.field(index).type)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def why_not(kind: pa.DataType) -> str:
    """Why a column of this type becomes no field, and what would."""
    start = f"is of type {kind}, which is neither numbers nor images"
    if is_text(kind):
        return (
            f"{start}; text is a label in a column called label, y, target or class, and kept as "
            "text in one called text, caption or prompt, or by --field NAME=text"
        )
    if pa.types.is_null(kind):
        return "holds missing values only"
    if pa.types.is_temporal(kind):
        return f"{start}; turn times into numbers"
    if pa.types.is_decimal(kind):
        return f"{start}; store it as float64"
    return start
