"""What a confusion matrix says. Row: the class that is right; column: the one that was taken.

And what confidences are worth: calibration (Guo et al., 2017, arXiv:1706.04599).

Dimension key: B examples, Y classes, K bins of confidence.
"""

import torch
from jaxtyping import Float
from torch import Tensor

BINS = 15


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


def mean_iou(
    confusion: Float[Tensor, "Y Y"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Intersection over union, TP / (TP + FP + FN): mean over the classes, and of the worst.

    Classes that neither have examples nor were taken for any are left out.
    """
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    share = both[either > 0] / either[either > 0]
    return share.mean(), share.min()


def bin_confidences(
    confidence: Float[Tensor, " B"], hit: Float[Tensor, " B"], num_bins: int = BINS
) -> Float[Tensor, "3 K"]:
    """Number of examples, summed confidence and summed hits by bin of confidence.

    Bin k holds confidences in (k/K, (k+1)/K]. The sums of several batches add up.

    Args:
        confidence: Probability of the class that was taken, in [0, 1].
        hit: 1 where it was the right one, else 0.
        num_bins: K, of equal width.
    """
    place = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)
    rows = torch.stack([torch.ones_like(confidence), confidence, hit])  # (3, B)
    return rows.new_zeros(3, num_bins).index_add_(1, place, rows)


def expected_calibration_error(bins: Float[Tensor, "3 K"]) -> Float[Tensor, ""]:
    """Mean over the examples of |accuracy - mean confidence| of their bin.

    Args:
        bins: Of `bin_confidences`, summed.
    """
    return (bins[2] - bins[1]).abs().sum() / bins[0].sum()
