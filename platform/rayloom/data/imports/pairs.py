"""Folders of pairs: `images/` beside `masks/`, or beside a second picture, equal in name.

    FOLDER/images/a.png    FOLDER/masks/a.png
    FOLDER/(train|test|validation)/images/...   and so on

A mask has one channel, the class of each pixel; of 0 and 255 it has two classes. Where sizes are
brought to one, masks are scaled by the nearest pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset, open_store
from rayloom.data.imports.checks import check_import, target_folder
from rayloom.data.imports.images import check_size, decode, one_size, read_header
from rayloom.data.imports.kinds import (
    check_all_used,
    field_name,
    field_of,
    mask_classes,
    stored_masks,
)
from rayloom.data.imports.layout import walk
from rayloom.data.names import folded, listed, split_of
from rayloom.data.ordering import content_order, split_order
from rayloom.data.preparation import store_lock
from rayloom.data.store.writer import StoreWriter

IMAGE_NAMES = (
    *("image", "images", "img", "imgs", "jpegimages", "picture", "pictures", "photo", "photos"),
    *("input", "inputs", "source"),
)
_ENDINGS = ("_mask", "_masks", "_gt", "_seg", "_label", "_labels", "_target", "_image", "_img")
_MASK_MODES = ("1", "L", "P", "I;16", "I")
_ROWS = 256


@dataclass(frozen=True)
class Role:
    """What a folder's pictures are.

    Attributes:
        folder: Its name.
        field: Of the data set.
        kind: `image` or `mask`.
    """

    folder: str
    field: str
    kind: str


def roles_of(folder: Path, said: Mapping[str, str]) -> tuple[list[Role], list[str]] | None:
    """Roles and splits of a folder of pairs, or None if it is none.

    Args:
        folder: The folder.
        said: Kinds by folder name, as the user gave them.

    Raises:
        UserError: The user's names or the folders fit half.
    """
    tops = _folders(folder)
    splits = [top for top in tops if split_of(top)]
    if splits and len(splits) == len(tops):
        inner = [set(_folders(folder / split)) for split in splits]
        names = sorted(inner[0])
        if any(found != inner[0] for found in inner):
            if any(_roles(sorted(found), said) for found in inner):
                raise UserError(f"{folder}: {listed(splits)} hold different folders of pairs")
            return None
        roles = _roles(names, said)
    else:
        splits, names = [], tops
        roles = _roles(names, said)
    check_all_used(str(folder), said, names, "folder")
    if said and roles is None:
        raise UserError(
            f"{folder}: --field tells of folders of pairs, and one of them must hold the pictures "
            f"(images, or NAME=image); there are: {listed(names) or 'none'}"
        )
    return None if roles is None else (roles, splits)


def _folders(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _roles(names: Sequence[str], said: Mapping[str, str]) -> list[Role] | None:
    """What each folder is: all of them, one `image`, each field once; else None."""
    found: list[Role] = []
    for name in names:
        kind, meant = said.get(name), field_of(name)
        if kind not in (None, "image", "mask"):
            raise UserError(f"--field {name}={kind}: a folder of pictures is image or mask")
        if folded(name) in IMAGE_NAMES and kind in (None, "image"):
            found.append(Role(name, "image", "image"))
        elif kind is not None:
            found.append(Role(name, field_name(name, kind), kind))
        elif meant is not None:
            found.append(Role(name, meant, "mask" if meant == "mask" else "image"))
        else:
            return None
    fields = [role.field for role in found]
    pictures = [k for k, role in enumerate(found) if role.kind == "image"]
    if "image" not in fields and said and pictures:  # the one that the user calls pictures
        found[pictures[0]] = Role(found[pictures[0]].folder, "image", "image")
        fields = [role.field for role in found]
    good = len(found) > 1 and "image" in fields and len(set(fields)) == len(fields)
    return found if good else None


def import_pairs(
    folder: Path,
    name: str,
    roles: Sequence[Role],
    splits: Sequence[str],
    *,
    root: str | Path | None = None,
    size: int | None = None,
    test_fraction: float = 0.1,
    force: bool = False,
) -> Dataset:
    """Make a store of pairs.

    Args:
        folder: The folder.
        name: Name of the data set.
        roles: What its folders are.
        splits: Folders of splits, in which those are; empty: they are in `folder`.
        root: Folder of the stores.
        size: Side length in pixels to crop and scale to.
        test_fraction: Part that becomes `test` where no folder says which; by a hash.
        force: Replace a data set of that name.

    Raises:
        UserError: A picture without its partner, of another size, or a mask that is none.
    """
    check_size(size)
    target = target_folder(name, root, force=force)
    places = {str(split_of(split)): folder / split for split in splits} or {"": folder}
    if splits and "train" not in places:
        raise UserError(f"{folder}: {listed(splits)}: folders of splits without train; add it")
    if len(places) < len(splits):
        raise UserError(f"{folder}: two of {listed(splits)} mean one split; join them")
    rows = {split: _partners(place, roles) for split, place in places.items()}
    every = [row for found in rows.values() for row in found]
    reading = _Reading(roles, every, size)
    fields = reading.fields()
    check_import(folder, fields)
    with (
        store_lock(target),
        StoreWriter(
            target, fields, source=f"folder {folder}", description=f"{len(every)} pairs"
        ) as writer,
    ):
        for split, found in _by_split(rows, test_fraction).items():
            for start in range(0, len(found), _ROWS):
                writer.add(split, reading.read(found[start : start + _ROWS]))
    made = open_store(target)
    made.notes = (
        *(f"{role.folder}/: {role.kind} {role.field!r}" for role in roles),
        *reading.notes,
    )
    return made


Row = dict[str, Path]  # by field


def _by_split(rows: Mapping[str, list[Row]], fraction: float) -> dict[str, list[Row]]:
    if "" not in rows:
        return {split: found for split, found in rows.items()}
    found = rows[""]
    order = content_order((row["image"].stem.encode() for row in found), "pairs")
    return {k: [found[place] for place in v] for k, v in split_order(order, fraction).items()}


def _partners(place: Path, roles: Sequence[Role]) -> list[Row]:
    """The files of each example, in the order of their names."""
    by_field: dict[str, dict[str, Path]] = {}
    for role in roles:
        inside = place / role.folder
        known = by_field.setdefault(role.field, {})
        for path in walk(inside).paths:
            key = _key(path.relative_to(inside))
            if key in known:
                raise UserError(f"{path}: {known[key].name} beside it has the same name")
            known[key] = path
    pictures = by_field["image"]
    for field, known in by_field.items():
        for key in sorted(pictures.keys() ^ known.keys()):
            there = pictures.get(key) or known[key]
            lacking = field if key in pictures else "image"
            folder = next(role.folder for role in roles if role.field == lacking)
            raise UserError(f"{there}: has no partner in {place / folder}")
    return [{field: known[key] for field, known in by_field.items()} for key in sorted(pictures)]


def _key(path: Path) -> str:
    """The name that partners share: without suffix and endings such as `_mask`."""
    stem = path.stem
    for ending in _ENDINGS:
        stem = stem.removesuffix(ending)
    return str(path.with_name(stem))


class _Reading:
    """How the files of some roles become arrays.

    Args:
        roles: The roles.
        rows: All examples.
        size: Side length to crop and scale to.
    """

    def __init__(self, roles: Sequence[Role], rows: Sequence[Row], size: int | None) -> None:
        self.roles, self.notes = list(roles), list[str]()
        headers = {
            role.field: [read_header(row[role.field], str(row[role.field])) for row in rows]
            for role in roles
            if role.kind == "image"
        }
        self.grey = {field: all(h.grey for h in found) for field, found in headers.items()}
        paths = [row["image"] for row in rows]
        self.size = (size, size) if size else one_size(paths, headers["image"])
        self.scaled = size is not None
        self.classes: dict[str, tuple[int, bool]] = {}
        for role in roles:
            if role.kind != "mask":
                continue
            where = str(rows[0][role.field].parent)
            seen = [np.unique(self._mask(row[role.field])) for row in rows]
            self.classes[role.field] = mask_classes(where, seen)
            number, black_white = self.classes[role.field]
            there = len(np.unique(np.concatenate(seen)))
            if black_white:
                self.notes.append(f"{role.field}: 0 and 255 became the classes 0 and 1")
            elif there < number:
                self.notes.append(f"{role.field}: {number} classes by its highest, {there} occur")

    def fields(self) -> dict[str, FieldSpec]:
        """Specs, `image` first."""
        width, height = self.size
        made = {}
        for role in sorted(self.roles, key=lambda role: role.field != "image"):
            if role.kind == "mask":
                number = self.classes[role.field][0]
                dtype = "uint8" if number <= 256 else "int64"
                made[role.field] = FieldSpec((height, width), dtype, "mask", number)
            else:
                channels = 1 if self.grey[role.field] else 3
                made[role.field] = FieldSpec((channels, height, width), "uint8", "image")
        return made

    def read(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Some examples."""
        made: dict[str, Any] = {}
        for role in self.roles:
            paths = [row[role.field] for row in rows]
            if role.kind == "mask":
                masks = np.stack([self._mask(path) for path in paths])
                made[role.field] = stored_masks(masks, *self.classes[role.field])
                continue
            if not self.scaled:
                for path in paths:
                    self._check_size(path, read_header(path, str(path)))
            grey = self.grey[role.field]
            made[role.field] = np.stack([decode(p, str(p), self.size, grey) for p in paths])
        return made

    def _check_size(self, path: Path, header: Any) -> None:
        if (header.width, header.height) != self.size:
            raise UserError(
                f"{path} is {header.width} x {header.height} pixels, its partner {self.size[0]} x "
                f"{self.size[1]}; give --size N to bring all to N x N"
            )

    def _mask(self, path: Path) -> np.ndarray:
        """The class of each pixel, (H, W): palettes are numbers, and nothing is mixed."""
        try:
            with Image.open(path) as opened:
                image: Image.Image = opened
                if image.mode not in _MASK_MODES:
                    raise UserError(
                        f"{path}: pixels of kind {image.mode!r}; a mask has one channel, the class "
                        "of each pixel (or say NAME=image)"
                    )
                if self.scaled:
                    image = ImageOps.fit(image, self.size, method=Image.Resampling.NEAREST)
                made = np.asarray(image)
        except UserError:
            raise
        except Exception as error:  # Pillow's decoders raise anything at all on damaged files
            raise UserError(f"{path}: cannot be read as a mask ({type(error).__name__})") from None
        if made.shape != self.size[::-1]:
            raise UserError(
                f"{path} is {made.shape[1]} x {made.shape[0]} pixels, its picture {self.size[0]} x "
                f"{self.size[1]}"
            )
        return made
