"""Files of a run folder, which may come from anybody: opened as plain files or not at all.

Inside a run folder no link is followed, and a pipe, device or socket is no file. (The run folder
itself and the storage may be links: their owner made them.) Names that a file of the folder tells
are checked by `bare` and `relative` before they become paths; JSON is bounded in size, depth, text
and numbers before anybody looks at it.
"""

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

MAX_JSON = 4 << 20  # bytes of run.json, tracking.json and their like
MAX_DEPTH = 32
MAX_TEXT = 1 << 18  # characters of one text
MAX_INT = 2**256  # generous: `float` takes it


class NotPlainError(OSError):
    """What stands under a name is no plain file (or folder) inside the run folder."""

    def __init__(self, what: str, path: Path | str) -> None:
        super().__init__(errno.ELOOP, what, str(path))


def is_bare(name: Any) -> bool:
    """Whether something is a name of an entry of a folder: no path, nothing hidden, no control."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and not name.startswith(".")
        and "/" not in name
        and "\\" not in name
        and name.isprintable()
    )


def is_relative(path: Any) -> bool:
    """Whether something is a path that stays in the folder it is relative to, without links."""
    return (
        isinstance(path, str)
        and 0 < len(path) <= 1024
        and path.isprintable()
        and not os.path.isabs(path)
        and ".." not in path.split("/")
    )


def open_inside(
    folder: Path, name: str | Path, flags: int = os.O_RDONLY, *, append: bool = False
) -> int:
    """Open a plain file below a folder; gives its descriptor.

    Args:
        folder: A run folder (or a part of one).
        name: Relative path below it.
        flags: As of `os.open`.
        append: It is to be changed in place: a second name of it (a hard link) is refused.

    Raises:
        NotPlainError: A link in the way, or no plain file.
        OSError: As `os.open`.
    """
    place = Path(folder) / name
    parts = Path(name).parts
    if not parts or not is_relative(str(name)):
        raise NotPlainError("leaves its folder", place)
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = _open(part, below, here, place)
            os.close(here)
            here = inner
        extra = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        handle = _open(parts[-1], flags | extra, here, place)
    finally:
        os.close(here)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise NotPlainError(f"is {kind(status.st_mode)}, not a file", place)
    if append and status.st_nlink > 1:
        os.close(handle)
        raise NotPlainError("has a second name (a hard link), so it is not written", place)
    return handle


def _open(part: str, flags: int, folder: int, place: Path) -> int:
    try:
        return os.open(part, flags, 0o644, dir_fd=folder)
    except OSError as error:
        mode = 0
        with contextlib.suppress(OSError):
            mode = os.lstat(part, dir_fd=folder).st_mode
        if stat.S_ISDIR(mode) and error.errno == errno.EISDIR:
            raise NotPlainError("is a folder, not a file", place) from error
        if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise NotPlainError(f"is {kind(mode)}, which is not followed", place) from error
        error.filename = str(place)
        raise


def kind(mode: int) -> str:
    """A file type for a person: `a link`, `a pipe`, `a folder`, ..."""
    names = {
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFREG: "a file",
    }
    return names.get(stat.S_IFMT(mode), "something else")


def read_inside(folder: Path, name: str | Path, *, limit: int = MAX_JSON) -> bytes:
    """The content of a plain file below a folder, if it has at most `limit` bytes.

    Raises:
        NotPlainError: As `open_inside`, or it is too large.
        OSError: As `os.open`.
    """
    with os.fdopen(open_inside(folder, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        what = f"has {max(size, len(data)):,} bytes, at most {limit:,} are read"
        raise NotPlainError(what, Path(folder) / name)
    return data


def is_plain_file(folder: Path, name: str | Path) -> bool:
    """Whether a plain file stands there, with no link on the way."""
    try:
        os.close(open_inside(folder, name))
    except OSError:
        return False
    return True


def is_plain_folder(path: Path) -> bool:
    """Whether a folder stands there that is no link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def make_folder_inside(folder: Path, name: str | Path) -> Path:
    """Make the folders of a relative path below a folder, through no link.

    Raises:
        NotPlainError: Something else stands there.
        OSError: The disk refuses.
    """
    here = Path(folder)
    for part in Path(name).parts:
        here = here / part
        with contextlib.suppress(FileExistsError):
            here.mkdir()
        if not is_plain_folder(here):
            raise NotPlainError(f"is {kind(os.lstat(here).st_mode)}, not a folder", here)
    return here


def copy_inside(folder: Path, name: str, target: Path) -> None:
    """Copy a plain file below a folder to the same place below another one.

    Raises:
        NotPlainError: As `open_inside`.
        OSError: The disk refuses.
    """
    place = target / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_inside(folder, name), "rb") as source, open(place, "xb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def walk_inside(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, status) of everything below a folder but plain folders; through no link."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            for name, inner in walk_inside(Path(entry.path)):
                yield f"{entry.name}/{name}", inner
        else:
            yield entry.name, status


APPENDED = ("journal.jsonl", "log.txt", "ledger.jsonl")  # written in place, not replaced
_FOLDERS = ("media", "checkpoints", "checkpoints/chunks", "checkpoints/quarantine", "stages")
_FILES = ("run.json", "config.yaml", "tracking.json", "lock.json", ".lock.guard", "trials.csv")


def strangers(folder: Path) -> list[str]:
    """What stands in the way of a writer of a run folder, in words: links, pipes, second names."""
    found = []
    for name in (*_FOLDERS, *_FILES, *APPENDED):
        try:
            status = os.lstat(folder / name)
        except OSError:
            continue
        is_right = stat.S_ISDIR if name in _FOLDERS else stat.S_ISREG
        if not is_right(status.st_mode):
            found.append(f"{name} is {kind(status.st_mode)}")
        elif name in APPENDED and status.st_nlink > 1:
            found.append(f"{name} has a second name (a hard link)")
    for root, folders, _ in os.walk(folder / "media"):
        links = [os.path.join(root, name) for name in folders]
        found += [f"{os.path.relpath(p, folder)} is a link" for p in links if os.path.islink(p)]
    return found


def parse_json(data: bytes | str, *, depth: int = MAX_DEPTH) -> Any:
    """JSON whose texts, numbers and nesting are of a size that every reader can take.

    Raises:
        ValueError: It is no strict JSON, or something in it is out of bounds; says where.
    """
    try:
        tree = json.loads(data, parse_constant=_no_constant, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it is nested more than {depth} deep") from None
    _check(tree, "", depth)
    return tree


def _whole(digits: str) -> int:
    if len(digits) > 80:  # before it is made: that takes time too
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _check(value: Any, where: str, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if not -MAX_INT <= value < MAX_INT:
            raise ValueError(f"{where or 'the value'}: a number of more than 256 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'the value'}: a number out of range")
    elif depth <= 0:
        raise ValueError(f"{where[:200]}: nested too deep")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, where)
            _check(inner, f"{where}.{key[:60]}" if where else key[:60], depth - 1)
    else:
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]", depth - 1)


def _check_text(text: str, where: str) -> None:
    if len(text) > MAX_TEXT:
        raise ValueError(f"{where or 'a key'}: a text of {len(text):,} characters")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where or 'a key'}: half a character (a lone surrogate)") from None


class LogFile(logging.FileHandler):
    """Log records to a plain file of a run folder; nowhere, if something else stands there.

    Args:
        path: The file; made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        super().__init__(path, encoding="utf-8", delay=True)

    def _open(self) -> TextIO:  # type: ignore[override]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            handle = open_inside(self._path.parent, self._path.name, flags, append=True)
        except OSError:
            return open(os.devnull, "a", encoding="utf-8")
        return os.fdopen(handle, "a", encoding="utf-8")
