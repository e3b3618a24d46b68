"""Conditions of a draw, `--given label=3`: read by the kind of their field, checked by the data.

    label=3   label=sneaker   label=0,3,7   label=0..9     classes, by number or name
    x=0.5,-1                                               a row of numbers
    image=test:0..15   image=FILE                          rows of a data set or file
    text="cat face"    prompt="ROMEO:"                     texts, by the data's tokenizer

Several values take turns over the rows of the draw.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.protocols import Batch, DataSpec, FieldSpec, Operation
from rayloom_pipelines.load.fields import encode_texts, fit, wanted_field
from rayloom_pipelines.load.rows import read_rows

_RANGE = re.compile(r"(\d+)\.\.(\d+)\Z")


def words_of(given: list[str]) -> dict[str, str]:
    """`NAME=VALUE` words as a mapping.

    Raises:
        UserError: One is no such word, or a name stands twice.
    """
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise UserError(f"--given {word}: must be NAME=VALUE, such as label=3")
        if name in found:
            raise UserError(f"--given {name}: stands twice; several values are {name}=A,B")
        found[name] = value
    return found


def conditions(
    given: Mapping[str, Any], operation: Operation, model: str, spec: DataSpec, config: RunConfig
) -> Batch:
    """What is given, by field: (k, ...) each.

    Args:
        given: Words or arrays by field.
        operation: Whose conditions.
        model: The model's class, for messages.
        spec: The data that the model was built for.
        config: Of the run.

    Raises:
        UserError: The operation takes no such condition, or its value does not fit the data.
    """
    takes = operation.conditions
    rows: Batch = {}
    for name, value in given.items():
        if name not in takes:
            can = ", ".join(takes) or "no conditions"
            hint = did_you_mean(name, takes)
            raise UserError(
                f"given {name}: {operation.name!r} of {model} takes no such condition{hint} "
                f"It takes: {can}"
            )
        field = takes[name]
        wanted = wanted_field(spec, field)
        if wanted.kind in ("text", "tokens") and _is_text(value):
            rows |= encode_texts(name, value, field, spec)
        else:
            read = _values(name, value, wanted, spec, config, field)
            rows |= {f"{name}{key.removeprefix(field)}": rows_ for key, rows_ in read.items()}
    return rows


def spread(rows: Batch, num: int) -> Batch:
    """Conditions for `num` rows: several values take turns."""
    return {name: value[torch.arange(num) % len(value)] for name, value in rows.items()}


def _values(
    name: str, value: Any, wanted: FieldSpec, spec: DataSpec, config: RunConfig, field: str
) -> Batch:
    """The rows of a condition, as `field`; of a varying field with its lengths and mask."""
    where = f"given {name}={value}" if isinstance(value, str | int | float) else f"given {name}"
    if isinstance(value, str) and wanted.kind != "label":
        numbers = _numbers(value)
        if numbers is None:
            return read_rows(value, (field,), spec, config, where=where)
        value = torch.tensor(numbers, dtype=torch.float64)
        value = value.view(wanted.shape) if value.numel() == math.prod(wanted.shape) else value
    words = [value] if isinstance(value, str | int) else value
    if wanted.kind == "label" and isinstance(words, list | tuple):
        if isinstance(value, str) and ":" in value and value not in wanted.classes:
            return read_rows(value, (field,), spec, config, where=where)
        items = [part for word in words for part in _parts(str(word), wanted)]
        classes = [number for item in items for number in _classes(item, wanted, where)]
        return {field: torch.tensor(classes, dtype=getattr(torch, wanted.dtype))}
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: no numbers ({error})") from error
    return {field: fit(tensor[None] if tensor.ndim == len(wanted.shape) else tensor, wanted, where)}


def _is_text(value: Any) -> bool:
    words = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(word, str) for word in words)


def _parts(word: str, field: FieldSpec) -> list[str]:
    return [word] if word in field.classes else word.split(",")


def _classes(item: str, field: FieldSpec, where: str) -> list[int]:
    """Numbers of the classes that one word names."""
    names = list(field.classes)
    if item in names:
        return [names.index(item)]
    span = _RANGE.match(item)
    if span is not None and int(span[1]) <= int(span[2]) < field.num_classes:
        return list(range(int(span[1]), int(span[2]) + 1))
    if item.isdecimal() and int(item) < field.num_classes:
        return [int(item)]
    folded = {name.casefold(): number for number, name in enumerate(names)}
    if item.casefold() in folded:
        return [folded[item.casefold()]]
    allowed = f"a number 0..{field.num_classes - 1}"
    if names:
        allowed += f" or a name: {', '.join(names)}"
    hint = did_you_mean(item, names).rstrip(".")
    raise UserError(f"{where}: {item!r} is no class{hint}; a class is {allowed}")


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None
