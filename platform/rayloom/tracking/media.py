"""Pictures and files of a run folder, checked before they are sent: it may come from anybody.

What is sent is a plain file inside the folder, has the hash that the journal tells, and if it is a
picture, it is a PNG that decodes and is of a bounded size.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.core.errors import RayloomError
from rayloom.records.inside import NotPlainError, open_inside

MAX_PICTURE_BYTES = 256 << 20
MAX_FILE_BYTES = 8 << 30
MAX_PIXELS = 64_000_000
_THUMBNAIL = 256  # pixels of the longer side, as MLflow's own client
_BLOCK = 1 << 20


class NotSendableError(RayloomError):
    """A medium that is not sent; the message says why."""


def checked_copy(folder: Path, line: Mapping[str, Any], scratch: Path) -> Path:
    """A copy of what an `image` or `file` line of the journal names, for sending.

    Args:
        folder: Run folder.
        line: The line, as `decode_line` gives it.
        scratch: A folder of our own.

    Raises:
        FileNotFoundError: It is not there.
        NotSendableError: It is no plain file, not what the journal tells, or no picture.
    """
    is_picture = line["type"] == "image"
    limit = MAX_PICTURE_BYTES if is_picture else MAX_FILE_BYTES
    copy = scratch / f"step-{line['step']:09d}{Path(line['path']).suffix}"
    digest, size = hashlib.sha256(), 0
    try:
        handle = open_inside(folder, line["path"])
    except FileNotFoundError:
        raise
    except NotPlainError as error:
        raise NotSendableError(f"it {error.strerror}") from error
    except OSError as error:
        raise NotSendableError(error.strerror or "it cannot be read") from error
    with os.fdopen(handle, "rb") as source, open(copy, "xb") as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
            if size > limit:
                raise NotSendableError(f"it has more than {limit:,} bytes")
            target.write(block)
    if digest.hexdigest() != line["sha256"]:
        raise NotSendableError("it is not the file that the journal tells (its SHA-256 differs)")
    if is_picture:
        _check_picture(copy)
    return copy


def _check_picture(path: Path) -> None:
    from PIL import Image

    broken = (
        *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError),
        *(MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
    )
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise NotSendableError(f"it has {width} x {height} pixels, at most {MAX_PIXELS:,}")
            picture.load()
    except broken as error:
        raise NotSendableError(f"it is no picture ({type(error).__name__})") from error


def thumbnail(path: Path, target: Path) -> None:
    """A small form of a picture, as MLflow's page shows it in lists."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as picture:
        scale = _THUMBNAIL / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        picture.resize((size[0], size[1])).save(target)
