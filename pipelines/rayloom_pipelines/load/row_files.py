"""Rows of fields from files: pictures, arrays, tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
ARRAYS = (".npy", ".npz", ".safetensors")
TABLES = (".csv", ".parquet", ".jsonl")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_file(path: Path, fields: Mapping[str, FieldSpec]) -> dict[str, np.ndarray]:
    """The fields that a file or a folder of pictures holds.

    Args:
        path: Of the file.
        fields: What is wanted, by name.

    Raises:
        UserError: It cannot be read, or holds none of the fields.
    """
    suffix = path.suffix.lower()
    try:
        if path.is_dir() or suffix in PICTURES:
            return _pictures(path, fields)
        if suffix in ARRAYS:
            return _named(path, _arrays(path, suffix), fields)
        if suffix in TABLES:
            return _table(path, suffix, fields)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    known = ", ".join((*PICTURES[:3], *ARRAYS, *TABLES))
    raise UserError(f"{path}: must be a folder of pictures or end in {known}")


def _pictures(path: Path, fields: Mapping[str, FieldSpec]) -> dict[str, np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    found = [name for name, field in fields.items() if field.kind == "image"]
    if len(found) != 1:
        raise UserError(f"{path} holds pictures; wanted are {', '.join(fields)}")
    channels, height, width = fields[found[0]].shape
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not files:
            raise UserError(f"{path} holds no pictures ({', '.join(PICTURES)})")
    else:
        files = [path]
    if channels not in _MODES:
        raise UserError(f"pictures have 1 to 4 channels, and the model wants {channels}; take .npy")
    rows = np.empty((len(files), channels, height, width), np.uint8)
    for row, file in zip(rows, files, strict=True):
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert(_MODES[channels]))
        except (UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{file} is no picture ({error})") from error
        if pixels.shape[:2] != (height, width):
            raise UserError(
                f"{file} has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width); the "
                f"model was trained on {height}x{width}"
            )
        row[:] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return {found[0]: rows}


def _arrays(path: Path, suffix: str) -> dict[str, np.ndarray]:
    try:
        if suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        held = np.load(path, allow_pickle=False)
        return {"": held} if suffix == ".npy" else {name: held[name] for name in held.files}
    except OSError:
        raise
    except Exception as error:  # whatever the two readers raise for a file that is none
        raise UserError(f"{path} is no {suffix} file ({error})") from error


def _named(
    path: Path, arrays: Mapping[str, np.ndarray], fields: Mapping[str, FieldSpec]
) -> dict[str, np.ndarray]:
    """Arrays by field; a single array stands for a single field, whatever its name."""
    found = {name: arrays[name] for name in fields if name in arrays}
    if not found and len(arrays) == len(fields) == 1:
        found = {next(iter(fields)): next(iter(arrays.values()))}
    if not found:
        have = ", ".join(name or "one array" for name in arrays)
        raise UserError(f"{path} holds {have}; wanted: {', '.join(fields)}")
    return found


def _table(path: Path, suffix: str, fields: Mapping[str, FieldSpec]) -> dict[str, np.ndarray]:
    import pandas as pd

    readers: dict[str, Any] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    try:
        if suffix == ".jsonl":
            table = pd.read_json(path, lines=True)
        else:
            table = readers[suffix](path)
    except OSError:
        raise
    except Exception as error:  # whatever pandas and pyarrow raise for a file that is none
        raise UserError(f"{path} is no {suffix} file ({error})") from error
    found = {}
    for name, field in fields.items():
        parts = [column for column in table.columns if str(column).startswith(f"{name}.")]
        if name in table.columns:
            found[name] = np.stack([np.asarray(value) for value in table[name]])
        elif parts:
            found[name] = table[parts].to_numpy()
        elif len(fields) == 1 and field.shape == (len(table.columns),):
            found[name] = table.to_numpy()
    if not found:
        have = ", ".join(map(str, table.columns))
        raise UserError(f"{path} has the columns {have}; wanted: {', '.join(fields)}")
    return found
