"""Writing files so that a kill or a full disk leaves the old content or the new, not a mixture."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[str], None]

# What a disk does to a process that did nothing wrong: full, over quota, read-only, not permitted,
# a stale network mount. Such an error never stops a training run.
DISK_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ESTALE,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.ENFILE,
        errno.EFBIG,
    }
)


def is_disk_error(error: OSError) -> bool:
    """Whether the disk is to blame, so that waiting for it makes sense."""
    return error.errno in DISK_ERRORS


def silent(message: str) -> None:
    """The `say` of callers that want to hear nothing."""


def fsync_dir(folder: Path) -> None:
    """Make the names in a folder durable; file systems that cannot are left alone."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a new file in full and fsync it; no atomicity. The umask takes its part of the mode."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file by rename; a reader sees the old bytes or the new ones.

    Args:
        path: Target; its folder exists.
        data: The whole content.
        durable: fsync the file and its folder.

    Raises:
        OSError: The disk refused; the old file stands and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a process before us, or a link that somebody laid there
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        fsync_dir(path.parent)


def to_json(value: Any, *, indent: int | None = None) -> bytes:
    """Deterministic UTF-8 JSON in insertion order; NaN is refused (encode it first)."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )
    return text.encode()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks; hashing releases the interpreter lock."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(folder: Path) -> bool:
    """Delete a folder by renaming it away first, so that no reader sees half of it.

    Of a link, the link alone is deleted.

    Returns:
        Whether it is gone; a disk that refuses is not an error here.
    """
    if not os.path.lexists(folder):
        return True
    if not folder.is_dir() or folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.unlink()
        return not os.path.lexists(folder)
    trash = folder.with_name(f".trash-{folder.name.lstrip('.')}-{os.getpid()}")
    try:
        os.replace(folder, trash)
    except OSError:
        trash = folder
    shutil.rmtree(trash, ignore_errors=True)
    return not trash.exists()


def safe_name(text: str, *, limit: int = 80) -> str:
    """A file-system-safe form of a name: letters, digits, `.`, `_` and `-` stay."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    return clean[:limit].rstrip("-.") or "run"


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
