"""Captions beside pictures: `metadata.jsonl`, a line `{"file_name": ..., "text": ...}` a picture.

It stands in the folder of images or in folders below; names are relative to where it stands.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError
from rayloom.data.imports.layout import CAPTIONS
from rayloom.data.names import one_form


def read_captions(folder: Path, paths: Sequence[Path]) -> list[np.ndarray]:
    """UTF-8 uint8 (L,) of each picture's caption; empty if there are none.

    Raises:
        UserError: A line is none, names no picture, or a picture has no caption.
    """
    files = [
        file for file in sorted(folder.rglob(CAPTIONS)) if file.is_file() and not file.is_symlink()
    ]
    if not files:
        return []
    known = {one_form(str(path)): number for number, path in enumerate(paths)}
    found: dict[int, np.ndarray] = {}
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            name, text = _read_line(where, line)
            row = known.get(one_form(str(file.parent / name)))
            if row is None:
                raise UserError(f"{where}: there is no picture {name!r} in {file.parent}")
            if row in found:
                raise UserError(f"{where}: the picture {name!r} has a caption already")
            found[row] = np.frombuffer(text, np.uint8)
    for number, path in enumerate(paths):
        if number not in found:
            raise UserError(f"{path}: has no caption, others have one ({files[0]})")
    return [found[number] for number in range(len(paths))]


def _read_line(where: str, line: bytes) -> tuple[str, bytes]:
    try:
        tree = json.loads(line)
        name, text = tree["file_name"], tree["text"].encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f'{where}: must be {{"file_name": "a.png", "text": "..."}}') from None
    if not isinstance(name, str):
        raise UserError(f"{where}: file_name must be text")
    return name, text
