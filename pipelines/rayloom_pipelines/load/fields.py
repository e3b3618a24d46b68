"""Values as the fields of a model's data: shape, numbers and classes checked."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import Batch, DataSpec, FieldSpec


def wanted_field(spec: DataSpec, name: str) -> FieldSpec:
    """A field of the model's data.

    Raises:
        UserError: They have none of that name.
    """
    if name not in spec.fields:
        have = ", ".join(f"{key} ({field.kind})" for key, field in spec.fields.items())
        raise UserError(f"the data {spec.name!r} of this run have no field {name!r}; they: {have}")
    return spec.fields[name]


def fit(value: Any, field: FieldSpec, where: str) -> Tensor:
    """Rows as a model gets them: of the field's shape and kind of numbers.

    Raises:
        UserError: They do not fit; says what would be right.
    """
    try:
        rows = (
            value.detach().cpu()
            if isinstance(value, Tensor)
            else torch.as_tensor(np.asarray(value))
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: no array of numbers ({error})") from error
    wanted = ("n", *field.shape)
    fits = rows.ndim == len(wanted) and all(
        want in (-1, have) for want, have in zip(field.shape, rows.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join(map(str, wanted))
        raise UserError(f"{where} has the shape {tuple(rows.shape)}; the model wants ({shape})")
    dtype = getattr(torch, field.dtype)
    if field.num_classes:
        return _classes(rows, field, dtype, where)
    if field.kind == "image" and rows.is_floating_point():
        if not bool(((rows >= 0) & (rows <= 1)).all()):
            raise UserError(f"{where}: pictures of floating numbers lie in [0, 1]; uint8 in 0..255")
        return rows.float()
    if rows.is_floating_point() and not bool(rows.isfinite().all()):
        raise UserError(f"{where}: some numbers are not finite")
    if not dtype.is_floating_point and not torch.equal(rows.to(dtype).to(rows.dtype), rows):
        raise UserError(
            f"{where}: some numbers are no {field.dtype}, which the model was trained on"
        )
    return rows.to(dtype)


def _classes(rows: Tensor, field: FieldSpec, dtype: torch.dtype, where: str) -> Tensor:
    whole = not rows.is_floating_point() or bool((rows == rows.round()).all())
    if not whole or bool((rows < 0).any()) or bool((rows >= field.num_classes).any()):
        raise UserError(f"{where}: classes are whole numbers 0..{field.num_classes - 1}")
    return rows.to(dtype)


def encode_texts(name: str, value: Any, field: str, spec: DataSpec) -> Batch:
    """Texts as the numbers of a field, padded with zeros, their lengths and mask beside them.

    Args:
        name: What the condition is called.
        value: A text, or several.
        field: Of the data, whose tokenizer is used.
        spec: The data that the model was built for.

    Raises:
        UserError: A text is empty, or the tokenizer does not know a character.
    """
    from rayloom.data.text import tokenizer_of

    tokenizer = tokenizer_of(spec, field)
    texts = [value] if isinstance(value, str) else list(value)
    try:
        rows = [torch.from_numpy(tokenizer.encode(text).copy()) for text in texts]
    except UserError as error:
        raise UserError(f"given {name}: {error}") from error
    length = torch.tensor([len(row) for row in rows])
    if not all(length):
        raise UserError(f"given {name}: the text is empty")
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(padded.shape[1]) < length[:, None]
    dtype = getattr(torch, spec.fields[field].dtype)
    return {name: padded.to(dtype), f"{name}_length": length, f"{name}_mask": mask}
