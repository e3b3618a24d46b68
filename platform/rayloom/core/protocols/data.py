"""What a data set is to a model, and what a source of batches gives.

Dimension key: B examples of the local slice, N examples of the global batch.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rayloom.core.errors import UserError, or_rather
from rayloom.core.fields import IMAGE_RULE, image_fault
from rayloom.core.statistics import Statistics

Batch = dict[str, Tensor]  # named fields, uint8 stays uint8; `<field>_mask`, `<field>_length`


@dataclass(frozen=True)
class FieldSpec:
    """One named field of a data set.

    Attributes:
        shape: Shape of one example; -1 where it varies (then `<name>_length` accompanies it).
        dtype: Numpy name of the stored type, such as `uint8`.
        kind: What it is, one of `core.fields.KINDS`.
        num_classes: For labels, masks, tokens and text: how many values; 0 if not categorical.
        classes: Names of the values, in order; empty where they have none. As in the fingerprint,
            they make no difference between specs.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str = "vector"
    num_classes: int = 0
    classes: tuple[str, ...] = dataclasses.field(default=(), compare=False)


@dataclass(frozen=True)
class DataSpec:
    """What a model needs to know of its data to build itself.

    Attributes:
        fields: By name, as batches hold them.
        name: Of the data set.
        num_train: Training examples in use: after `validation_fraction`, `limit` and `rows`.
        statistics: Mean and deviation of the training rows in use, by field.
        tokenizers: What turns text into the numbers of a field and back, by field, as plain data;
            `rayloom.data.text.tokenizer_of` makes the object.
    """

    fields: Mapping[str, FieldSpec]
    name: str = ""
    num_train: int = 0
    statistics: Statistics = dataclasses.field(default_factory=Statistics, compare=False)
    tokenizers: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict, compare=False
    )

    def only(self, names: Iterable[str]) -> "DataSpec":
        """This spec with some of the fields.

        Raises:
            UserError: One of them is not there; says which are.
        """
        wanted = tuple(dict.fromkeys(names))
        for name in wanted:
            self.field(name)
        fields = {name: spec for name, spec in self.fields.items() if name in wanted}
        return replace(self, fields=fields)

    def field(self, name: str) -> FieldSpec:
        """One field.

        Raises:
            UserError: The data set has none of that name.
        """
        if name not in self.fields:
            hint = or_rather(name, self.fields)
            have = ", ".join(f"{k} ({v.kind})" for k, v in self.fields.items())
            raise UserError(
                f"data set {self.name!r} has no field {name!r}{hint}; it has: {have}: take "
                "another data.name or model"
            )
        return self.fields[name]

    def plain(self) -> dict[str, Any]:
        """JSON-able, with the statistics that were asked for: a model can be built from it."""
        return {
            "name": self.name,
            "num_train": self.num_train,
            "fields": {name: asdict(spec) for name, spec in self.fields.items()},
            "statistics": self.statistics.plain(),
            "tokenizers": {name: dict(plain) for name, plain in self.tokenizers.items()},
        }

    @classmethod
    def from_plain(cls, tree: Mapping[str, Any]) -> "DataSpec":
        """The inverse of `plain`; reads what older runs recorded too."""
        return cls(
            fields={
                name: FieldSpec(
                    shape=tuple(spec["shape"]),
                    dtype=spec["dtype"],
                    kind=spec["kind"],
                    num_classes=spec["num_classes"],
                    classes=tuple(spec.get("classes", ())),
                )
                for name, spec in tree["fields"].items()
            },
            name=tree["name"],
            num_train=int(tree.get("num_train", 0)),
            statistics=Statistics.from_plain(tree.get("statistics", {})),
            tokenizers=dict(tree.get("tokenizers", {})),
        )

    @property
    def image(self) -> FieldSpec:
        """The field called `image`, shape (C, H, W).

        Raises:
            UserError: The data set has no field of that name, or it holds no pictures.
        """
        found = self.fields.get("image")
        fault = "it has none" if found is None else image_fault(found.shape, found.dtype)
        if found is None or fault:
            have = ", ".join(f"{k} {v.dtype} {v.shape}" for k, v in self.fields.items())
            cure = "take another data.name or model"
            if any(len(v.shape) > 1 for v in self.fields.values()):
                cure = (
                    f"import it as such (`rayloom data import --help`: --kind, --layout), or {cure}"
                )
            raise UserError(
                f"data set {self.name!r} has no field 'image' of pictures ({fault}); it has: "
                f"{have}; {IMAGE_RULE}: {cure}"
            )
        return found


@runtime_checkable
class BatchSource(Protocol):
    """Batches by number: no hidden position, so that the cursor is one integer.

    Batch `b` belongs to epoch `b // batches_per_epoch`. Rank r of R receives the slice
    `slice_of(n, r, R)` of its index list.

    Attributes:
        spec: Of what the batches hold.
        num_examples: Of an epoch.
        batch_size: N.
        batches_per_epoch: The last of them may be smaller.
        lanes: How many lanes there are if row b of batch k + 1 continues row b of batch k (the
            batch then has `first`, bool (B,), where a lane starts anew); 0 otherwise.
    """

    spec: DataSpec
    num_examples: int
    batch_size: int
    batches_per_epoch: int
    lanes: int

    def batch(self, number: int, *, rank: int = 0, world: int = 1) -> "LocalBatch":
        """The local slice of global batch `number`."""
        ...


@dataclass
class LocalBatch:
    """A rank's slice of one global batch.

    Attributes:
        fields: Named tensors, first axis B = stop - start; B may be 0.
        total: N, examples in the global batch.
        start: First global row of the slice.
        index: int64 (B,), rows of the data set (identity of the examples).
    """

    fields: Batch
    total: int
    start: int
    index: Tensor

    @property
    def stop(self) -> int:
        """One past the last global row of the slice."""
        return self.start + len(self.index)


def slice_of(total: int, rank: int, world: int) -> tuple[int, int]:
    """Rows of a global batch that belong to a rank: contiguous, sizes differ by at most one."""
    base, extra = divmod(total, world)
    start = rank * base + min(rank, extra)
    return start, start + base + (rank < extra)
