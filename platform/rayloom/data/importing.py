"""One's own data: what the three ways in share, and the door that picks one by the path.

Splits: given by folder or file names where those say `train`, `test` or `validation`; else
`test_fraction` of the examples, chosen by a hash, so that the same data split the same way
everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rayloom import catalogue
from rayloom.core.errors import UserError
from rayloom.core.fields import IMAGE_RULE, image_fault
from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset
from rayloom.data.manifest import check_fields, check_name
from rayloom.data.names import check_distinct, check_readable, listed, one_form
from rayloom.data.prepare import data_root

PARQUET = (".parquet", ".pq")


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


def label_codes(values: Sequence[str], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 of names, and the names in order, in one Unicode form.

    Raises:
        UserError: Two names look the same; says `where`.
    """
    names, codes = np.unique(
        np.asarray(list(map(one_form, values)), dtype=str), return_inverse=True
    )
    check_classes(names.tolist(), where)
    return codes.astype(np.int64), tuple(str(name) for name in names)


def check_classes(names: Sequence[str], where: str) -> None:
    """Names of classes can be told apart.

    Raises:
        UserError: Two look the same, or one cannot be printed.
    """
    check_distinct(names, where, "classes")
    for name in names:
        check_readable(name, where)


def check_import(path: Path, fields: Mapping[str, FieldSpec], *, hint: str = "") -> None:
    """`check_fields` and the rule of pictures, with the file that the fields come from.

    Args:
        path: The file or folder.
        fields: What it would become.
        hint: What else the user can do, to be added to the message.

    Raises:
        UserError: A name, shape or number of classes that the store cannot hold.
    """
    try:
        check_fields(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}{hint}") from None
    for name, field in fields.items():
        fault = image_fault(field.shape, field.dtype) if field.kind == "image" else ""
        if fault:
            raise UserError(f"{path}: {name!r} cannot be pictures: {fault}; {IMAGE_RULE}{hint}")


def check_unit(where: str, values: np.ndarray, rows: np.ndarray | range) -> None:
    """Floating pictures lie in [0, 1].

    Args:
        where: File, and key or column.
        values: `[n, C, H, W]`, finite.
        rows: Number of each of the n rows in the file, for the message.

    Raises:
        UserError: One does not; names the first row.
    """
    if values.dtype.kind != "f" or not len(values) or (values.min() >= 0 and values.max() <= 1):
        return
    flat = values.reshape(len(values), -1)
    row = int(np.argmax((flat.min(1) < 0) | (flat.max(1) > 1)))
    raise UserError(
        f"{where}: row {rows[row]} reaches from {flat[row].min():.4g} to {flat[row].max():.4g}; "
        f"{IMAGE_RULE}: rescale it"
    )


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
    keys: Sequence[str] = (),
    layout: str = "auto",
    kind: str = "auto",
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
        keys: `.npz`: arrays to use; all by default.
        layout: Arrays: where the channels of pictures are: `chw`, `hwc`, or `auto`.
        kind: Arrays: what they hold: `image`, `vector`, or `auto`.
        test_fraction: Part of the examples that becomes the split `test` where names say nothing.
        force: Replace a data set of that name.

    Raises:
        UserError: Names the file that cannot be used, and says what would be right.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    arrays = path.is_file() and suffix in (".npy", ".npz")
    table = _is_table(path)
    flags = [
        ("--columns and --vector", columns or vector, table, "Parquet"),
        ("--keys", keys, arrays and suffix == ".npz", ".npz"),
        ("--layout and --kind", (layout, kind) != ("auto", "auto"), arrays, ".npy and .npz"),
        (
            "--size",
            size is not None,
            not arrays,
            "images in a folder or in Parquet, not for arrays",
        ),
    ]
    for flag, given, fits, what in flags:
        if given and not fits:
            raise UserError(f"{path}: {flag}: for {what}")
    if table:
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
    if path.is_dir():
        from rayloom.data.images import import_images

        return import_images(
            path, name, root=root, size=size, test_fraction=test_fraction, force=force
        )
    if arrays:
        from rayloom.data.arrays import import_arrays

        return import_arrays(
            path,
            name,
            root=root,
            keys=keys,
            layout=layout,
            kind=kind,
            test_fraction=test_fraction,
            force=force,
        )
    hint = ""
    if suffix in (".csv", ".tsv"):
        hint = '; pandas turns it into Parquet: pandas.read_csv("in.csv").to_parquet("out.parquet")'
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        hint = "; unpack it first"
    raise UserError(
        f"{path}: cannot import {suffix or 'a file without a suffix'}; "
        f"what can: a folder of images, .npy, .npz, .parquet{hint}"
    )


def _is_table(path: Path) -> bool:
    """Whether it is a Parquet file, or a folder of such and of nothing else that could be meant."""
    if not path.is_dir():
        return path.suffix.lower() in PARQUET
    from rayloom.data.layout import SUFFIXES

    by_kind: dict[str, list[str]] = {}
    for file in sorted(path.iterdir()):
        suffix = file.suffix.lower()
        known = "table" if suffix in PARQUET else "picture" if suffix in SUFFIXES else ""
        if known and not file.name.startswith("."):
            by_kind.setdefault(known, []).append(file.name)
    if len(by_kind) == 2:
        raise UserError(
            f"{path}: holds Parquet ({listed(by_kind['table'], 3)}) and pictures "
            f"({listed(by_kind['picture'], 3)}); give each a folder of its own"
        )
    return "table" in by_kind
