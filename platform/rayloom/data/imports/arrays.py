"""`.npy` and `.npz` files into a store.

Names: `image(s)`, `x` or `data` that hold pictures (see `pictures`) become `image` (C, H, W);
`label(s)`, `y`, `target(s)` of whole numbers or text become `label`. In an `.npz`, keys such as
`train_images` or `y_test` say the split.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError
from rayloom.core.fields import DTYPES
from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.imports.checks import (
    check_finite,
    check_import,
    check_unit,
    label_codes,
    target_folder,
)
from rayloom.data.imports.kinds import (
    check_all_used,
    field_name,
    field_of,
    mask_classes,
    stored_masks,
)
from rayloom.data.imports.npy import leave_out, load_arrays
from rayloom.data.imports.pictures import Reading, check_words, may_be_pictures, read_as
from rayloom.data.names import SPLIT_NAMES, folded, is_label
from rayloom.data.ordering import row_hash, split_order
from rayloom.data.preparation import store_lock
from rayloom.data.store.columns import take_rows
from rayloom.data.store.writer import CHUNK, StoreWriter

_SPLITS = "|".join(SPLIT_NAMES)
_KEY = re.compile(
    rf"(?:(?P<a>{_SPLITS})_(?P<x>.+)|(?P<y>.+)_(?P<b>{_SPLITS})|(?P<c>{_SPLITS}))", re.IGNORECASE
)
Splits = dict[str, dict[str, np.ndarray]]  # arrays by split and key; split "" if no key says one


def import_arrays(
    path: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    keys: Sequence[str] = (),
    layout: str = "auto",
    kind: str = "auto",
    said: Mapping[str, str] | None = None,
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of the arrays in a `.npy` or `.npz` file; the first axis counts examples.

    Args:
        path: The file.
        name: Name of the data set.
        root: Folder of the stores.
        keys: Of an `.npz`: arrays to use; all by default.
        layout: Of images with channels: `chw`, `hwc`, or `auto` where the shape tells.
        kind: What the array, or `x`, `data` and `image*`, hold: `image`, `vector`, or `auto`.
        said: Kind by key (without its split), as `--field` gives it.
        test_fraction: Part that becomes `test` where no key says which; order by a hash.
        force: Replace a data set of that name.

    Raises:
        UserError: Not such a file, pickled, ambiguous or unfit arrays; names file and key.
    """
    path = Path(path).expanduser().absolute()
    check_words(layout, kind)
    target = target_folder(name, root, force=force)
    arrays = load_arrays(path, keys)
    for key, array in arrays.items():
        _check_array(path, key, array, list(arrays))
    splits = _by_split(path, arrays)
    _check_splits(path, splits)
    kinds = _kinds(path, splits, said or {})
    readings = {
        key: read_as(
            _where(path, key),
            key,
            [s[key] for s in splits.values()],
            layout,
            _READ.get(kinds.get(key, ""), kind),
            said=kinds.get(key),
        )
        for key in next(iter(splits.values()))
    }
    _pair_up(splits, readings, kinds)
    if kind == "image" and not any(may_be_pictures(key) for key in readings):
        raise UserError(
            f"{path}: --kind image, but no key is called x, data or image*: {', '.join(readings)}"
        )
    fields, classes = _fields(path, splits, readings, kinds)
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
    made = open_store(target)
    made.notes = _notes(splits, readings, kinds)
    return made


_READ = {"image": "image", "mask": "vector", "label": "vector", "vector": "vector",
         "tokens": "vector"}  # fmt: skip


def _kinds(path: Path, splits: Splits, said: Mapping[str, str]) -> dict[str, str]:
    """Kind by key: what the user says, and masks by their names."""
    first = next(iter(splits.values()))
    check_all_used(str(path), said, list(first), "key")
    if "text" in said.values():
        raise UserError(f"{path}: --field NAME=text: arrays hold no text; .jsonl and Parquet do")
    kinds = dict(said)
    for key, array in first.items():
        whole = array.dtype.kind in "iub" and array.ndim == 3
        if key not in kinds and field_of(key) == "mask" and whole:
            kinds[key] = "mask"
    return kinds


def _pair_up(splits: Splits, readings: dict[str, Reading], kinds: dict[str, str]) -> None:
    """A second array of pictures, `target` or `y`, of the size of the first, is pictures too."""
    first = next(iter(splits.values()))
    images = [readings[key].view(first[key]) for key in readings if readings[key].image]
    for key, array in first.items():
        if key in kinds or readings[key].image or field_of(key) != "target" or not images:
            continue
        if array.ndim not in (3, 4):
            continue
        try:
            arrays = [s[key] for s in splits.values()]
            found = read_as(key, key, arrays, "auto", "image", said="image")
        except UserError:
            continue  # other numbers: a vector, as its note says
        if found.view(array).shape[2:] == images[0].shape[2:]:
            readings[key], kinds[key] = found, "image"


def _notes(
    splits: Splits, readings: Mapping[str, Reading], kinds: Mapping[str, str]
) -> tuple[str, ...]:
    """What a user may not expect of the keys."""
    notes = [reading.note for reading in readings.values() if reading.note]
    for key, kind in kinds.items():
        if kind in ("mask", "image") and field_of(key):
            other = "mask" if kind == "image" else "image"
            notes.append(f"{key}: taken as {kind}; --field {key}={other} if it is such")
    for name, array in next(iter(splits.values())).items():
        if is_label(name) and name != "label" and array.ndim < 3:
            notes.append(
                f"{name}: {array.dtype} {array.shape[1:]}, no labels (whole numbers or text)"
            )
    unnamed = [key for key in readings if re.fullmatch(r"arr_\d+", key)]
    if unnamed:
        notes.append(
            f"{', '.join(unnamed)}: arrays without a name; numpy.savez(file, x=..., y=...) says "
            "which are pictures and labels"
        )
    return tuple(notes)


def _where(path: Path, key: str) -> str:
    return f"{path} ({key})" if key else str(path)


def _check_array(path: Path, key: str, array: np.ndarray, keys: Sequence[str]) -> None:
    """Examples on the first axis, and numbers that can be kept."""
    where, cure = _where(path, key), leave_out(keys, [key]) if key else ""
    if array.ndim == 0 or len(array) == 0:
        raise UserError(f"{where}: has no examples (shape {array.shape}){cure}")
    if array.dtype.kind not in "US" and array.dtype.name not in DTYPES:
        kept = ", ".join(DTYPES)
        raise UserError(f"{where}: dtype {array.dtype} cannot be kept; use {kept}{cure}")


def _by_split(path: Path, arrays: Mapping[str, np.ndarray]) -> Splits:
    """Arrays by split and key, columns of labels as vectors."""
    matches = {key: _KEY.fullmatch(key) for key in arrays}
    if not all(matches.values()):  # `val` beside `x` is a name like any other
        matches = {k: None if match and match["c"] else match for k, match in matches.items()}
    splits: Splits = {}
    silent = [key for key, match in matches.items() if match is None]
    if silent and len(silent) < len(arrays):
        said = next(key for key in arrays if key not in silent)
        raise UserError(
            f"{path}: key {silent[0]!r} says no split, others do (such as {said})"
            f"{leave_out(list(arrays), silent)}"
        )
    for key, match in matches.items():
        split, word = "", key
        if match:
            split = SPLIT_NAMES[(match["a"] or match["b"] or match["c"]).lower()]
            word = match["x"] or match["y"] or ""
        values = splits.setdefault(split, {})
        if word in values:
            raise UserError(
                f"{path}: {key!r} and another key are both {word or 'the array'!r} of the split "
                f"{split!r}{leave_out(list(arrays), [key])}"
            )
        values[word] = _squeezed(word, arrays[key])
    return splits


def _squeezed(key: str, array: np.ndarray) -> np.ndarray:
    """Labels of shape (N, 1), as spreadsheets and MATLAB write them, are a vector."""
    one = array.ndim > 1 and array.size == len(array)
    return array.reshape(len(array)) if one and is_label(key) and _codes(array) else array


def _codes(array: np.ndarray) -> bool:
    """Whether the values of an array can be labels."""
    return array.dtype.kind in "iubUS"


def _check_splits(path: Path, splits: Splits) -> None:
    """Every split has the same keys, shapes and kinds of numbers, and each its own length."""
    first_name, first = next(iter(splits.items()))
    for name, values in splits.items():
        if values.keys() != first.keys():
            odd = ", ".join(sorted(repr(k) for k in values.keys() ^ first.keys()))
            raise UserError(
                f"{path}: the splits differ in fields: {odd} is in one of {first_name}, {name} only"
            )
        counts = {key: len(value) for key, value in values.items()}
        if len(set(counts.values())) != 1:
            raise UserError(f"{path}: arrays differ in their number of examples: {counts}")
        for key, value in values.items():
            other = first[key]
            if value.shape[1:] != other.shape[1:] or _kind(key, value) != _kind(key, other):
                raise UserError(
                    f"{path}: the splits differ in shapes or kinds of numbers: {key!r} is "
                    f"{other.dtype} {other.shape[1:]} in {first_name}, {value.dtype} "
                    f"{value.shape[1:]} in {name}"
                )


def _kind(key: str, array: np.ndarray) -> str:
    labels = is_label(key) and array.ndim == 1 and array.dtype.kind in "iub"
    return "i" if labels else array.dtype.kind


def _canonical(key: str, array: np.ndarray, reading: Reading, kind: str | None) -> str:
    """The field's name for a key."""
    if kind is not None:
        first = kind == "image" and folded(key) in ("x", "data", "image", "images")
        return "image" if first else field_name(key, kind)
    if is_label(key) and array.ndim == 1 and _codes(array):
        return "label"
    if reading.image and folded(key) in ("", "x", "data", "image", "images"):
        return "image"
    return key or "vector"


def _fields(
    path: Path, splits: Splits, readings: Mapping[str, Reading], kinds: Mapping[str, str]
) -> tuple[dict[str, FieldSpec], dict[str, tuple[str, ...]]]:
    """Specs of all fields; renames keys, turns pictures and codes labels in place."""
    fields: dict[str, FieldSpec] = {}
    classes: dict[str, tuple[str, ...]] = {}
    names: dict[str, str] = {}
    for key, array in next(iter(splits.values())).items():
        name = _canonical(key, array, readings[key], kinds.get(key))
        if name in names:
            raise UserError(
                f"{path}: two keys mean the same field {name!r}: {names[name]!r} and {key!r}"
                f"{leave_out(list(readings), [key])}"
            )
        names[name] = key
    for split, values in splits.items():
        splits[split] = {name: readings[k].view(values[k]) for name, k in names.items()}
    for name, key in names.items():
        said = kinds.get(key)
        if said == "label" or (name == "label" and said is None):
            fields[name], more = _code_labels(path, splits, name, key)
            classes |= more
            continue
        if said == "mask":
            fields[name] = _masks(_where(path, key), splits, name)
            continue
        if said == "tokens":
            fields[name] = _tokens(_where(path, key), splits, name)
            continue
        reading, arrays = readings[key], [values[name] for values in splits.values()]
        if arrays[0].dtype.kind in "US":
            raise UserError(f"{_where(path, key)}: holds text; only labels may (label, y, target)")
        dtype = np.result_type(*(reading.dtype(array) for array in arrays))
        kind = "image" if reading.image else "vector"
        fields[name] = FieldSpec(arrays[0].shape[1:], dtype.name, kind)
    return fields, classes


def _masks(where: str, splits: Splits, name: str) -> FieldSpec:
    """Spec of masks; brings them to their stored form."""
    parts = [split[name] for split in splits.values()]
    if parts[0].ndim == 4 and 1 in (parts[0].shape[1], parts[0].shape[3]):
        axis = 1 if parts[0].shape[1] == 1 else 3
        parts = [part.squeeze(axis) for part in parts]
    if parts[0].ndim != 3:
        raise UserError(f"{where}: masks are (n, H, W), the class of each pixel")
    number, black_white = mask_classes(where, parts)
    for split, part in zip(splits.values(), parts, strict=True):
        split[name] = stored_masks(part, number, black_white)
    dtype = next(iter(splits.values()))[name].dtype.name
    return FieldSpec(parts[0].shape[1:], dtype, "mask", number)


def _tokens(where: str, splits: Splits, name: str) -> FieldSpec:
    """Spec of tokens of one length."""
    parts = [split[name] for split in splits.values()]
    if parts[0].ndim != 2 or parts[0].dtype.kind not in "iu":
        raise UserError(f"{where}: tokens are whole numbers, (n, L)")
    if min(int(part.min()) for part in parts) < 0:
        raise UserError(f"{where}: tokens must be 0 or more")
    most = max(int(part.max()) for part in parts)
    return FieldSpec(parts[0].shape[1:], parts[0].dtype.name, "tokens", most + 1)


def _code_labels(
    path: Path, splits: Splits, name: str, key: str
) -> tuple[FieldSpec, dict[str, tuple[str, ...]]]:
    parts = [split[name] for split in splits.values()]
    if parts[0].ndim != 1 or not _codes(parts[0]):
        raise UserError(f"{_where(path, key)}: labels are whole numbers or text, (n,)")
    names: dict[str, tuple[str, ...]] = {}
    if parts[0].dtype.kind in "US":
        text = [_text(path, value) for part in parts for value in part.tolist()]
        values, names[name] = label_codes(text, str(path))
    else:
        values = np.concatenate(parts)
    if int(values.min()) < 0:
        raise UserError(f"{path}: labels must be 0 or more, found {values.min()}")
    start = 0
    for split in splits.values():
        stop = start + len(split[name])
        split[name] = values[start:stop].astype(np.int64)
        start = stop
    return FieldSpec((), "int64", "label", int(values.max()) + 1), names


def _text(path: Path, value: str | bytes) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UserError(f"{path}: the label {value!r} is no UTF-8 text") from None


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
        chunk = {key: _stored(take_rows(value, some), fields[key]) for key, value in values.items()}
        for key, value in chunk.items():
            check_finite(f"{path}: {key!r}", value, some)
            if fields[key].kind == "image":
                check_unit(f"{path}: {key!r}", value, some)
        writer.add(split, chunk)


def _stored(values: np.ndarray, field: FieldSpec) -> np.ndarray:
    """Values in the stored type; bool pictures are black and white."""
    made = values.astype(field.dtype)
    return made * np.uint8(255) if field.kind == "image" and values.dtype.kind == "b" else made
