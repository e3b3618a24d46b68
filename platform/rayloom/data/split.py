"""A split of a data set: rows of named columns, by number.

Dimension key: n rows of the split, B rows taken, L steps of the longest example of a batch.

The batch contract: a batch is a dictionary of named tensors with the examples on the first axis.
A field whose examples differ in length (`FieldSpec.shape[0] == -1`) is padded with zeros and comes
with `<field>_mask` (bool, B x L) and `<field>_length` (int64, B). Pairs are several fields of one
example (`image`, `target`). Values keep their stored type: uint8 stays uint8.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from torch import Tensor

from rayloom.data.store.columns import Column, FixedColumn, VaryingColumn


class Rows(Protocol):
    """Examples by number, stored or cut."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Some of them; see `Split.take`."""
        ...

    def lengths(self, name: str, index: Tensor) -> Tensor:
        """Their lengths in a varying field."""
        ...


class Split:
    """One split of a data set.

    Args:
        name: Its name, such as `train`.
        columns: Column of each field.
        rows: n.
        streamed: Whether rows are read from the disk at each request.
    """

    def __init__(
        self, name: str, columns: Mapping[str, Column], rows: int, *, streamed: bool = False
    ) -> None:
        self.name, self.columns, self.streamed = name, dict(columns), streamed
        self._rows = rows
        self._varying = {k: c for k, c in columns.items() if isinstance(c, VaryingColumn)}
        self._fixed = [(k, c.rows.take) for k, c in columns.items() if isinstance(c, FixedColumn)]

    def __len__(self) -> int:
        """Number of examples."""
        return self._rows

    @property
    def varying(self) -> bool:
        """Whether any field differs in length from example to example."""
        return bool(self._varying)

    @property
    def varying_names(self) -> set[str]:
        """The fields that differ in length."""
        return set(self._varying)

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """The examples of some rows, as copies.

        Args:
            index: int64 (B,), rows in 0..n-1, any order, repeats allowed; B may be 0.
            lengths: L of varying fields; by default the longest of these examples.
            fields: Fields to gather; None: all.

        Returns:
            Every field (B, *shape), and the mask and lengths of varying ones.

        Raises:
            IndexError: A row number is out of range.
        """
        batch = {
            name: take(index) for name, take in self._fixed if fields is None or name in fields
        }
        if self._varying:
            for name, column in self._varying.items():
                if fields is not None and name not in fields:
                    continue
                values, mask, length = column.take(index, lengths[name] if lengths else None)
                batch[name] = values
                batch[f"{name}_mask"], batch[f"{name}_length"] = mask, length
        return batch

    def lengths(self, name: str, index: Tensor) -> Tensor:
        """int64 (B,), length of some examples in a varying field."""
        return self._varying[name].lengths(index)

    def steps(self, name: str, index: Tensor, steps: Tensor) -> Tensor:
        """Single steps of a varying field, by example and number within it."""
        return self._varying[name].at(index, steps)

    def longest(self, index: Tensor) -> dict[str, int]:
        """Length of the longest of some examples, by varying field."""
        return {
            name: int(self.lengths(name, index).max()) if len(index) else 0
            for name in self._varying
        }


class First:
    """The first rows of some.

    Args:
        whole: The rows.
        limit: How many.
    """

    def __init__(self, whole: Rows, limit: int) -> None:
        self.whole, self._rows = whole, min(limit, len(whole))

    def __len__(self) -> int:
        """Number of rows."""
        return self._rows

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Those of the whole; see `Split.take`."""
        return self.whole.take(index, lengths=lengths, fields=fields)

    def lengths(self, name: str, index: Tensor) -> Tensor:
        """Those of the whole; see `Split.lengths`."""
        return self.whole.lengths(name, index)


class Subset(Split):
    """Some rows of a split, in their order.

    Args:
        name: Its name.
        whole: The split.
        rows: int64 (n,), rows of the whole, ascending.
    """

    def __init__(self, name: str, whole: Split, rows: Tensor) -> None:
        super().__init__(name, whole.columns, len(rows), streamed=whole.streamed)
        self.whole, self.rows = whole, rows

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """The examples of some rows of the subset; see `Split.take`."""
        return self.whole.take(self.rows[index], lengths=lengths, fields=fields)

    def lengths(self, name: str, index: Tensor) -> Tensor:
        """int64 (B,), length of some examples in a varying field."""
        return self.whole.lengths(name, self.rows[index])

    def steps(self, name: str, index: Tensor, steps: Tensor) -> Tensor:
        """Single steps of a varying field, by example and number within it."""
        return self.whole.steps(name, self.rows[index], steps)
