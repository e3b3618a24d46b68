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
_THUMBNAIL = 512  # pixels of the longer side: what a tile is wide on a large screen
_CAPTION = 28  # pixels of the line above a thumbnail
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


def thumbnail(path: Path, target: Path, *, caption: str = "") -> None:
    """The small form of a picture that MLflow's tiles show; a click there opens the picture itself.

    A tile is a square as wide as the tile, of which the upper part is seen, and it never enlarges.
    So this one is large enough, and the picture lies at the top, with nothing below it.

    Args:
        path: The picture, a PNG.
        target: Where to; its suffix says the format.
        caption: A line above the picture.
    """
    from PIL import Image, ImageDraw

    with Image.open(path, formats=["PNG"]) as picture:
        scale = _THUMBNAIL / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        sharp = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
        small = picture.resize((width, height), sharp).convert("RGBA")
    top = _CAPTION if caption else 0
    side = _THUMBNAIL + top
    square = Image.new("RGBA", (side, side))
    if caption:
        draw = ImageDraw.Draw(square)
        draw.rectangle((0, 0, side, top - 1), fill="white")
        draw.text((4, 1), caption, fill="black", font_size=_CAPTION - 8)
    square.paste(small, ((side - width) // 2, top))
    square.save(target)
