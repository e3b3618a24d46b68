"""Writing files so that a kill or a full disk leaves the old content or the new, not a mixture."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


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


def write_atomic(path: Path, data: bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace a file by rename; a reader sees the old bytes or the new ones.

    Args:
        path: Target; its folder exists.
        data: The whole content.
        durable: fsync the file and its folder.
        mode: Of the new file; the umask takes its part.

    Raises:
        OSError: The disk refused; the old file stands and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a process before us, or a link that somebody laid there
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
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


@contextlib.contextmanager
def exclusive(handle: int) -> Iterator[None]:
    """Alone among processes that lock this open file, which is closed at the end.

    Args:
        handle: File descriptor. Where a file system has no `flock`, one goes on without.
    """
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
