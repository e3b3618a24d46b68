"""Distances between two sets of feature vectors: pure functions.

Dimension key: n and m rows, F features.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Moments = tuple[Tensor, Tensor]  # mean (F,), covariance (F, F)


def moments(
    count: Tensor, sums: Float[Tensor, " F"], products: Float[Tensor, "F F"]
) -> tuple[Float[Tensor, " F"], Float[Tensor, "F F"]]:
    """Mean and unbiased covariance from n, the sum of rows and the sum of their outer products."""
    mean = sums / count
    return mean, (products - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(first: Moments, second: Moments) -> Float[Tensor, ""]:
    """Squared 2-Wasserstein distance of two Gaussians (Dowson and Landau, 1982).

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)). The trace of the root is the sum of the roots
    of the eigenvalues of C_1^(1/2) C_2 C_1^(1/2), which is symmetric: no complex numbers.
    """
    (mean, cov), (other_mean, other_cov) = first, second
    values, vectors = torch.linalg.eigh(cov)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ other_cov @ root)
    trace = cov.trace() + other_cov.trace() - 2 * inner.clamp(min=0).sqrt().sum()
    return (mean - other_mean).square().sum() + trace


def kernel_distance(x: Float[Tensor, "n F"], y: Float[Tensor, "m F"]) -> Float[Tensor, ""]:
    """Unbiased squared maximum mean discrepancy, k(a, b) = (a.b / F + 1)^3.

    The kernel of the "kernel inception distance" (Binkowski et al., 2018, arXiv:1801.01401); it may
    be negative, and its mean is 0 where both sets are from one distribution.
    """
    n, m, width = len(x), len(y), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    own, other = kernel(x, x), kernel(y, y)
    within = (own.sum() - own.trace()) / (n * (n - 1))
    there = (other.sum() - other.trace()) / (m * (m - 1))
    return within + there - 2 * kernel(x, y).mean()
