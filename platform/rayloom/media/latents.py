"""Pictures of latent spaces: what a decoder makes of points, straight lines and axes.

For any model with a vector of latents; `decode` takes (..., D) to pictures (..., C, H, W).

Dimension key: B images, D latent dimensions, S steps, C channels, H and W pixels.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rayloom.media.kinds import Images

COLUMNS = 8  # pictures of one row

Decode = Callable[[Tensor], Tensor]


def interpolations(
    decode: Decode, start: Float[Tensor, "B D"], stop: Float[Tensor, "B D"], *, steps: int = COLUMNS
) -> Float[Tensor, "B S C H W"]:
    """Pictures along straight lines, a row each, ends included."""
    weight = torch.linspace(0.0, 1.0, steps).to(start).view(1, steps, 1)
    return decode(torch.lerp(start[:, None], stop[:, None], weight))


def traversals(
    decode: Decode,
    rest: Float[Tensor, "1 D"],
    dims: Sequence[int],
    *,
    span: float = 2.5,
    steps: int = COLUMNS,
) -> Float[Tensor, "rows S C H W"]:
    """Pictures as one latent dimension moves, the others at rest; a row for each of `dims`.

    Args:
        decode: Latents to pictures.
        rest: The point through which the axes go.
        dims: Latent dimensions to move.
        span: How far to either side; for a standard normal prior, in standard deviations.
        steps: Pictures per row.
    """
    z = rest.expand(len(dims), -1)[:, None].repeat(1, steps, 1)  # (rows, S, D)
    z[torch.arange(len(dims)), :, list(dims)] = torch.linspace(-span, span, steps).to(rest)
    return decode(z)


def latent_pictures(
    decode: Decode,
    images: Float[Tensor, "B C H W"],
    latents: Float[Tensor, "B D"],
    importance: Float[Tensor, " D"],
) -> dict[str, Images]:
    """Reconstructions, interpolations and traversals of some images.

    An original beside its reconstruction, four pairs a row; a row per pair of images
    (none for a single image); a row per latent dimension, the most important ones first.

    Args:
        decode: Latents to pictures.
        images: The pictures, in [0, 1].
        latents: Their latents.
        importance: Of each dimension, such as its mean KL.
    """
    pairs = torch.stack([images, decode(latents)], 1)[: 4 * COLUMNS]  # (pairs, 2, C, H, W)
    dims = importance.argsort(descending=True)[:COLUMNS].tolist()
    pictures = {
        "reconstructions": Images(pairs.flatten(0, 1), columns=COLUMNS),
        "traversals": Images(traversals(decode, latents[:1], dims)),
    }
    rows = min(COLUMNS, len(images) // 2)
    if rows:
        lines = interpolations(decode, latents[:rows], latents[rows : 2 * rows])
        pictures["interpolations"] = Images(lines)
    return pictures
