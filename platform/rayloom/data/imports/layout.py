"""What the folders of a folder of images say: splits and classes.

    FOLDER/*.png                        pictures
    FOLDER/CLASS/*.png                  classes
    FOLDER/(train|test|validation)/...  splits of either

What fits half is refused by name, never guessed: docs/data.md has the table.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rayloom.core.errors import UserError
from rayloom.data.imports.checks import label_codes
from rayloom.data.names import (
    ROLES,
    case_twins,
    check_distinct,
    check_readable,
    counted,
    folded,
    like_split,
    listed,
    one_form,
    split_of,
)
from rayloom.data.ordering import content_order, split_order

CAPTIONS = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What unpackers, cameras and file servers leave; hidden folders are passed over too.
LEFTOVERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
Parts = tuple[str, ...]  # names from the folder down, the picture's own last


@dataclass
class Found:
    """What lies below a folder.

    Attributes:
        paths: Pictures, sorted.
        folders: Every folder that was looked into, as parts.
        passed: Files that are no pictures, by suffix.
    """

    paths: list[Path] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


@dataclass
class Layout:
    """What the names say.

    Attributes:
        splits: Rows (of the paths) of each split.
        labels: int64, of each path; empty without classes.
        classes: Names of the labels; empty without classes.
        notes: What was passed over.
    """

    splits: dict[str, np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    notes: list[str]


def walk(folder: Path) -> Found:
    """Pictures below a folder; hidden ones, leftovers and other files are passed over.

    Raises:
        UserError: Something cannot be read, a link leads out, or there are no pictures.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    found = Found()
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in LEFTOVERS)
        for name in folders:
            path = Path(place, name)
            check_readable(name, place)
            if path.is_symlink():
                raise UserError(f"{path}: a link to a folder; put the folder there")
            found.folders.append(path.relative_to(folder).parts)
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if name == CAPTIONS:
                continue
            if path.suffix.lower() not in SUFFIXES:
                found.passed[path.suffix.lower() or "no suffix"] += 1
                continue
            _check_file(path, folder)
            found.paths.append(path)
    if not found.paths:
        there = f"; it holds {counted(found.passed)}" if found.passed else ""
        raise UserError(f"{folder}: no images in it (looked for {', '.join(SUFFIXES)}{there})")
    return found


def _check_file(path: Path, folder: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: a link that leads out of {folder}; copy the file there")
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not regular:
        raise UserError(f"{path}: is not a regular file")


def read_layout(folder: Path, found: Found, test_fraction: float) -> Layout:
    """Splits and classes of the pictures in a folder.

    Args:
        folder: The folder.
        found: What lies in it.
        test_fraction: Part that becomes `test` where no folder says which.

    Raises:
        UserError: The folders fit no layout, or only half; names them and says what would.
    """
    parts = [path.relative_to(folder).parts for path in found.paths]
    held = {part[:depth] for part in parts for depth in range(1, len(part))}
    empty = [place for place in found.folders if place not in held]
    tops = list(dict.fromkeys(p[0] for p in parts if len(p) > 1))
    split_tops = [t for t in (*tops, *(e[0] for e in empty if len(e) == 1)) if split_of(t)]
    order = content_order((os.fsencode(one_form("/".join(p))) for p in parts), "images")
    if split_tops:
        _check_splits(folder, parts, tops, split_tops)
        names = np.array([split_of(p[0]) for p in parts])
        splits = {
            split: order[names[order] == split]
            for split in ("train", "validation", "test")
            if split in names
        }
        homes = [p[:1] for p in parts]
    else:
        splits = split_order(order, test_fraction)
        homes = [() for _ in parts]
    rest = [p[len(home) :] for p, home in zip(parts, homes, strict=True)]
    classes = _class_names(folder, homes, rest)
    notes = _notes(found, empty)
    if not classes:
        return Layout(splits, np.zeros(0, np.int64), (), notes)
    labels, names_of = label_codes(classes, str(folder))
    if len(names_of) == 1 and not split_tops:
        notes.append(
            f"one class only, {names_of[0]!r}; `rayloom data import {folder / rest[0][0]}` takes "
            "the pictures without labels"
        )
    return Layout(splits, labels, names_of, notes)


def _check_splits(
    folder: Path, parts: Sequence[Parts], tops: Sequence[str], split_tops: Sequence[str]
) -> None:
    """Folders of splits stand alone, are one per split, hold pictures, and `train` is there."""
    others = [t for t in tops if t not in split_tops]
    said = listed(split_tops)
    if others:
        raise UserError(
            f"{folder}: {said} are folders of splits, but beside them is {listed(others)}, which "
            "says no split: name every folder after one (train, test, validation), or move or "
            "rename what is none"
        )
    for part in parts:
        if len(part) == 1:
            raise UserError(
                f"{folder / part[0]}: lies beside the folders of the splits ({said}); move it "
                "into one"
            )
    seen: dict[str, str] = {}
    for top in split_tops:
        split = str(split_of(top))
        if split in seen:
            raise UserError(
                f"{folder}: the folders {seen[split]} and {top} both mean the split {split!r}; "
                "join them"
            )
        seen[split] = top
        if top not in tops:
            raise UserError(f"{folder / top}: a folder of a split, but no pictures are in it")
    if "train" not in seen:
        raise UserError(
            f"{folder}: {said}: folders of splits without train; add it, or give the folders "
            "other names if they are classes"
        )


def _check_classes(where: Path, names: Sequence[str]) -> None:
    """The folders of one level are classes, not splits or roles, and can be told apart."""
    alike = {name: like_split(name) for name in names if like_split(name)}
    if "train" in alike.values() and len(set(alike.values())) > 1:
        raise UserError(
            f"{where}: the folders {listed(alike)} look like splits: call them train, test, "
            "validation, and import the folder in which they are"
        )
    if any(split_of(name) for name in names):
        said = listed(name for name in names if split_of(name))
        raise UserError(
            f"{where}: holds {said} among classes, which are names of splits: one level too deep? "
            "Rename what is a class"
        )
    roles = [name for name in names if folded(name) in ROLES]
    if len(roles) > 1 and len(roles) == len(names):
        raise UserError(
            f"{where}: the folders {listed(roles)} look like parts of examples, not like classes: "
            f"import one of them, such as {where / roles[0]}"
        )
    check_distinct(names, str(where), "folders of classes")
    twins = case_twins(names)
    if twins:
        raise UserError(
            f"{where}: the classes {twins[0]!r} and {twins[1]!r} differ only in case; rename or "
            "join them"
        )


def _class_names(folder: Path, homes: Sequence[Parts], rest: Sequence[Parts]) -> list[str]:
    """Class of each picture, in one Unicode form; empty if there are no classes."""
    flat: dict[str, Parts] = {}
    deep: dict[str, Parts] = {}
    for home, part in zip(homes, rest, strict=True):
        (flat if len(part) == 1 else deep).setdefault("/".join(home), (*home, *part))
    if not deep:
        return []
    for top, first in flat.items():
        if top in deep:
            raise UserError(
                f"{folder.joinpath(*first)}: lies beside the folders of the classes; move it "
                "into one"
            )
        other = next(iter(deep))
        raise UserError(
            f"{folder}: {other} has folders of classes, {top} has pictures without: give both "
            "the same classes, or neither"
        )
    by_home: dict[Parts, dict[str, None]] = {}
    for home, part in zip(homes, rest, strict=True):
        by_home.setdefault(home, {})[part[0]] = None
    for place, names in by_home.items():
        _check_classes(folder.joinpath(*place), list(names))
    _check_depth(folder, [(*home, *part) for home, part in zip(homes, rest, strict=True)], homes)
    _check_trained({place[0]: names for place, names in by_home.items() if place})
    return [one_form(part[0]) for part in rest]


def _check_trained(by_split: Mapping[str, Mapping[str, None]]) -> None:
    """Every class is in `train`; one that is not comes from another layout or a slip."""
    train = {one_form(n): n for top, names in by_split.items() if split_of(top) == "train"
             for n in names}  # fmt: skip
    for top, names in by_split.items():
        for name in names:
            if one_form(name) in train:
                continue
            twins = case_twins([*train, one_form(name)])
            hint = f" (it has {twins[0]!r}: one case for both)" if twins else ""
            raise UserError(
                f"{top}/{name}: this class is in {top} but not in train{hint}; train has "
                f"{listed(train)}"
            )


def _check_depth(folder: Path, parts: Sequence[Parts], homes: Sequence[Parts]) -> None:
    """A class folder holds pictures, or one chain of folders that ends in pictures."""
    lonely = len({part[: len(home) + 1] for part, home in zip(parts, homes, strict=True)}) == 1
    inside: dict[Parts, set[str]] = {}
    for part, home in zip(parts, homes, strict=True):
        for depth in range(len(home) + 1, len(part)):
            below = part[depth] if depth < len(part) - 1 else ""  # "": a picture
            inside.setdefault(part[:depth], set()).add(below)
    for place, found in inside.items():
        where = folder.joinpath(*place)
        names = sorted(found - {""})
        splits = [name for name in names if split_of(name)]
        if splits:
            cure = f"import {where} itself" if lonely else "put them on top: FOLDER/train/CLASS"
            raise UserError(
                f"{where}: holds the folders {listed(names)}, of which {listed(splits)} say "
                f"splits; {cure}"
            )
        if len(names) > 1 or (names and "" in found):
            beside = " beside pictures" if "" in found else ""
            raise UserError(
                f"{where}: holds the folders {listed(names)}{beside}: classes cannot be nested; "
                f"import {where} itself, or put the folders of all classes side by side"
            )


def _notes(found: Found, empty: Sequence[Parts]) -> list[str]:
    notes = []
    if found.passed:
        notes.append(f"passed over, no pictures by their names: {counted(found.passed)}")
    outermost = [e for e in empty if e[:-1] not in empty]
    if outermost:
        notes.append(f"passed over, no pictures inside: {listed(_joined(outermost))}")
    return notes


def _joined(places: Sequence[Parts]) -> Iterator[str]:
    return ("/".join(place) + "/" for place in places)
