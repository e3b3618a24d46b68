"""What an operation gave, as media; and their file with its side-car."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.files import write_atomic
from rayloom.core.protocols import Batch, DataSpec, Operation
from rayloom.media import Arrays, Film, Images, Media, Table, Text
from rayloom.media.writers import encode, endings_of

_OF_KIND: dict[str, tuple[type, ...]] = {
    "image": (Images,),
    "mask": (Images,),
    "film": (Film,),
    "text": (Text,),
    "tokens": (Text, Table),
    "label": (Table,),
    "vector": (Table,),
}


def possible(operation: Operation, spec: DataSpec | None = None) -> list[str]:
    """The endings that an operation's result can be written with, as far as it tells."""
    kinds: set[type] = set()
    gives = {
        name: kind
        for name, kind in operation.gives.items()
        if spec is None or name != kind or kind not in ("image", "vector") or name in spec.fields
    }  # of what a model gives by its data, what these data have
    for place, (name, kind) in enumerate(gives.items()):
        found = _OF_KIND.get(kind, (Table,))
        if kind == "tokens" and spec is not None and name not in spec.tokenizers:
            found = (Table,)
        kinds |= {one for one in found if one is not Table or not place}
    return endings_of([*kinds, Arrays])


def check_ending(out: Path, operation: Operation, spec: DataSpec) -> None:
    """Refuse a file name before anything is computed.

    Raises:
        UserError: The result cannot be written so; lists the endings that can be.
    """
    can = possible(operation, spec)
    if out.suffix.lower() not in can:
        raise UserError(f"--out {out}: what {operation.name!r} gives must end in {', '.join(can)}")


def media_of(
    result: Batch, operation: Operation, spec: DataSpec | None, *, columns: int | None = None
) -> list[Media]:
    """The forms that a result has: pictures, films, texts, tables (of what is no picture), arrays.

    Args:
        result: What the operation gave, the main field first.
        operation: The operation.
        spec: The data of the model, for class names and tokenizers.
        columns: Pictures in a row of a grid; None: 8.
    """
    forms: list[Media] = []
    table: dict[str, list[Any]] = {}
    for place, (name, value) in enumerate(result.items()):
        kind = _kind(name, value, operation, spec)
        if kind == "image" and value.ndim == 4:
            pixels = value if value.is_floating_point() else value.float() / 255
            forms.append(Images(pixels, columns))
        elif kind == "mask" and value.ndim in (3, 4):
            forms.append(Images(_painted(value), columns))
        elif kind == "film" and value.ndim == 5:
            forms.append(Film(value.transpose(0, 1), columns=columns))  # (T, B, C, H, W)
        elif kind in ("text", "tokens") and spec is not None and name in spec.tokenizers:
            forms.append(_text(name, value, result.get(f"{name}_length"), spec))
        elif value.ndim <= 2 and (table or not place):
            table |= _columns(name, value, kind, spec)
    if table:
        forms.append(Table(table))
    main, *rest = result.items()
    first = {"samples": main[1]} if operation.name == "sample" else dict([main])
    return [*forms, Arrays(first | dict(rest))]


def save(out: Path, forms: list[Media], facts: Mapping[str, Any]) -> Path:
    """Write a file, and beside it `<its name>.json` with what made it. Neither is ever half there.

    Args:
        out: The file; its folder is made.
        forms: See `media_of`.
        facts: What made it, JSON-able.

    Raises:
        UserError: Nothing of that ending can hold it, or the disk refuses.
    """
    try:
        content = encode(forms, out.suffix.lower())
    except ValueError as error:
        raise UserError(
            f"--out {out}: {error}: with these settings nothing else was made (`rayloom list "
            "models NAME` tells them)"
        ) from error
    told = {"file": out.name, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, content)
        side = json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"
        write_atomic(out.with_name(f"{out.name}.json"), side)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return out


def _kind(name: str, value: Tensor, operation: Operation, spec: DataSpec | None) -> str:
    told = operation.gives.get(name)
    field = spec.fields.get(name) if spec is not None else None
    return told or (field.kind if field is not None else "vector")


def _columns(name: str, value: Tensor, kind: str, spec: DataSpec | None) -> dict[str, list[Any]]:
    """A column of numbers or lists; of classes that have names, one of names beside it."""
    columns = {name: value.float().tolist() if value.dtype is torch.bfloat16 else value.tolist()}
    field = spec.fields.get(name) if spec is not None else None
    names = field.classes if field is not None else ()
    if kind == "label" and names and value.ndim == 1:
        columns[f"{name}_name"] = [names[number] for number in columns[name]]
    return columns


def _text(name: str, value: Tensor, length: Tensor | None, spec: DataSpec) -> Text:
    from rayloom.data.text import tokenizer_of

    tokenizer = tokenizer_of(spec, name)
    ends = [value.shape[1]] * len(value) if length is None else length.tolist()
    rows = zip(value, ends, strict=True)
    return Text([tokenizer.decode(row[:end].numpy()) for row, end in rows])


def _painted(mask: Tensor) -> Tensor:
    """Classes (B, H, W) or (B, 1, H, W) as colours (B, 3, H, W); class 0 is black."""
    classes = mask.reshape(len(mask), *mask.shape[-2:]).long()
    hue = (classes.double() * 0.618034) % 1  # golden steps: neighbours differ
    shift = torch.tensor([0.0, 1 / 3, 2 / 3], dtype=torch.float64).view(1, 3, 1, 1)
    colour = ((hue[:, None] + shift) % 1 * 6 - 3).abs().sub(1).clamp(0, 1)
    return (colour * (classes > 0)[:, None]).float()
