"""Which arrays are pictures, and how they become `[n, C, H, W]` of uint8 or of floats in [0, 1].

Names, shapes and numbers say so: keys `x`, `data`, `image*` and the one array of a `.npy`. A name
such as `images`, or `kind="image"`, promises pictures: what does not fit then is refused. Of the
others, what could be pictures by its shape but holds other numbers stays a vector, with a note.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayloom.core.errors import UserError
from rayloom.core.fields import FEW_CHANNELS, IMAGE_CHANNELS, IMAGE_RULE
from rayloom.data.names import folded
from rayloom.data.store.columns import take_rows

_LAYOUTS = ("auto", "chw", "hwc")
_KINDS = ("auto", "image", "vector")
_PIXELS = 1 << 22  # values looked at together
_OUT = "; --kind vector keeps the numbers as they are"


@dataclass(frozen=True)
class Reading:
    """How the arrays of one key are taken, in every split.

    Attributes:
        image: Whether they are pictures.
        layout: Of 4 axes: `chw` or `hwc`.
        note: What the user should know.
    """

    image: bool
    layout: str = "chw"
    note: str = ""

    def view(self, array: np.ndarray) -> np.ndarray:
        """The array as [n, C, H, W] if it holds pictures; no copy."""
        if not self.image:
            return array
        if array.ndim == 3:
            return array[:, None]
        return array.transpose(0, 3, 1, 2) if self.layout == "hwc" else array

    def dtype(self, array: np.ndarray) -> np.dtype:
        """What is stored."""
        return np.dtype("uint8") if self.image and array.dtype.kind in "iub" else array.dtype


def check_words(layout: str, kind: str) -> None:
    """Check what the user said of the arrays.

    Raises:
        UserError: None of the words there are.
    """
    if layout not in _LAYOUTS:
        raise UserError(f"layout is {layout!r}; it must be {', '.join(_LAYOUTS)}")
    if kind not in _KINDS:
        raise UserError(f"kind is {kind!r}; it must be {', '.join(_KINDS)}")


def may_be_pictures(key: str) -> bool:
    """Whether arrays of this key are looked at as pictures."""
    return folded(key) in ("", "x", "data") or folded(key).startswith("image")


def read_as(
    where: str,
    key: str,
    arrays: Sequence[np.ndarray],
    layout: str,
    kind: str,
    said: str | None = None,
) -> Reading:
    """How to take the arrays of a key.

    Args:
        where: File and key, for messages.
        key: The key, without its split.
        arrays: Of all splits, one number of axes and kind of numbers.
        layout: `chw`, `hwc` or `auto`.
        kind: `image`, `vector` or `auto`.
        said: What the user says of this key; then its name says nothing.

    Raises:
        UserError: Pictures are promised and the arrays are none; says what would be right.
    """
    first = arrays[0]
    named = may_be_pictures(key) or said == "image"
    if kind == "vector" or not named or first.dtype.kind not in "buif":
        return Reading(False)
    promised = kind == "image" or folded(key).startswith("image")
    shape = ("n", *first.shape[1:])
    if first.ndim not in (3, 4):
        if kind == "image":
            raise UserError(f"{where}: {_shown(shape)} cannot be pictures; {IMAGE_RULE}")
        return Reading(False)
    if 0 in first.shape:
        return Reading(True)  # refused as every field that holds nothing
    if first.ndim == 4:
        layout = _channels(where, first, layout, sure=promised or first.dtype == np.uint8)
        if not layout:
            return Reading(False)
        promised = promised or first.shape[1 if layout == "chw" else 3] in IMAGE_CHANNELS
    fault = _numbers(arrays)
    if not fault:
        return Reading(True, layout)
    if promised:
        raise UserError(f"{where}: {_shown(shape)} with {fault}; {IMAGE_RULE}{_OUT}")
    note = f"kept as a vector, not as pictures: {where}: {_shown(shape)} with {fault}"
    return Reading(False, note=note)


def _channels(where: str, array: np.ndarray, layout: str, *, sure: bool) -> str:
    """`chw` or `hwc`, or "" if this is no picture."""
    shape = _shown(("n", *array.shape[1:]))
    places = {"chw": array.shape[1], "hwc": array.shape[3]}
    if layout != "auto":
        return layout
    for likely in (IMAGE_CHANNELS, FEW_CHANNELS):
        fit = [name for name, size in places.items() if size in likely]
        if len(fit) == 1:
            return fit[0]
        if fit:
            break
    if fit or sure:
        raise UserError(
            f"{where}: shape {shape} does not tell where the channels are; say --layout chw (they "
            f"come first) or --layout hwc (last){_OUT}"
        )
    return ""


def _numbers(arrays: Sequence[np.ndarray]) -> str:
    """Why these numbers are none of pictures, or "" if they are."""
    kinds = {array.dtype.kind for array in arrays}
    if kinds == {"b"} or all(array.dtype == np.uint8 for array in arrays):
        return ""
    low, high = _range(arrays)
    said = f"{arrays[0].dtype} from {low:.4g} to {high:.4g}"
    if "f" in kinds:
        return "" if 0 <= low and high <= 1 else said
    if low < 0 or high > 255:
        return said
    return f"{said}: save zeros and ones as bool" if high <= 1 else ""


def _range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Least and greatest finite number; what is not finite is refused by its row, later."""
    low, high = np.inf, -np.inf
    for array in arrays:
        step = max(1, _PIXELS // max(1, array[0].size))
        for start in range(0, len(array), step):
            piece = take_rows(array, np.arange(start, min(start + step, len(array))))
            piece = piece[np.isfinite(piece)] if piece.dtype.kind == "f" else piece
            if piece.size:
                low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _shown(shape: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
