"""What a data set is to a model, and what a source of batches gives.

Dimension key: B examples of the local slice, N examples of the global batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.fields import IMAGE_RULE, image_fault

Batch = dict[str, Tensor]  # named fields, uint8 stays uint8; `<field>_mask`, `<field>_length`


@dataclass(frozen=True)
class FieldSpec:
    """One named field of a data set.

    Attributes:
        shape: Shape of one example; -1 where it varies (then `<name>_length` accompanies it).
        dtype: Numpy name of the stored type, such as `uint8`.
        kind: What it is: `image` (C, H, W), `label`, `vector`, `tokens`, `audio`, `points`, `mask`.
        num_classes: For labels and tokens: how many values; 0 if not categorical.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str = "vector"
    num_classes: int = 0


@dataclass(frozen=True)
class DataSpec:
    """What a model needs to know of its data to build itself."""

    fields: Mapping[str, FieldSpec]
    name: str = ""

    @property
    def image(self) -> FieldSpec:
        """The field called `image`, shape (C, H, W).

        Raises:
            UserError: The data set has no field of that name, or it holds no pictures.
        """
        field = self.fields.get("image")
        fault = "it has none" if field is None else image_fault(field.shape, field.dtype)
        if field is None or fault:
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
        return field


@runtime_checkable
class BatchSource(Protocol):
    """Batches by number: no hidden position, so that the cursor is one integer.

    Batch `b` belongs to epoch `b // batches_per_epoch`. Rank r of R receives the slice
    `slice_of(n, r, R)` of its index list.
    """

    spec: DataSpec
    num_examples: int
    batch_size: int
    batches_per_epoch: int

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
