"""Diagonal Gaussian over vectors: the posterior of a VAE, and the head that makes it.

Dimension key: B examples, D event dimensions, K importance samples.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rayloom.core.noise import Noise
from rayloom.functional.likelihood import gaussian_log_prob
from rayloom.functional.variational import (
    reparameterize,
    standard_normal_kl,
    standard_normal_kl_per_dim,
)


@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """N(mean, diag(std^2)) over vectors.

    Attributes:
        mean: (*batch, D).
        log_std: (*batch, D).
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, " *batch"]:
        """Density in nats, summed over D."""
        return gaussian_log_prob(x, self.mean, self.log_std)

    def rsample(self, eps: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Samples mean + std * eps; more leading axes in `eps` give more of them."""
        return reparameterize(self.mean, self.log_std, eps)

    def sample(self, rng: Noise, name: str) -> Tensor:
        """One draw per row of `rng`, (B, D); gradients flow through it."""
        return self.rsample(rng.normal(name, self.mean.shape[-1]))

    def kl(self) -> Float[Tensor, " *batch"]:
        """KL to N(0, I), nats."""
        return standard_normal_kl(self.mean, self.log_std)

    def kl_per_dim(self) -> Float[Tensor, "*batch D"]:
        """Its summands, nats."""
        return standard_normal_kl_per_dim(self.mean, self.log_std)


class DiagonalGaussianHead(nn.Module):
    """Features to a diagonal Gaussian with event shape (event_dim,).

    Args:
        in_dim: Width of the features.
        event_dim: D.
        log_std_bounds: Range of the log standard deviation, nats; keeps `log_prob` finite in
            single precision.
    """

    def __init__(
        self, in_dim: int, event_dim: int, *, log_std_bounds: tuple[float, float] = (-7.0, 2.0)
    ) -> None:
        super().__init__()
        self.log_std_bounds = log_std_bounds
        self.linear = nn.Linear(in_dim, 2 * event_dim)  # one product for both halves

    def forward(self, h: Float[Tensor, "*batch F"]) -> DiagonalGaussian:
        """The distribution given features."""
        out = self.linear(h)
        if out.dtype in (torch.bfloat16, torch.float16):
            out = out.float()  # under autocast: exponentials and sums need the range
        mean, log_std = out.chunk(2, dim=-1)  # (*batch, D) each
        return DiagonalGaussian(mean, log_std.clamp(*self.log_std_bounds))
