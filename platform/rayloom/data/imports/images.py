"""A folder of images into a store.

Splits and classes are what `layout` reads from the folders. Labels are the class folders in
alphabetical order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.imports.captions import read_captions
from rayloom.data.imports.checks import check_import, target_folder
from rayloom.data.imports.layout import read_layout, walk
from rayloom.data.preparation import store_lock
from rayloom.data.store.writer import CHUNK, StoreWriter
from rayloom.data.text.tokenizers import Bytes

_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa")
_ORIENTATION = 274  # EXIF tag; values above 4 exchange width and height
MAX_SIDE = 8192  # pixels: a third of Pillow's own bound on what is no bomb


@dataclass(frozen=True)
class Header:
    """What the header of an image says: size in pixels as it is to be seen, and colours."""

    width: int
    height: int
    grey: bool


def import_images(
    folder: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    mode: str = "auto",
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of the images in a folder: `image` uint8 (C, H, W) and, with classes, `label`.

    Transparency is put on white. Order: by a hash of the paths.

    Args:
        folder: The folder; see `layout`.
        name: Name of the data set.
        root: Folder of the stores.
        size: Side length in pixels: crops the middle square and scales. None: as they are, all
            of one size.
        mode: `L` (grey), `RGB`, or `auto`: grey if all images are.
        test_fraction: Part that becomes `test` where no folder says which.
        force: Replace a data set of that name.

    Raises:
        UserError: An unreadable image, a link that leads outside, different sizes, folders
            that fit no layout; names the file.
    """
    folder = Path(folder).expanduser().absolute()
    if mode not in ("auto", "L", "RGB"):
        raise UserError(f"mode is {mode!r}; it must be auto, L or RGB")
    check_size(size)
    target = target_folder(name, root, force=force)
    found = walk(folder)
    paths = found.paths
    layout = read_layout(folder, found, test_fraction)
    splits, labels, classes = layout.splits, layout.labels, layout.classes
    headers = [read_header(path, str(path)) for path in paths]
    width, height = (size, size) if size else one_size(paths, headers)
    grey = mode == "L" or (mode == "auto" and all(header.grey for header in headers))
    fields = {"image": FieldSpec((1 if grey else 3, height, width), "uint8", "image")}
    if classes:
        fields["label"] = FieldSpec((), "int64", "label", len(classes))
    captions = read_captions(folder, paths)
    if captions:
        fields["text"] = FieldSpec((-1,), "uint8", "text", 256)
    check_import(folder, fields)
    step = max(1, CHUNK // (width * height * (1 if grey else 3)))  # images decoded at once
    with (
        store_lock(target),
        StoreWriter(
            target,
            fields,
            source=f"folder {folder}",
            licence="",
            description=f"{len(paths)} images",
            classes={"label": classes} if classes else {},
            tokenizers={"text": Bytes().plain()} if captions else {},
        ) as writer,
    ):
        for split, rows in splits.items():
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                images = [decode(paths[k], str(paths[k]), (width, height), grey) for k in some]
                batch: dict[str, Any] = {"image": np.stack(images)}
                if classes:
                    batch["label"] = labels[some]
                if captions:
                    batch["text"] = [captions[k] for k in some]
                writer.add(split, batch)
    made = open_store(target)
    made.notes = tuple(layout.notes)
    return made


def check_size(size: int | None) -> None:
    """Check a side length to scale to.

    Raises:
        UserError: It is not between 1 and `MAX_SIDE` pixels.
    """
    if size is not None and not 1 <= size <= MAX_SIDE:
        raise UserError(f"size is {size}; it must be between 1 and {MAX_SIDE} pixels")


def read_header(file: Path | BytesIO, what: str) -> Header:
    """Size and colours of an image, without decoding it.

    Raises:
        UserError: Not an image, of a kind that does not fit 8 bits, or beyond all measure.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION, 1) > 4:
                width, height = height, width
            mode = image.mode
    except Image.DecompressionBombError:
        raise UserError(f"{what}: far too many pixels for a training image") from None
    except Exception as error:  # Pillow's decoders raise anything at all on damaged files
        raise UserError(f"{what}: cannot be read as an image ({_short(error)})") from None
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise UserError(f"{what}: {width} x {height} pixels, far too many for a training image")
    if mode not in (*_GREY, *_COLOUR):
        raise UserError(f"{what}: pixels of kind {mode!r} do not fit 8 bits; convert it first")
    return Header(width, height, mode in _GREY)


def decode(file: Path | BytesIO, what: str, size: tuple[int, int], grey: bool) -> np.ndarray:
    """An image as uint8 (C, H, W), upright, on white, of the given (width, height).

    Raises:
        UserError: The image is damaged; names it.
    """
    try:
        with Image.open(file) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            image = image.convert("L" if grey else "RGB")
            if image.size != size:
                image = ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
            pixels = np.asarray(image)
    except Exception as error:  # as above
        raise UserError(f"{what}: cannot be read as an image ({_short(error)})") from None
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _short(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text is the path, or an address in memory
        return "in no format that Pillow knows"
    return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"


def one_size(paths: Sequence[Path], headers: Sequence[Header]) -> tuple[int, int]:
    """(width, height) of pictures of one size.

    Raises:
        UserError: They have several.
    """
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        if (header.width, header.height) != (first.width, first.height):
            raise UserError(
                f"{path} is {header.width} x {header.height} pixels but {paths[0]} is "
                f"{first.width} x {first.height}; give --size N to bring all to N x N"
            )
    return first.width, first.height
