"""One's own data: what the three ways in share, and the door that picks one by the path.

Splits: given by folder or file names where those say `train`, `test` or `validation`; else
`test_fraction` of the examples, chosen by a hash, so that the same data split the same way
everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rayloom.core import catalogue
from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset
from rayloom.data.manifest import check_fields, check_name
from rayloom.data.prepare import data_root

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
}
LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class")


def target_folder(name: str, root: str | Path | None, *, force: bool) -> Path:
    """Where an import may write.

    Raises:
        UserError: The name is unfit, belongs to the catalogue, or is taken (and not `force`).
    """
    folder = data_root(root) / check_name(name)
    if name in catalogue.CATALOGUE["datasets"]:
        raise UserError(f"{name!r} is a data set of the catalogue; choose another name")
    if not force and (folder.exists() or folder.is_symlink()):
        raise UserError(f"data set {name!r} is there already in {folder}; --force replaces it")
    return folder


def label_codes(values: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 of names, and the names in order."""
    names, codes = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    return codes.astype(np.int64), tuple(str(name) for name in names)


def check_import(path: Path, fields: Mapping[str, FieldSpec]) -> None:
    """`check_fields`, with the file that the fields come from.

    Raises:
        UserError: A name, shape or number of classes that the store cannot hold.
    """
    try:
        check_fields(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_finite(where: str, values: np.ndarray, rows: np.ndarray | range) -> None:
    """Refuse NaN and infinities: training on them fails late and far from the file.

    Args:
        where: File, and key or column.
        values: `[n, ...]`.
        rows: Number of each of the n rows in the file, for the message.

    Raises:
        UserError: A number is not finite; names the first row.
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    raise UserError(
        f"{where}: row {rows[int(np.argmax(bad))]} holds NaN or infinity; fill or drop such rows "
        "first"
    )


def import_data(
    path: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    columns: Sequence[str] = (),
    vector: Sequence[str] = (),
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of one's own data: a folder of images, `.npy`, `.npz` or Parquet.

    Args:
        path: A folder of images, a folder of Parquet files named after splits, or one file.
        name: Name of the data set; configs then say `data: {name: NAME}`.
        root: Folder of the stores; see `prepare.data_root`.
        size: Images: side length in pixels to crop and scale to.
        columns: Parquet: columns to use; all by default.
        vector: Parquet: numeric columns to be joined into one float32 field `vector`.
        test_fraction: Part of the examples that becomes the split `test` where names say nothing.
        force: Replace a data set of that name.

    Raises:
        UserError: Names the file that cannot be used, and says what would be right.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if suffix in (".parquet", ".pq") or (path.is_dir() and any(path.glob("*.parquet"))):
        from rayloom.data.tables import import_table

        return import_table(
            path,
            name,
            root=root,
            columns=columns,
            vector=vector,
            size=size,
            test_fraction=test_fraction,
            force=force,
        )
    if columns or vector:
        raise UserError(f"{path}: --columns and --vector are for Parquet")
    if path.is_dir():
        from rayloom.data.images import import_images

        return import_images(
            path, name, root=root, size=size, test_fraction=test_fraction, force=force
        )
    if size is not None:
        raise UserError(f"{path}: --size is for images in a folder or in Parquet, not for arrays")
    if suffix in (".npy", ".npz"):
        from rayloom.data.arrays import import_arrays

        return import_arrays(path, name, root=root, test_fraction=test_fraction, force=force)
    raise UserError(
        f"{path}: cannot import {suffix or 'a file without a suffix'}; "
        "what can: a folder of images, .npy, .npz, .parquet"
    )
