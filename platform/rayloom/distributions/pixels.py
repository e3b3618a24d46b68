"""Distributions over images, parametrised by what a decoder returns.

Dimension key: `*batch` batch axes, C channels, H height, W width. Events are (C, H, W).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rayloom.core.noise import Noise
from rayloom.functional.likelihood import (
    bernoulli_log_prob,
    discretised_logistic_log_prob,
    gaussian_log_prob,
)


def _flat(x: Tensor, like: Tensor) -> Tensor:
    """Event axes joined and leading batch axes added: `(*batch, D)` as `like` has them."""
    return x.expand_as(like).flatten(-3)


@dataclass(frozen=True, slots=True)
class BernoulliPixels:
    """Independent zeros and ones.

    Attributes:
        logits: Log odds, (*batch, C, H, W).
    """

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """Probabilities of a one."""
        return self.logits.sigmoid()

    def log_prob(self, x: Float[Tensor, "*_batch C H W"]) -> Float[Tensor, " *batch"]:
        """Nats per image; x in {0, 1}."""
        return bernoulli_log_prob(_flat(x, self.logits), self.logits.flatten(-3))

    def sample(self, rng: Noise, name: str) -> Tensor:
        """Zeros and ones."""
        uniform = rng.uniform(name, *self.logits.shape[1:])
        return (uniform < self.mean).to(self.logits.dtype)


@dataclass(frozen=True, slots=True)
class GaussianPixels:
    """Independent Gaussians.

    Attributes:
        mean: (*batch, C, H, W).
        log_std: Broadcastable to it: one for all pixels, or each its own.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, x: Float[Tensor, "*_batch C H W"]) -> Float[Tensor, " *batch"]:
        """Density of an image in nats."""
        return gaussian_log_prob(
            _flat(x, self.mean), self.mean.flatten(-3), _flat_scale(self.log_std, self.mean)
        )

    def sample(self, rng: Noise, name: str) -> Tensor:
        """Real values, not clipped."""
        noise = rng.normal(name, *self.mean.shape[1:])
        return self.mean + self.log_std.exp() * noise


@dataclass(frozen=True, slots=True)
class DiscretisedLogisticPixels:
    """Independent logistic variables cut into `num_bins` values on [-1, 1].

    Attributes:
        mean: Location, (*batch, C, H, W).
        log_scale: Log scale, broadcastable to it.
        num_bins: Number of values a pixel can take.
    """

    mean: Tensor
    log_scale: Tensor
    num_bins: int = 256

    def log_prob(self, x: Float[Tensor, "*_batch C H W"]) -> Float[Tensor, " *batch"]:
        """Nats per image; x on the grid -1 + 2 i / (num_bins - 1)."""
        return discretised_logistic_log_prob(
            _flat(x, self.mean),
            self.mean.flatten(-3),
            _flat_scale(self.log_scale, self.mean),
            num_bins=self.num_bins,
        )

    def sample(self, rng: Noise, name: str) -> Tensor:
        """Values on the grid."""
        # The uniform stops short of 0 and 1, where the logit is infinite.
        uniform = rng.uniform(name, *self.mean.shape[1:]).clamp(1e-7, 1.0 - 1e-7)
        value = self.mean + self.log_scale.exp() * torch.logit(uniform)
        steps = self.num_bins - 1
        return ((value.clamp(-1.0, 1.0) + 1.0) * (0.5 * steps)).round_() * (2.0 / steps) - 1.0


def _flat_scale(scale: Tensor, like: Tensor) -> Tensor:
    """A log scale as `(*batch, D)`, or with a last axis of 1 where one number serves all pixels."""
    if scale.numel() == 1:
        return scale.reshape((1,) * (like.ndim - 2))
    return _flat(scale, like)
