"""Log likelihoods of pixels: Bernoulli, Gaussian, discretised logistic. All in nats.

Papers: Kingma and Welling, 2014, arXiv:1312.6114 (Bernoulli and Gaussian decoders); Salimans,
Karpathy, Chen and Kingma, 2017, arXiv:1701.05517 (discretised logistic).

Dimension key: D event dimensions (flattened); `*batch` any number of leading axes.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def bernoulli_log_prob(
    x: Float[Tensor, "*batch D"], logits: Float[Tensor, "*batch D"]
) -> Float[Tensor, " *batch"]:
    """The mass log p(x) = sum_d x log s(l) + (1 - x) log(1 - s(l)) = sum_d x l - softplus(l).

    A distribution over {0, 1}^D. For grey values 0 < x < 1 it is a cross entropy, not a density:
    it integrates to no constant, and its optimum is not 0.

    Args:
        x: Zeros and ones (grey values are tolerated, see above).
        logits: Log odds of a one. Never pass probabilities: a second sigmoid goes unnoticed.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def gaussian_log_prob(
    x: Float[Tensor, "*batch D"],
    mean: Float[Tensor, "*batch D"],
    log_std: Float[Tensor, "*#batch #D"],
) -> Float[Tensor, " *batch"]:
    """The log density of N(mean, diag(std^2)) at x.

    -sum_d [((x - mean) / std)^2 / 2 + log std] - D log(2 pi) / 2. A density per unit of x: it
    has no bits per dimension unless x is dequantised.

    Args:
        x: Points.
        mean: Means.
        log_std: Log standard deviations; a last axis of 1 shares one over the event.
    """
    scaled = (x - mean) * torch.exp(-log_std)  # (*batch, D)
    shared = x.shape[-1] if log_std.shape[-1] == 1 else 1
    log_scale = log_std.sum(-1) * shared + x.shape[-1] * _HALF_LOG_2PI
    return scaled.square().sum(-1) * -0.5 - log_scale


def discretised_logistic_log_prob(
    x: Float[Tensor, "*batch D"],
    mean: Float[Tensor, "*batch D"],
    log_scale: Float[Tensor, "*#batch #D"],
    *,
    num_bins: int = 256,
) -> Float[Tensor, " *batch"]:
    """Mass that a logistic variable puts in each value's bin; the edge bins take the tails.

    With s the logistic function, h = 1 / (num_bins - 1), a = (x + h - mean) / scale and
    b = (x - h - mean) / scale: P(x) = s(a) - s(b), P(-1) = s(a), P(1) = 1 - s(b). The masses
    telescope to one.

    The difference is never formed. Since s(a) - s(b) = s(a) s(-b) (1 - e^{b-a}) and a - b does
    not depend on x, log P = log s(a) + log s(-b) + log(1 - e^{-2h/scale}), exact in the tails where
    the difference underflows (the reference implementation switches to a midpoint rule there).

    Args:
        x: Values on the grid -1, -1 + 2h, ..., 1.
        mean: Location of the logistic.
        log_scale: Log of its scale (the standard deviation is pi / sqrt(3) times that).
        num_bins: Number of values.
    """
    half = 1.0 / (num_bins - 1)
    inv_scale = torch.exp(-log_scale)
    centred = x - mean  # (*batch, D)
    log_below = -F.softplus(-(centred + half) * inv_scale)  # log s(a)
    log_above = -F.softplus((centred - half) * inv_scale)  # log s(-b)
    log_width = torch.log(-torch.expm1(-2.0 * half * inv_scale))
    # The edges stop half a bin early in x, so that rounding of the grid cannot miss them.
    lowest, highest = x < half - 1.0, x > 1.0 - half
    inside = log_below + log_above + log_width
    return torch.where(lowest, log_below, torch.where(highest, log_above, inside)).sum(-1)


def bits_per_dim(nats: Float[Tensor, "..."], num_dims: int) -> Float[Tensor, "..."]:
    """Nats per example to bits per dimension: nats / (D log 2).

    Args:
        nats: Negative log likelihoods of *discrete* data, or of dequantised data plus
            D log(number of values) to undo the scaling to [0, 1].
        num_dims: D, of one example (channels count).

    Raises:
        ValueError: `num_dims` is not positive.
    """
    if num_dims < 1:
        raise ValueError(f"num_dims is {num_dims}; it must be at least 1")
    return nats / (num_dims * math.log(2.0))
