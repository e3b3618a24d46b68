"""What windows and lanes share: which fields are cut, and where their steps lie.

Dimension key: n examples of the split, B rows taken, L steps of a row.

The steps of an example are those of its fields of varying length; text that stands beside them (a
caption) is none of them.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rayloom.config.data import LanesConfig, WindowsConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.split import Split
from rayloom.data.store.manifest import varies

RowsConfig = WindowsConfig | LanesConfig


def stepped(fields: Mapping[str, FieldSpec]) -> tuple[str, ...]:
    """The fields that are cut."""
    return tuple(k for k, v in fields.items() if varies(v) and v.kind != "text")


def fields_of_rows(
    name: str, fields: Mapping[str, FieldSpec], rows: RowsConfig
) -> dict[str, FieldSpec]:
    """Specs of what virtual rows hold.

    Args:
        name: Of the data set.
        fields: As stored.
        rows: The section `data.rows`.

    Raises:
        UserError: Nothing can be cut.
    """
    cut = stepped(fields)
    if not cut:
        have = ", ".join(f"{k} {v.shape}" for k, v in fields.items())
        raise UserError(
            f"data.rows: {rows.name} are pieces of fields whose length varies, and data set "
            f"{name!r} has none: {have}"
        )
    made = {k: replace(fields[k], shape=(rows.steps, *fields[k].shape[1:])) for k in cut}
    if rows.name == "windows":
        made |= {k: v for k, v in fields.items() if not varies(v)}
    return {k: made[k] for k in fields if k in made}


class Pieces:
    """Rows that are pieces of the examples of a split.

    Args:
        split: The examples.
        fields: Their specs, as stored.
        rows: The section `data.rows`.
    """

    varying = False  # all pieces have one length

    def __init__(self, split: Split, fields: Mapping[str, FieldSpec], rows: RowsConfig) -> None:
        self.split, self.config, self.streamed = split, rows, split.streamed
        self.cut = stepped(fields)
        every = torch.arange(len(split))
        self.examples = split.lengths(self.cut[0], every)  # (n,), steps of each
        for name in self.cut[1:]:
            if not torch.equal(split.lengths(name, every), self.examples):
                raise UserError(
                    f"data.rows: the fields {self.cut[0]!r} and {name!r} differ in length, and no "
                    "piece of one belongs to a piece of the other"
                )

    def _wanted(self, fields: Collection[str] | None) -> list[str]:
        return [name for name in self.cut if fields is None or name in fields]

    def lengths(self, name: str, index: Tensor) -> Tensor:
        """int64 (B,), all one length."""
        return torch.full_like(index, self.config.steps)

    def longest(self, index: Tensor) -> dict[str, int]:
        """Nothing varies."""
        return {}
