"""Few labels: which training examples show theirs, as the field `label_mask`.

Dimension key: n examples, B rows taken.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.ordering import row_hash
from rayloom.data.split import Split

MASK = "label_mask"
SPEC = FieldSpec((), "bool")


class Labelled(Split):
    """A split whose batches have `label_mask`.

    Args:
        whole: The split.
        shown: bool (n,); None: every label is shown.
    """

    def __init__(self, whole: Split, shown: Tensor | None) -> None:
        super().__init__(whole.name, whole.columns, len(whole), streamed=whole.streamed)
        self.whole = whole
        self.shown = torch.ones(len(whole), dtype=torch.bool) if shown is None else shown

    def take(
        self,
        index: Tensor,
        *,
        lengths: Mapping[str, int] | None = None,
        fields: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """The examples of some rows; see `Split.take`."""
        batch = self.whole.take(index, lengths=lengths, fields=fields)
        if fields is None or MASK in fields:
            batch[MASK] = self.shown[index]
        return batch

    def lengths(self, name: str, index: Tensor) -> Tensor:
        """int64 (B,), length of some examples in a varying field."""
        return self.whole.lengths(name, index)


def choose(name: str, split: Split, field: FieldSpec | None, per_class: int, limit: int) -> Tensor:
    """Which examples show their labels, bool (n,): the same on every machine, for every seed.

    Args:
        name: Of the data set, for messages.
        split: The training examples.
        field: Spec of `label`; None if there is none.
        per_class: How many of each class.
        limit: Of the first so many; 0: of all.

    Raises:
        UserError: There are no labels, or too few of a class.
    """
    if field is None or field.kind != "label" or field.shape or not field.num_classes:
        raise UserError(f"data.labelled: data set {name!r} has no field 'label' of classes")
    total = min(limit, len(split)) if limit else len(split)
    labels = split.take(torch.arange(total), fields=("label",))["label"].numpy()
    shown = torch.zeros(len(split), dtype=torch.bool)
    order = np.argsort(row_hash(total), kind="stable")
    for label in np.unique(labels).tolist():
        rows = order[labels[order] == label]
        if len(rows) < per_class:
            word = field.classes[label] if field.classes else label
            raise UserError(
                f"data.labelled.per_class is {per_class}, but only {len(rows)} training examples "
                f"of {name!r} are of class {word!r}"
            )
        shown[torch.from_numpy(rows[:per_class].copy())] = True
    return shown
