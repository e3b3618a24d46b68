"""What `rayloom data show` prints of a data set."""

from typing import Any

import torch
from torch import Tensor

from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset, Split
from rayloom.data.manifest import varies

_CHUNK = 1_000  # rows looked at together


def describe(dataset: Dataset, *, examples: int = 10_000) -> dict[str, Any]:
    """Facts and simple statistics, JSON-able.

    Args:
        dataset: What to describe.
        examples: Look at the first so many examples of each split.

    Returns:
        `name`, `description`, `source`, `licence`, `fingerprint`, `folder`, `bytes`; `fields`:
        shape, dtype, kind, num_classes, classes; `splits`: rows, whether rows are read from disk,
        and by field mean, std, min and max, or for labels the count of each value, or for varying
        fields the least, mean and greatest length; over how many examples: `examples`.
    """
    manifest = dataset.manifest
    return {
        **{key: manifest[key] for key in ("name", "description", "source", "licence")},
        "fingerprint": dataset.fingerprint,
        "folder": str(dataset.folder) if dataset.folder else None,
        "bytes": sum(split["num_bytes"] for split in manifest["splits"].values())
        if dataset.folder
        else None,
        "fields": manifest["fields"],
        "splits": {
            name: _describe_split(dataset.split(name), dataset, examples) for name in dataset.splits
        },
    }


def _describe_split(split: Split, dataset: Dataset, examples: int) -> dict[str, Any]:
    count = min(len(split), examples)
    sums = {key: _Sums(field) for key, field in dataset.spec.fields.items()}
    for start in range(0, count, _CHUNK):
        batch = split.take(torch.arange(start, min(start + _CHUNK, count)))
        for key, sum_ in sums.items():
            sum_.add(batch[key], batch.get(f"{key}_mask"), batch.get(f"{key}_length"))
    return {
        "rows": len(split),
        "streamed": split.streamed,
        "examples": count,
        "fields": {key: sum_.result() for key, sum_ in sums.items()},
    }


class _Sums:
    """Running statistics of one field."""

    def __init__(self, field: FieldSpec) -> None:
        self.field = field
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.least, self.greatest = float("inf"), float("-inf")
        self.lengths: list[Tensor] = []
        self.labels = torch.zeros(field.num_classes, dtype=torch.int64)

    def add(self, values: Tensor, mask: Tensor | None, length: Tensor | None) -> None:
        if length is not None:
            self.lengths.append(length)
        if self.field.kind == "label" and self.field.num_classes:
            self.labels += torch.bincount(values.reshape(-1), minlength=self.field.num_classes)
            return
        wide = values.double() if mask is None else values.double()[mask]
        if not wide.numel():
            return
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.squares += float((wide * wide).sum())
        self.least = min(self.least, float(wide.min()))
        self.greatest = max(self.greatest, float(wide.max()))

    def result(self) -> dict[str, Any]:
        if self.field.kind == "label" and self.field.num_classes:
            return {"counts": self.labels.tolist()}
        found: dict[str, Any] = {}
        if self.count:
            mean = self.total / self.count
            found = {
                "mean": mean,
                "std": max(0.0, self.squares / self.count - mean * mean) ** 0.5,
                "min": self.least,
                "max": self.greatest,
            }
        if varies(self.field):
            lengths = torch.cat(self.lengths)
            found["length"] = {
                "min": int(lengths.min()),
                "mean": float(lengths.double().mean()),
                "max": int(lengths.max()),
            }
        return found
