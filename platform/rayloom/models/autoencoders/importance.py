"""Batched importance-weighted likelihood: encode once, decode (samples x images) in chunks.

Paper: Burda, Grosse and Salakhutdinov, 2016, arXiv:1509.00519.

Dimension key: B images, K importance samples, D latent dimensions.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rayloom.core.noise import Noise
from rayloom.distributions.gaussian import DiagonalGaussian
from rayloom.functional.variational import log_importance_weight, running_logsumexp

CHUNK_ROWS = 512  # decoder rows per pass: larger ones leave the cache and gain nothing


def importance_weighted_log_prob(
    posterior: DiagonalGaussian,
    log_likelihood: Callable[[Tensor, slice], Tensor],
    *,
    num_samples: int,
    rng: Noise,
    chunk: int = CHUNK_ROWS,
) -> Float[Tensor, " B"]:
    """The bound log (1/K) sum_k p(x, z_k) / q(z_k | x) <= log p(x), which grows with K; nats.

    Sample k of image b is the same whatever `chunk` is and however the images are split, and only
    one chunk of decoder activations lives at a time.

    Args:
        posterior: q(z|x), (B, D), from one pass of the encoder.
        log_likelihood: z, (K', B', D), and the slice of the B images, to log p(x|z), (K', B').
        num_samples: K.
        rng: Noise of the B images.
        chunk: Most decoder rows (K' B') in one pass.

    Raises:
        ValueError: `num_samples` or `chunk` is not positive, or `rng` has not B rows.
    """
    if num_samples < 1 or chunk < 1:
        raise ValueError(f"num_samples {num_samples} and chunk {chunk} must be at least 1")
    num_images, latent_dim = posterior.mean.shape
    if len(rng) != num_images:
        raise ValueError(f"rng has {len(rng)} rows for {num_images} images")
    results: list[Tensor] = []
    for start in range(0, num_images, chunk):
        images = slice(start, min(start + chunk, num_images))
        part = DiagonalGaussian(posterior.mean[images], posterior.log_std[images])
        part_rng = rng.rows(images.start, images.stop)
        samples_at_once = max(1, chunk // (images.stop - images.start))
        total: Tensor | None = None
        for first in range(0, num_samples, samples_at_once):
            last = min(first + samples_at_once, num_samples)
            eps = torch.stack(
                [part_rng.normal(f"importance-{k}", latent_dim) for k in range(first, last)]
            ).to(part.mean)  # (K', B', D)
            z = part.rsample(eps)
            log_w = log_importance_weight(log_likelihood(z, images), z, eps, part.log_std)
            total = running_logsumexp(total, log_w)
        assert total is not None
        results.append(total)
    if not results:
        return posterior.mean.new_zeros(0)
    return torch.cat(results) - math.log(num_samples)
