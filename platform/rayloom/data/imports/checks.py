"""What every way in asks of one's own data: a free name, classes apart, numbers that train."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rayloom import catalogue
from rayloom.core.errors import UserError
from rayloom.core.fields import IMAGE_RULE, image_fault
from rayloom.core.protocols import FieldSpec
from rayloom.data.names import check_distinct, check_readable, one_form
from rayloom.data.preparation import data_root
from rayloom.data.store.manifest import check_fields, check_name

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
