"""Parquet into a store.

A file, or a folder of files named after splits (`train.parquet`, `test.parquet`). Numbers are
scalars, fixed-size lists and tensors vectors, other lists varying fields; binary columns and
`{bytes, path}` structs hold encoded images; text is a label, or text by its name. What
`export_parquet` wrote comes back the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rayloom.core.errors import UserError
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.imports.checks import (
    check_import,
    target_folder,
)
from rayloom.data.imports.columns import Plan
from rayloom.data.imports.parquet import (
    files_by_split,
)
from rayloom.data.ordering import num_test, row_hash
from rayloom.data.preparation import store_lock
from rayloom.data.store.writer import StoreWriter


def import_table(
    path: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    columns: Sequence[str] = (),
    vector: Sequence[str] = (),
    size: int | None = None,
    said: Mapping[str, str] | None = None,
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of Parquet files, in bounded memory. The order is the table's.

    Args:
        path: A file, or a folder of files named after splits.
        name: Name of the data set.
        root: Folder of the stores.
        columns: Columns to use; all by default.
        vector: Numeric columns to be joined into one float32 field `vector`.
        size: Encoded images: side length to crop and scale to.
        said: Kind by column, as `--field` gives it.
        test_fraction: Part that becomes `test` of a single file, chosen by a hash.
        force: Replace a data set of that name.

    Raises:
        UserError: Not Parquet, missing values, a type that cannot be kept; names file and column.
    """
    path = Path(path).expanduser().absolute()
    target = target_folder(name, root, force=force)
    if size is not None:
        from rayloom.data.imports.images import check_size

        check_size(size)
    files = files_by_split(path)
    plan = Plan(files, columns, vector, size, said or {})
    check_import(path, plan.fields, hint=plan.hint())
    with (
        store_lock(target),
        StoreWriter(
            target,
            plan.fields,
            source=f"Parquet {path}",
            description="table",
            classes=plan.classes,
            tokenizers=plan.tokenizers,
            options=plan.options,
        ) as writer,
    ):
        for split, file in files.items():
            total = pq.read_metadata(file).num_rows
            if not total:
                raise UserError(f"{file}: has no rows")
            test = _test_rows(total, test_fraction) if split == "" else np.zeros(0, bool)
            start = 0
            for batch in plan.batches(file):
                rows = len(next(iter(batch.values())))
                if split:
                    writer.add(split, batch)
                else:
                    chosen = test[start : start + rows]
                    _add_where(writer, "train", batch, ~chosen)
                    _add_where(writer, "test", batch, chosen)
                start += rows
    made = open_store(target)
    made.notes = tuple(plan.notes)
    return made


def _test_rows(total: int, fraction: float) -> np.ndarray:
    """Bool (total,), the rows that become the test split."""
    chosen = np.zeros(total, bool)
    chosen[np.argsort(row_hash(total), kind="stable")[: num_test(total, fraction)]] = True
    return chosen


def _add_where(
    writer: StoreWriter, split: str, batch: Mapping[str, Any], chosen: np.ndarray
) -> None:
    if not chosen.any():
        return
    rows = np.flatnonzero(chosen)
    writer.add(
        split,
        {k: [v[r] for r in rows] if isinstance(v, list) else v[rows] for k, v in batch.items()},
    )
