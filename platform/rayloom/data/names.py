"""Names in one's own data, in one Unicode form: classes, columns, keys, splits.

The same word may be stored composed (NFC, as most systems type it) or decomposed (NFD, as macOS
writes folders); here it is always the first. Names that a person cannot tell apart are refused.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from rayloom.core.errors import UserError, or_rather

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
}
TOKEN_NAMES = ("tokens", "token_ids", "input_ids", "ids")
TEXT_NAMES = ("text", "texts", "caption", "captions", "prompt", "prompts")
LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class")
_WORDS = "|".join(sorted(SPLIT_NAMES, key=len, reverse=True))
_HEAD = re.compile(rf"({_WORDS})(set|split|data|images?|imgs?|pics|pictures|photos|[ab])?")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Folders that say what pictures are for, as data sets of segmentation and detection have them.
ROLES = frozenset(
    "image images img imgs jpegimages picture pictures photo photos mask masks label labels "
    "annotation annotations segmentation segmentations target targets input inputs output outputs "
    "gt groundtruth ground_truth depth edges source".split()
)


def one_form(name: str) -> str:
    """The name in the form in which names are kept and compared (NFC)."""
    return unicodedata.normalize("NFC", name)


def seen_as(name: str) -> str:
    """What a reader sees of a name: no invisible characters, no space at its ends or doubled."""
    visible = "".join(c for c in one_form(name) if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join(visible.split())


def folded(name: str) -> str:
    """The name as words are looked up: compatible forms and cases made one."""
    return unicodedata.normalize("NFKC", seen_as(name)).casefold()


def split_of(name: str) -> str | None:
    """The split that a folder, file or key of this name means, or None."""
    return SPLIT_NAMES.get(folded(name))


def like_split(name: str) -> str | None:
    """The split that a name such as `train_images` or `testA` seems to mean, or None."""
    for word in re.split(r"[\W_\d]+", folded(_HUMP.sub(" ", name))):
        found = _HEAD.fullmatch(word)
        if found:
            return SPLIT_NAMES[found[1]]
    return None


def is_label(name: str) -> bool:
    """Whether a column or key of this name holds labels, if its values can be such."""
    return folded(name) in LABEL_NAMES


def check_distinct(names: Iterable[str], where: str, what: str) -> None:
    """Refuse names that are equal, or that look equal.

    Args:
        names: All of them.
        where: File or folder, for the message.
        what: What is named, in the plural.

    Raises:
        UserError: Two are the same, or differ by Unicode form, spaces or invisible characters.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(seen_as(name))
        if other == name:
            raise UserError(f"{where}: two {what} are called {name!r}; rename one of them")
        if other is not None:
            raise UserError(
                f"{where}: two {what} look the same: {other!a} and {name!a} differ only "
                "in Unicode form, spaces or invisible characters; rename one of them"
            )
        seen[seen_as(name)] = name


def chosen(
    wanted: Sequence[str], have: Sequence[str], where: str, flag: str, what: str
) -> list[str]:
    """The names that a flag asks for, spelled as they are stored.

    Args:
        wanted: What the user gave.
        have: What there is.
        where: File, for the message.
        flag: The flag.
        what: What is named, in the singular.

    Raises:
        UserError: A name is not there, or was given twice.
    """
    stored = {one_form(name): name for name in have}
    found: list[str] = []
    for name in wanted:
        if one_form(name) not in stored:
            hint = or_rather(name, have)
            raise UserError(f"{where}: has no {what} {name!r}{hint}; it has: {', '.join(have)}")
        if stored[one_form(name)] in found:
            raise UserError(f"{flag} names {name!r} twice")
        found.append(stored[one_form(name)])
    return found


def check_readable(name: str, where: str) -> None:
    """Refuse a name that cannot be printed.

    Raises:
        UserError: It is no valid text, or holds control characters.
    """
    if any(unicodedata.category(c) in ("Cs", "Cc") for c in name):
        raise UserError(
            f"{where}: the name {name!a} holds characters that cannot be printed; rename it"
        )


def case_twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ only in case, or None. Single letters (`A`, `a`) are classes."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name and len(name) > 1:
            return other, name
    return None


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, the first few of them."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def counted(counts: Mapping[str, int]) -> str:
    """Counts for a message, the greatest first: `.txt 10, .mat 2`."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return listed(f"{name} {count}" for name, count in most)
