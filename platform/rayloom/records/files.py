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
