"""What a confusion matrix says. Row: the class that is right; column: the one that was taken.

Dimension key: Y classes.
"""

from jaxtyping import Float
from torch import Tensor


def recalls(confusion: Float[Tensor, "Y Y"]) -> Float[Tensor, " Y"]:
    """Of the examples of each class, the share that was found; NaN of a class without any."""
    return confusion.diagonal() / confusion.sum(1)


def worst_recall(confusion: Float[Tensor, "Y Y"]) -> Float[Tensor, ""]:
    """The least recall of the classes that have examples."""
    there = confusion.sum(1) > 0
    return recalls(confusion)[there].min()


def f1_macro(confusion: Float[Tensor, "Y Y"]) -> Float[Tensor, ""]:
    """F1 = 2 TP / (2 TP + FP + FN) per class, mean over the classes.

    Classes that neither have examples nor were taken for any are left out.
    """
    both = confusion.sum(0) + confusion.sum(1)  # 2 TP + FP + FN
    there = both > 0
    return (2 * confusion.diagonal()[there] / both[there]).mean()
