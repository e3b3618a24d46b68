"""Mean and standard deviation of the training rows of a field, computed when they are asked for.

Dimension key: C components: the channels of a picture, the entries of a vector, the entries of one
step of a varying field.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FieldStatistics:
    """Of one field, over the training rows in use: never over held-out ones.

    Attributes:
        mean: C numbers, in the units of the store (0..255 for pictures of uint8).
        std: C numbers; of the rows as they are (divided by their number, not one less).
        count: Values per component.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int

    def tensors(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """`mean` and `std` as tensors (C,)."""
        return torch.tensor(self.mean, dtype=dtype), torch.tensor(self.std, dtype=dtype)

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {"mean": list(self.mean), "std": list(self.std), "count": self.count}

    @classmethod
    def from_plain(cls, tree: Mapping[str, Any]) -> "FieldStatistics":
        """The inverse of `plain`."""
        mean, std = (tuple(float(x) for x in tree[key]) for key in ("mean", "std"))
        return cls(mean, std, int(tree["count"]))


class Statistics(Mapping[str, FieldStatistics]):
    """Statistics by field. One that nobody asks for costs nothing; those asked for are kept.

    Args:
        names: Fields that have some.
        compute: What computes those of a field; None where only known ones can be had.
        known: By field.
    """

    def __init__(
        self,
        names: tuple[str, ...] = (),
        compute: Callable[[str], FieldStatistics] | None = None,
        known: Mapping[str, FieldStatistics] | None = None,
    ) -> None:
        self._known = dict(known or {})
        self._names, self._compute = tuple(dict.fromkeys((*names, *self._known))), compute

    def __getitem__(self, name: str) -> FieldStatistics:
        if name not in self._known:
            if self._compute is None or name not in self._names:
                raise KeyError(f"{name!r} has no mean and deviation here; {list(self)} have")
            self._known[name] = self._compute(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names if self._compute is not None else self._known)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Statistics({', '.join(self)})"

    def plain(self) -> dict[str, Any]:
        """Those that were asked for, JSON-able: what a model was built from can be recorded."""
        return {name: found.plain() for name, found in self._known.items()}

    @classmethod
    def from_plain(cls, tree: Mapping[str, Any]) -> "Statistics":
        """The inverse of `plain`."""
        return cls(known={name: FieldStatistics.from_plain(part) for name, part in tree.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        """What is known travels to other processes; the data do not."""
        return Statistics, ((), None, self._known)
