"""What the user says of fields, `--field NAME=KIND`, and what names say: masks, second pictures."""

from collections.abc import Mapping, Sequence

import numpy as np

from rayloom.core.errors import UserError, or_rather
from rayloom.core.fields import MAX_CLASSES
from rayloom.data.names import folded, one_form

KINDS = ("image", "mask", "label", "vector", "tokens", "text")
MASK_NAMES = ("mask", "masks", "segmentation", "segmentations", "annotation", "annotations")
TARGET_NAMES = ("target", "targets", "output", "outputs", "y")
BLACK_WHITE = 255  # a mask of 0 and this one has two classes


def parse_fields(words: Sequence[str]) -> dict[str, str]:
    """Kinds by name.

    Raises:
        UserError: A word is no NAME=KIND, a name comes twice, or a kind is none.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, kind = word.partition("=")
        name = one_form(name)
        if not equals or not name or kind not in KINDS:
            hint = "" if kind in KINDS else or_rather(kind, KINDS)
            raise UserError(
                f"--field {word!r}: write NAME=KIND, such as target=image; kinds: "
                f"{', '.join(KINDS)}{hint}"
            )
        if name in found:
            raise UserError(f"--field names {name!r} twice")
        found[name] = kind
    return found


def check_all_used(where: str, said: Mapping[str, str], have: Sequence[str], what: str) -> None:
    """Every name that the user gave is there.

    Raises:
        UserError: One is not; says which are.
    """
    for name in said:
        if name not in have:
            hint = or_rather(name, have)
            raise UserError(f"{where}: has no {what} {name!r}{hint}; it has: {', '.join(have)}")


def field_of(name: str) -> str | None:
    """`mask` or `target` where a name means such, or None."""
    if folded(name) in MASK_NAMES:
        return "mask"
    return "target" if folded(name) in TARGET_NAMES else None


def field_name(name: str, kind: str) -> str:
    """What the field of a key or folder is called: `mask` and `target` by any of their names."""
    meant = field_of(name)
    if meant is not None and kind == "mask":
        return "mask"
    return "target" if meant == "target" and kind == "image" else name


def mask_classes(where: str, parts: Sequence[np.ndarray]) -> tuple[int, bool]:
    """How many classes masks have, and whether they are black and white.

    Args:
        where: File, and key or column.
        parts: Masks, whole numbers or bool.

    Raises:
        UserError: They hold other numbers; says what would be right.
    """
    if any(part.dtype.kind not in "iub" for part in parts):
        raise UserError(f"{where}: a mask holds whole numbers from 0, the class of each pixel")
    values = np.unique(np.concatenate([np.unique(part) for part in parts]))
    if int(values[0]) < 0 or int(values[-1]) >= MAX_CLASSES:
        raise UserError(
            f"{where}: the classes of a mask are numbered from 0; {values[0]} to {values[-1]} came"
        )
    if set(values.tolist()) == {0, BLACK_WHITE}:
        return 2, True
    return int(values[-1]) + 1, False


def stored_masks(values: np.ndarray, classes: int, black_white: bool) -> np.ndarray:
    """Masks in the stored dtype: uint8 where that has room."""
    made = values != 0 if black_white else values
    return made.astype(np.uint8 if classes <= 256 else np.int64)
