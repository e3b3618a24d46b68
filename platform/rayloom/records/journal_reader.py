"""Reading a journal: as a whole, its tail, or as curves. Reading never writes and needs no lock."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 20


def decode_line(line: bytes) -> dict[str, Any] | None:
    """One line of a journal; None if it is not a whole JSON object (torn by a kill)."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "type" in value else None


def lines(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """(line without its newline, offset after it) of each whole line from an offset on."""
    rest = b""
    with open(path, "rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                offset += len(piece) + 1
                yield piece, offset


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
    """The last whole lines within so many bytes, oldest first; empty if there is no journal."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - max_bytes)
            file.seek(start)
            data = file.read(max_bytes)
    except FileNotFoundError:
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

    if path.exists():
        scan(path, take)
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
    """The image and file lines of a journal or run folder, in the order of writing."""
    if path.is_dir():
        path = path / "journal.jsonl"
    found: list[dict[str, Any]] = []

    def take(line: Mapping[str, Any]) -> None:
        if line["type"] in ("image", "file"):
            found.append(dict(line))

    if path.exists():
        scan(path, take)
    return found
