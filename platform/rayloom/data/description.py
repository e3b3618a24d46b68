"""What `rayloom data show` prints of a data set."""

from typing import Any

import torch
from torch import Tensor

from rayloom.core.protocols import FieldSpec
from rayloom.data.dataset import Dataset, Split
from rayloom.data.names import case_twins, listed
from rayloom.data.store.columns import FixedColumn
from rayloom.data.store.manifest import varies

_CHUNK = 1_000  # rows looked at together
_LABELS = 1 << 20  # labels counted together


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


def class_counts(dataset: Dataset) -> dict[str, list[tuple[str, dict[str, int]]]]:
    """How often each class occurs, over all examples.

    Returns:
        By field of labels: (name of the class, count by split), in the order of the labels. Where
        classes have no names, the numbers that occur.
    """
    found = {}
    for key, field in dataset.spec.fields.items():
        if field.kind != "label" or not field.num_classes or varies(field):
            continue
        counts = {name: _label_counts(dataset.split(name), key, field) for name in dataset.splits}
        names = dataset.manifest["fields"][key]["classes"]
        numbers = (
            range(len(names)) if names else torch.stack(list(counts.values())).sum(0).nonzero()
        )
        found[key] = [
            (
                str(names[int(number)] if names else int(number)),
                {split: int(count[number]) for split, count in counts.items()},
            )
            for number in numbers
        ]
    return found


def _label_counts(split: Split, key: str, field: FieldSpec) -> Tensor:
    counts = torch.zeros(field.num_classes, dtype=torch.int64)
    column = split.columns[key]
    assert isinstance(column, FixedColumn)
    for start in range(0, len(split), _LABELS):
        rows = column.rows.take(torch.arange(start, min(start + _LABELS, len(split))))
        counts += torch.bincount(rows.reshape(-1).long(), minlength=field.num_classes)
    return counts


def caveats(dataset: Dataset) -> list[str]:
    """What a person should know before training on it: missing splits, classes out of place."""
    notes = []
    if "train" not in dataset.splits:
        notes.append(f"no split train, only {', '.join(dataset.splits)}: nothing trains on it")
    elif "test" not in dataset.splits:
        notes.append(f"no split test, on which runs are evaluated: {eval_split_cure(dataset)}")
    if "image" not in dataset.spec.fields and "tokens" not in dataset.spec.fields:
        notes.append("no field image: models of pictures do not train on it")
    for key, classes in class_counts(dataset).items():
        unseen = [n for n, c in classes if sum(c.values()) and not c.get("train", 1)]
        untested = [n for n, c in classes if c.get("train") and not c.get("test", 1)]
        twins = case_twins([name for name, _ in classes])
        if unseen:
            notes.append(f"{key}: not in train: {listed(unseen)}")
        if untested:
            notes.append(f"{key}: not in test: {listed(untested)}")
        if twins:
            notes.append(f"{key}: {twins[0]!r} and {twins[1]!r} differ only in case")
    return notes


def eval_split_cure(dataset: Dataset) -> str:
    """What to set where the split to evaluate on does not exist."""
    words = [f"data.eval_split={name}" for name in dataset.splits if name != "train"]
    if "validation" not in dataset.splits and len(dataset.split("train")) > 1:
        words.append("data.validation_fraction=0.1 data.eval_split=validation (holds a tenth out)")
    return "set " + (", or ".join(words) or "data.eval_split=train")


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
        if self.field.kind in ("label", "mask") and self.field.num_classes:
            self.labels += torch.bincount(
                values.reshape(-1).long(), minlength=self.field.num_classes
            )
            return
        if self.field.kind in ("tokens", "text"):
            return  # numbers of tokens have no mean
        wide = values.double() if mask is None else values.double()[mask]
        if not wide.numel():
            return
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.squares += float((wide * wide).sum())
        self.least = min(self.least, float(wide.min()))
        self.greatest = max(self.greatest, float(wide.max()))

    def result(self) -> dict[str, Any]:
        if self.field.kind in ("label", "mask") and self.field.num_classes:
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
