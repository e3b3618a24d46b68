"""Books of codes: the nearest code, the entropy of their use, the revival of codes out of use.

Dimension key: B examples, P places, K codes, D dimensions of a code.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SPREAD = 0.1  # of a revived code around the one that it was split from, in the book's deviation


def nearest_codes(z: Float[Tensor, "B P D"], book: Float[Tensor, "K D"]) -> Int[Tensor, "B P"]:
    """argmin_k |z - e_k|^2."""
    distance: Tensor = book.square().sum(-1) - 2.0 * (z @ book.T)  # (B, P, K), less |z|^2
    return distance.argmin(-1)


def entropy_of_counts(counts: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """-sum p log p of p = counts / sum(counts), nats."""
    p = counts / counts.sum()
    nats: Tensor = -torch.special.xlogy(p, p).sum()
    return nats


def revived(
    uses: Float[Tensor, " K"],
    mass: Float[Tensor, "K D"],
    noise: Float[Tensor, "K D"],
    *,
    below: float,
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K D"]]:
    """Uses and summed vectors after each code out of use has taken half of a much used one's.

    The first of those out of use takes half of the most used code, the second of the second most
    used, and so on, as long as both halves stay in use; its place is the other's, moved by
    `noise`. Totals stay as they are, but for that noise.

    Args:
        uses: N_k, mean uses per batch.
        mass: m_k, mean sums of the vectors.
        noise: Standard normal.
        below: What counts as out of use.
    """
    order = uses.argsort(descending=True, stable=True)
    dead = uses < below
    place = (dead.cumsum(0) - 1).clamp(min=0)  # of a dead code among the dead
    source = order[place]
    dead = dead & (uses[source] > 2.0 * below)
    split = torch.zeros_like(uses).index_add_(0, source, dead.to(uses.dtype))  # 1 where split
    book = mass / uses.clamp(min=1e-12)[:, None]
    half = 0.5 * uses[source]
    moved = (book[source] + _SPREAD * book.std(0) * noise) * half[:, None]
    kept = 1.0 - 0.5 * split
    return (
        torch.where(dead, half, uses * kept),
        torch.where(dead[:, None], moved, mass * kept[:, None]),
    )
