"""Rows for an operation: `test:0..15`, `digits:test`, a file, or arrays; checked against the data.

SPLIT[:RANGE]             of the data set that the run was trained on
DATASET[:SPLIT[:RANGE]]   of another one (SPLIT: test, else its first)
PATH                      a picture, a folder of pictures, arrays, a table; where a split
                              or a data set has the name of a folder, that is ./NAME
RANGE                     7 or 0..15, both ends included
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayloom.config.sections import DataConfig, RunConfig
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.protocols import Batch, DataSpec, FieldSpec, parameters_sha256
from rayloom_pipelines.load.fields import fit, wanted_field
from rayloom_pipelines.load.row_files import ARRAYS, PICTURES, TABLES, read_file

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?\Z")


def read_rows(
    source: Any, names: tuple[str, ...], spec: DataSpec, config: RunConfig, *, where: str
) -> Batch:
    """Rows of some fields.

    Args:
        source: A word as above; an array or tensor, of the first field; or a mapping of arrays.
        names: The fields that are wanted; a source without one of them is refused.
        spec: The data that the model was built for.
        config: Of the run, for its data set.
        where: What messages call the source.

    Raises:
        UserError: There is no such source, or its rows do not fit the model's data.
    """
    fields = {name: wanted_field(spec, name) for name in names}
    if isinstance(source, Mapping):
        held: Mapping[str, Any] = {name: source[name] for name in names if name in source}
    elif isinstance(source, str | os.PathLike):
        held = _from_word(os.fspath(source), fields, config, where)
    else:
        held = {names[0]: source}
    missing = [name for name in names if name not in held]
    if missing:
        raise UserError(f"{where} has no field {missing[0]!r}; wanted: {', '.join(names)}")
    rows = {name: fit(held[name], fields[name], f"{where}: {name}") for name in names}
    for name in names:
        for beside in (f"{name}_length", f"{name}_mask"):
            if beside in held:
                rows[beside] = torch.as_tensor(held[beside])
    counts = {name: len(value) for name, value in rows.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{where}: the fields have different numbers of rows: {counts}")
    if not next(iter(counts.values())):
        raise UserError(f"{where} has no rows")
    return rows


def _from_word(
    word: str, fields: Mapping[str, FieldSpec], config: RunConfig, where: str
) -> Mapping[str, Any]:
    path, parts = Path(word), word.split(":")
    if "/" in word or path.suffix.lower() in (*PICTURES, *ARRAYS, *TABLES):
        if not path.exists():
            raise UserError(f"{where}: there is no file {word}")
        return read_file(path, fields)
    dataset = _dataset(parts, config, where)
    if dataset is None:  # a folder of this name, and no split
        return read_file(path, fields)
    split = dataset.split(parts[0])
    if len(parts) > 2:
        raise UserError(
            f"{where}: {word!r} is none of SPLIT[:RANGE], DATASET[:SPLIT[:RANGE]], PATH"
        )
    first, last = 0, len(split) - 1
    if len(parts) == 2:
        found = _RANGE.match(parts[1])
        if found is None:
            raise UserError(f"{where}: {parts[1]!r} is no range; say 7 or 0..15")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < len(split):
            raise UserError(
                f"{where}: {parts[1]} leaves the split {parts[0]!r}, whose rows are 0.."
                f"{len(split) - 1}"
            )
    return split.take(torch.arange(first, last + 1))


def _dataset(parts: list[str], config: RunConfig, where: str) -> Any:
    """The data set that the parts of a word name; what is left of them is the split and a range.

    None where there is neither split nor data set of that name, but a file or folder.
    """
    from rayloom.data import open_dataset
    from rayloom.data.preparation import is_known

    assert config.data is not None
    name, own = parts[0], config.data
    if re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) and is_known(name, own.root):
        dataset = open_dataset(own if name == own.name else DataConfig(name=name, root=own.root))
        del parts[0]
        parts[:] = parts or ["test" if "test" in dataset.splits else dataset.splits[0]]
        return dataset
    dataset = open_dataset(own)
    if name not in dataset.splits:
        if Path(":".join(parts)).exists():
            return None
        splits = ", ".join(dataset.splits)
        raise UserError(
            f"{where}: {name!r} is no split of {own.name!r} ({splits}), no data set "
            f"(`rayloom list datasets`) and no file{did_you_mean(name, dataset.splits)}"
        )
    return dataset


def shown(value: Any) -> Any:
    """A word as it is; of arrays their hash, so that a side-car tells them apart."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and all(
        isinstance(item, str | int | float) for item in value
    ):
        return list(value)
    if isinstance(value, Mapping):
        return {name: shown(inner) for name, inner in value.items()}
    if hasattr(value, "__fspath__"):
        return str(value)
    tensor = torch.as_tensor(value)
    return f"{tuple(tensor.shape)} {parameters_sha256({'': tensor})[:16]}"
