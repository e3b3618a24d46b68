"""Telling a whole store from a damaged one.

Sizes and Arrow schemas are compared at every opening; SHA-256 when a file is in a state (size,
modification time, inode) that was not hashed yet. Which states were hashed is kept beside the
store in `.verified.json`; a store in which one cannot write is hashed at each opening.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayloom.data.store.manifest import Manifest, SplitInfo, broken, row_bytes, varies
from rayloom.data.store.writer import CHUNK, arrow_schema, column_sha256

VERIFIED = ".verified.json"


def verify(folder: Path, manifest: Manifest, *, full: bool = False) -> None:
    """Check a store against its manifest.

    Sizes and Arrow schema always. SHA-256 of every file and column when a file's state (size,
    modification time, inode) is not the one that was hashed last, or if `full`.

    Raises:
        UserError: A file is missing, truncated, foreign or changed; names it.
    """
    known = {} if full else _read_verified(folder)
    states: dict[str, list[Any]] = {}
    for name, split in manifest.splits.items():
        path = folder / f"{name}.arrow"
        try:
            status = path.stat()
        except OSError:
            raise broken(folder, f"the file {path.name} is missing") from None
        if status.st_size != split.num_bytes:
            raise broken(
                folder, f"{path.name} has {status.st_size} bytes instead of {split.num_bytes}"
            )
        _check_schema(folder, path, manifest)
        claim = hashlib.sha256(split.model_dump_json().encode()).hexdigest()
        state = [status.st_size, status.st_mtime_ns, status.st_ino, claim]
        states[name] = state
        if known.get(name) != state:
            _check_bytes(folder, path, manifest, split)
    if states != known:
        _write_verified(folder, states)


def _check_schema(folder: Path, path: Path, manifest: Manifest) -> None:
    try:
        with pa.OSFile(str(path), "rb") as file:
            reader = pa.ipc.open_file(file)
            schema, batches = reader.schema, reader.num_record_batches
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0][:120]
        raise broken(folder, f"{path.name} is not an Arrow file ({text})") from None
    expected = arrow_schema(manifest.fields)
    if not schema.equals(expected) or batches != 1:
        raise broken(folder, f"{path.name} holds other columns than the manifest says")


def _check_bytes(folder: Path, path: Path, manifest: Manifest, split: SplitInfo) -> None:
    """One pass over the file: its hash and each column's."""
    digest = hashlib.sha256()
    values = {key: hashlib.sha256() for key in split.columns}
    position = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            view = memoryview(chunk)
            for key, column in split.columns.items():
                low = max(column.offset - position, 0)
                high = min(column.offset + column.num_bytes - position, len(chunk))
                if low < high:
                    values[key].update(view[low:high])
            position += len(chunk)
        if digest.hexdigest() != split.sha256:
            raise broken(folder, f"{path.name} is damaged (its SHA-256 is not the manifest's)")
        for key, column in split.columns.items():
            found = values[key].hexdigest()
            field = manifest.fields[key]
            if varies(field):
                assert column.starts is not None
                file.seek(column.starts)
                starts = np.frombuffer(file.read(8 * (split.rows + 1)), "<i8")
                lengths = np.diff(starts)
                end = column.num_bytes // row_bytes(field)
                if starts[0] != 0 or starts[-1] != end or (lengths < 0).any():
                    raise broken(folder, f"{path.name}: column {key!r} has impossible lengths")
                found = column_sha256(lengths, found)
            if found != column.sha256:
                raise broken(folder, f"{path.name}: column {key!r} does not match the manifest")


def _read_verified(folder: Path) -> dict[str, Any]:
    try:
        tree = json.loads((folder / VERIFIED).read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _write_verified(folder: Path, states: Mapping[str, Any]) -> None:
    """Remember what was hashed; a store that is not ours to write in is hashed at each start."""
    try:
        handle, name = tempfile.mkstemp(prefix=VERIFIED, dir=folder)
    except OSError:
        return
    Path(name).chmod(0o644)
    with os.fdopen(handle, "w") as file:
        json.dump(states, file)
    Path(name).replace(folder / VERIFIED)
