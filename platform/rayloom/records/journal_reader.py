"""Reading a journal: as a whole, its tail, or as curves. Reading never writes and needs no lock."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rayloom.core.errors import UserError
from rayloom.records.inside import is_relative, open_inside

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 20
MAX_LINE = 4 << 20  # bytes; a longer line is none of ours
MAX_STEP = 2**63 - 1
MAX_TIME_MS = 253_370_764_800_000  # the year 9999
_KEY = re.compile(r"[A-Za-z0-9_\-. /]{1,250}")
_MAX_INT = 2**1000  # `float` takes it
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


@lru_cache(maxsize=4096)
def is_key(key: str) -> bool:
    """Whether MLflow can hold a metric or picture of this name."""
    return _KEY.fullmatch(key) is not None


@lru_cache(maxsize=4096)
def stays_inside(path: str) -> bool:
    """Whether a path that a journal or caller names stays in the folder it is relative to."""
    return not os.path.isabs(path) and ".." not in path.split("/")


def decode_line(line: bytes) -> dict[str, Any] | None:
    """One line of a journal; None if it is not one as written (torn by a kill, a disk's fault)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _is_whole(value) else None


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether a line holds what its type promises, so that no reader needs to check again."""
    kind = line.get("type")
    if kind not in ("scalars", "image", "file", "tags"):
        return isinstance(kind, str)
    time_ms, step, values = line.get("time_ms"), line.get("step"), line.get("values")
    if type(time_ms) is not int or not 0 <= time_ms <= MAX_TIME_MS:
        return False
    if kind == "tags":
        return isinstance(values, dict) and all(map(_is_tag, values.values()))
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        return False
    if kind == "scalars":
        return isinstance(values, dict) and all(
            is_key(key) and _is_number(value) for key, value in values.items()
        )
    key, path = line.get("key"), line.get("path")
    if not (isinstance(key, str) and isinstance(path, str) and isinstance(line.get("sha256"), str)):
        return False
    return is_key(key) and path.startswith("media/") and is_relative(path)


def _is_number(value: Any) -> bool:
    if type(value) is float:
        return True
    if type(value) is int:
        return -_MAX_INT < value < _MAX_INT
    return isinstance(value, str) and value in _NOT_FINITE


def _is_tag(value: Any) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) <= MAX_LINE


def lines(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """(line without its newline, offset after it) of each whole line from an offset on.

    A line of more than `MAX_LINE` bytes comes as an empty one.
    """
    rest, dropped = b"", 0
    with _opened(path) as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                offset += dropped + len(piece) + 1
                yield (b"" if dropped else piece), offset
                dropped = 0
            if dropped or len(rest) > MAX_LINE:
                dropped, rest = dropped + len(rest), b""


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(open_inside(path.parent, path.name), "rb")


def scan(path: Path, take: Callable[[Mapping[str, Any]], None], offset: int = 0) -> int:
    """Hand every line from an offset on to `take`; returns the offset after the last good one.

    A bad line in the middle (a disk's fault) is skipped; bad ones at the end are not counted.
    """
    good = offset
    for text, end in lines(path, offset):
        line = decode_line(text)
        if line is not None:
            take(line)
            good = end
    return good


def tail(path: Path, *, max_bytes: int = 16_384) -> list[dict[str, Any]]:
    """The last whole lines within so many bytes, oldest first; empty if none can be read."""
    try:
        with _opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - max_bytes)
            file.seek(start)
            data = file.read(max_bytes)
    except OSError:
        return []
    pieces = data.split(b"\n")
    if start:
        pieces = pieces[1:]  # may begin in the middle of a line
    decoded = (decode_line(piece) for piece in pieces[:-1])
    return [line for line in decoded if line is not None]


def history(path: Path) -> "dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]":
    """The curves of a journal.

    Args:
        path: The journal, or a run folder.

    Returns:
        For each metric key: steps (int64), values (float64) and wall clock (int64, ms since the
        epoch), each (points,), in the order of steps. Pictures and files are not in it.

    Raises:
        UserError: The journal cannot be read.
    """
    import numpy as np

    if path.is_dir():
        path = path / "journal.jsonl"
    columns: dict[str, tuple[list[int], list[float], list[int]]] = {}

    def take(line: Mapping[str, Any]) -> None:
        if line["type"] != "scalars":
            return
        step, at = line["step"], line["time_ms"]
        for key, value in line["values"].items():
            if key not in columns:
                columns[key] = ([], [], [])
            column = columns[key]
            column[0].append(step)
            column[1].append(float(value))
            column[2].append(at)

    _scan_whole(path, take)
    result = {}
    for key, (steps, values, times) in columns.items():
        order = np.argsort(np.asarray(steps, dtype=np.int64), kind="stable")
        result[key] = (
            np.asarray(steps, dtype=np.int64)[order],
            np.asarray(values, dtype=np.float64)[order],
            np.asarray(times, dtype=np.int64)[order],
        )
    return result


def media(path: Path) -> list[dict[str, Any]]:
    """The image and file lines of a journal or run folder, in the order of writing.

    Raises:
        UserError: The journal cannot be read.
    """
    if path.is_dir():
        path = path / "journal.jsonl"
    found: list[dict[str, Any]] = []

    def take(line: Mapping[str, Any]) -> None:
        if line["type"] in ("image", "file"):
            found.append(dict(line))

    _scan_whole(path, take)
    return found


def _scan_whole(path: Path, take: Callable[[Mapping[str, Any]], None]) -> None:
    """`scan` of a journal that may not exist yet."""
    try:
        scan(path, take)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
