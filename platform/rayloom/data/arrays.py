"""`.npy` and `.npz` files into a store. Pickled arrays are refused: loading one can run code.

Names: `image(s)` or `x` of uint8 become `image` (C, H, W); `label(s)`, `y`, `target(s)` become
`label`. In an `.npz`, keys such as `train_images` or `y_test` say the split.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.columns import read_rows
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.importing import (
    LABEL_NAMES,
    SPLIT_NAMES,
    check_finite,
    check_import,
    label_codes,
    target_folder,
)
from rayloom.data.manifest import DTYPES
from rayloom.data.ordering import row_hash, split_order
from rayloom.data.prepare import store_lock
from rayloom.data.residency import available_memory
from rayloom.data.store import CHUNK, StoreWriter

_CHANNELS = ((1, 3), (4,))  # likelier ones first
_SPLITS = "|".join(SPLIT_NAMES)
_MAGIC = b"\x93NUMPY"
_KEY = re.compile(rf"(?:(?P<a>{_SPLITS})_(?P<x>.+)|(?P<y>.+)_(?P<b>{_SPLITS}))", re.IGNORECASE)


def import_arrays(
    path: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    layout: str = "auto",
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of the arrays in a `.npy` or `.npz` file; the first axis counts examples.

    Args:
        path: The file.
        name: Name of the data set.
        root: Folder of the stores.
        layout: Of images with channels: `chw`, `hwc`, or `auto` where the shape tells.
        test_fraction: Part that becomes `test` where no key says which; order by a hash.
        force: Replace a data set of that name.

    Raises:
        UserError: Not such a file, pickled, ambiguous or unfit arrays; names file and key.
    """
    path = Path(path).expanduser().absolute()
    if layout not in ("auto", "chw", "hwc"):
        raise UserError(f"layout is {layout!r}; it must be auto, chw or hwc")
    target = target_folder(name, root, force=force)
    arrays = load_arrays(path)
    splits = {
        split: {key: _prepare(path, key, value, layout) for key, value in values.items()}
        for split, values in _by_split(path, arrays).items()
    }
    fields, classes = _fields(path, splits)
    check_import(path, fields)
    with (
        store_lock(target),
        StoreWriter(
            target, fields, source=f"file {path}", description="arrays", classes=classes
        ) as writer,
    ):
        if splits.keys() == {""}:
            rows = len(next(iter(splits[""].values())))
            order = np.argsort(row_hash(rows), kind="stable")
            for split, chosen in split_order(order, test_fraction).items():
                _write(writer, split, splits[""], chosen, fields, path)
        else:
            for split, values in splits.items():
                everything = np.arange(len(next(iter(values.values()))))
                _write(writer, split, values, everything, fields, path)
    return open_store(target)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a `.npy` (key "") or `.npz` file; a `.npy` is memory-mapped.

    Raises:
        UserError: Not such a file, damaged, pickled, or larger than memory.
    """
    try:
        if path.suffix.lower() == ".npy":
            return {"": _load_npy(path)}
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > available_memory() // 2:
            raise UserError(f"{path}: unpacks to {size} bytes, too many for the memory here")
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickle" in str(error).lower():
            raise UserError(
                f"{path}: holds pickled objects, which are refused (loading them can run code); "
                "save plain numeric arrays"
            ) from None
        raise UserError(f"{path}: cannot be read ({str(error)[:100]})") from None
    except (
        *(OSError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError),
        *(SyntaxError, RecursionError, OverflowError),
    ) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    if not found:
        raise UserError(f"{path}: holds no arrays")
    for key, value in found.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: its member {key!r} is no array; leave it out")
    return found


def _load_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UserError(
                f"{path}: is no .npy file; nor are pickled objects taken, because loading them "
                "can run code"
            )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" in str(error):  # not a word of pickle: memory mapping says no first
            raise ValueError("allow_pickle") from None
        if "mmap length" in str(error):
            raise UserError(f"{path}: is cut short: its header promises more") from None
        raise


def _by_split(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by split and key; split "" if no key says one."""
    matches = {key: _KEY.fullmatch(key) for key in arrays}
    if not any(matches.values()):
        return {"": dict(arrays)}
    splits: dict[str, dict[str, np.ndarray]] = {}
    for key, match in matches.items():
        if match is None:
            raise UserError(f"{path}: key {key!r} says no split, others do (such as train_images)")
        split = SPLIT_NAMES[(match["a"] or match["b"]).lower()]
        splits.setdefault(split, {})[match["x"] or match["y"]] = arrays[key]
    return splits


def _prepare(path: Path, key: str, array: np.ndarray, layout: str) -> np.ndarray:
    """The array with images as [n, C, H, W]; a view."""
    where = f"{path}{f' ({key})' if key else ''}"
    if array.ndim == 0 or len(array) == 0:
        raise UserError(f"{where}: has no examples (shape {array.shape})")
    if array.dtype.kind not in "U" and array.dtype.name not in DTYPES:
        raise UserError(f"{where}: dtype {array.dtype} cannot be kept; use {', '.join(DTYPES)}")
    if array.dtype != np.uint8 or not _is_image_name(key) or array.ndim not in (3, 4):
        return array
    if array.ndim == 3:
        return array[:, None]
    if layout == "auto":
        found = [
            [place for place in (1, 3) if array.shape[place] in likely] for likely in _CHANNELS
        ]
        places = found[0] or found[1]
        if len(places) != 1:
            raise UserError(
                f"{where}: shape {array.shape} does not tell where the channels are; say layout "
                "chw or hwc (rayloom.data.arrays.import_arrays)"
            )
        layout = "hwc" if places == [3] else "chw"
    return array.transpose(0, 3, 1, 2) if layout == "hwc" else array


def _is_image_name(key: str) -> bool:
    return key in ("", "x", "data") or key.startswith("image")


def _canonical(key: str, array: np.ndarray) -> str:
    """The field's name for a key."""
    if key in LABEL_NAMES and array.ndim == 1 and array.dtype.kind in "iuUb":
        return "label"
    if key in ("", "x", "data", "images") and array.dtype == np.uint8 and array.ndim == 4:
        return "image"
    return key or "vector"


def _fields(
    path: Path, splits: dict[str, dict[str, np.ndarray]]
) -> tuple[dict[str, FieldSpec], dict[str, tuple[str, ...]]]:
    """Specs of all fields; renames keys and codes labels in place."""
    fields: dict[str, FieldSpec] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for split, values in splits.items():
        renamed = {_canonical(key, value): value for key, value in values.items()}
        if len(renamed) != len(values):
            raise UserError(f"{path}: two keys mean the same field: {', '.join(values)}")
        counts = {key: len(value) for key, value in renamed.items()}
        if len(set(counts.values())) != 1:
            raise UserError(f"{path}: arrays differ in their number of examples: {counts}")
        splits[split] = renamed
    first = next(iter(splits.values()))
    for values in splits.values():
        shapes = {key: (value.shape[1:], value.dtype.kind) for key, value in values.items()}
        if shapes != {key: (value.shape[1:], value.dtype.kind) for key, value in first.items()}:
            raise UserError(f"{path}: the splits differ in fields, shapes or kinds of numbers")
    for key, value in first.items():
        if key == "label":
            fields[key], classes = _code_labels(path, splits)
        elif value.dtype.kind == "U":
            raise UserError(f"{path}: {key!r} holds text; only labels may")
        else:
            image = value.dtype == np.uint8 and value.ndim == 4 and key.startswith("image")
            kind = "image" if image else "vector"
            fields[key] = FieldSpec(value.shape[1:], value.dtype.name, kind)
    return fields, classes


def _code_labels(
    path: Path, splits: dict[str, dict[str, np.ndarray]]
) -> tuple[FieldSpec, dict[str, tuple[str, ...]]]:
    values = np.concatenate([split["label"] for split in splits.values()])
    names: dict[str, tuple[str, ...]] = {}
    if values.dtype.kind == "U":
        values, names["label"] = label_codes(values.tolist())
    if int(values.min()) < 0:
        raise UserError(f"{path}: labels must be 0 or more, found {values.min()}")
    start = 0
    for split in splits.values():
        stop = start + len(split["label"])
        split["label"] = values[start:stop].astype(np.int64)
        start = stop
    return FieldSpec((), "int64", "label", int(values.max()) + 1), names


def _write(
    writer: StoreWriter,
    split: str,
    values: Mapping[str, np.ndarray],
    rows: np.ndarray,
    fields: Mapping[str, FieldSpec],
    path: Path,
) -> None:
    """Copy rows in chunks, so that a memory-mapped array larger than memory passes too."""
    width = max(value[:1].nbytes for value in values.values())
    step = max(1, CHUNK // max(1, width))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        chunk = {k: _take(value, some).astype(fields[k].dtype) for k, value in values.items()}
        for key, value in chunk.items():
            check_finite(f"{path}: {key!r}", value, some)
        writer.add(split, chunk)


def _take(value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array. Of a file they are read: mapped pages would make the resident set grow."""
    width = value.nbytes // len(value)
    if not isinstance(value, np.memmap) or value.strides[0] != width:
        return value[rows]  # in memory, or a file in Fortran's order
    raw = np.empty(len(rows) * width, np.uint8)
    with io.FileIO(str(value.filename), "rb") as file:
        read_rows(file, rows, raw.data, width=width, offset=value.offset)
    return np.ndarray((len(rows), *value.shape[1:]), value.dtype, raw, strides=value.strides)
