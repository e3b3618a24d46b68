"""The equations of variational autoencoders: KL, ELBO, importance-weighted bound, multiplier.

Papers: Kingma and Welling, 2014, arXiv:1312.6114; Burda, Grosse and Salakhutdinov, 2016,
arXiv:1509.00519 (importance weighting); Higgins et al., 2017 (beta-VAE).

Dimension key: D latent dimensions, K importance samples; `*batch` any number of leading axes.
Gaussians are (mean, log_std) throughout, never the log variance.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rayloom.functional.likelihood import gaussian_log_prob


def reparameterize(
    mean: Float[Tensor, "*#batch D"],
    log_std: Float[Tensor, "*#batch D"],
    eps: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch D"]:
    """The sample z = mean + std * eps of N(mean, diag(std^2)); gradients flow through it.

    Args:
        mean: Means.
        log_std: Log standard deviations.
        eps: Standard normal noise, independent of the parameters; more leading axes than the
            means have give more samples.
    """
    return torch.addcmul(mean, log_std.exp(), eps)


def standard_normal_kl(
    mean: Float[Tensor, "*batch D"], log_std: Float[Tensor, "*batch D"]
) -> Float[Tensor, " *batch"]:
    """KL(N(mean, diag(std^2)) || N(0, I)) = sum_d [(mean^2 + std^2 - 1) / 2 - log std], nats."""
    return standard_normal_kl_per_dim(mean, log_std).sum(-1)


def standard_normal_kl_per_dim(
    mean: Float[Tensor, "*batch D"], log_std: Float[Tensor, "*batch D"]
) -> Float[Tensor, "*batch D"]:
    """The summands of `standard_normal_kl`: what each latent dimension costs, nats."""
    return torch.addcmul((2.0 * log_std).exp() - 1.0, mean, mean) * 0.5 - log_std


def gaussian_kl(
    mean_q: Float[Tensor, "*batch D"],
    log_std_q: Float[Tensor, "*batch D"],
    mean_p: Float[Tensor, "*batch D"],
    log_std_p: Float[Tensor, "*batch D"],
) -> Float[Tensor, " *batch"]:
    """KL(q || p) of diagonal Gaussians, nats.

    (1/2) sum_d [log(s_p^2 / s_q^2) + (s_q^2 + (m_q - m_p)^2) / s_p^2 - 1]; there is no cross term.
    """
    log_ratio = log_std_q - log_std_p
    scaled = (mean_q - mean_p) * torch.exp(-log_std_p)
    return (0.5 * ((2.0 * log_ratio).exp() + scaled.square() - 1.0) - log_ratio).sum(-1)


def elbo(
    log_likelihood: Float[Tensor, " *batch"], kl: Float[Tensor, " *batch"]
) -> Float[Tensor, " *batch"]:
    """E_q log p(x|z) - KL(q(z|x) || p(z)) <= log p(x), nats.

    The gap is KL(q(z|x) || p(z|x)); a single sample of z makes the first term an unbiased estimate.
    """
    return log_likelihood - kl


def log_importance_weight(
    log_likelihood: Float[Tensor, " *batch"],
    z: Float[Tensor, "*batch D"],
    eps: Float[Tensor, "*batch D"],
    log_std: Float[Tensor, "*#batch D"],
) -> Float[Tensor, " *batch"]:
    """The weight log w = log p(x|z) + log N(z; 0, I) - log q(z|x) for z = mean + std * eps.

    The Gaussian constants cancel: log p(z) - log q(z|x) = sum_d [(eps^2 - z^2) / 2 + log std].
    E_q w = p(x), so log of a mean of K weights is a lower bound that grows with K.
    """
    return log_likelihood + (0.5 * (eps.square() - z.square()) + log_std).sum(-1)


def importance_weighted_bound(log_weights: Float[Tensor, "K *batch"]) -> Float[Tensor, " *batch"]:
    """The bound log (1/K) sum_k w_k (Burda et al., 2016): one sample gives the ELBO's integrand.

    Raises:
        ValueError: There is no sample.
    """
    if log_weights.shape[0] < 1:
        raise ValueError("no importance samples; at least 1 is needed")
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def running_logsumexp(
    so_far: Float[Tensor, " *batch"] | None, log_weights: Float[Tensor, "K *batch"]
) -> Float[Tensor, " *batch"]:
    """Logsumexp over samples that arrive in chunks: memory of one chunk, whatever K is in all.

    Args:
        so_far: Result of the chunks before; None at the first.
        log_weights: The next chunk.
    """
    chunk = torch.logsumexp(log_weights, 0)
    return chunk if so_far is None else torch.logaddexp(so_far, chunk)


def multiplier_step(
    multiplier: Float[Tensor, ""],
    constraint: Float[Tensor, ""],
    *,
    step_size: float,
) -> Float[Tensor, ""]:
    """Projected dual ascent for `constraint <= 0`: beta <- max(0, beta + eta * constraint).

    With constraint = KL - delta this holds the KL at or below delta. The Lagrangian's term
    -beta * delta is constant for the network, not for beta: it must stay in this step.

    Args:
        multiplier: beta >= 0.
        constraint: Its residual, a mean over the global batch.
        step_size: eta > 0.
    """
    return (multiplier + step_size * constraint).clamp_min(0.0)


def standard_normal_log_prob(z: Float[Tensor, "*batch D"]) -> Float[Tensor, " *batch"]:
    """Density of N(0, I), nats."""
    return gaussian_log_prob(z, torch.zeros_like(z), z.new_zeros(*z.shape[:-1], 1))
