"""Grids of images for files, the journal and MLflow.

Dimension key: R rows, K images (per row), C channels, H and W pixels.
"""

import numpy as np
import torch
from torch import Tensor

COLUMNS = 8  # images per row, unless the tensor says otherwise
PADDING = 2  # pixels between images, before enlarging
ALPHA = 4  # channels: colour and alpha
SMALLEST = 56  # images are enlarged by a whole factor until their shorter side has so many pixels


def visible(images: Tensor) -> Tensor:
    """Images (..., C, H, W) as grey or colour.

    Four channels are colour and alpha, laid over white; of two the first is shown, of more the
    first three: what lies beyond (infrared) trains, but cannot be shown beside them.
    """
    channels = images.shape[-3]
    if channels == ALPHA:
        colour, alpha = images.split([3, 1], dim=-3)
        return colour * alpha + (1 - alpha)
    return images if channels in (1, 3) else images[..., : 1 if channels < 3 else 3, :, :]


def tile(images: Tensor, *, columns: int | None = None, alpha: bool = False) -> np.ndarray:
    """Images in [0, 1] as one picture, uint8 (H', W', 3), or (H', W', 4) with `alpha`.

    Args:
        images: (K, C, H, W), laid out in rows; or (R, K, C, H, W), a row each (interpolations,
            traversals). See `visible`.
        columns: Images per row of the first form; None: 8.
        alpha: Keep the alpha of four channels, on a ground that is transparent.

    Raises:
        ValueError: Another shape, or no pixels.
    """
    if images.ndim not in (4, 5) or not images.numel():
        raise ValueError(f"pictures must be (K, C, H, W), not {tuple(images.shape)}")
    if images.ndim == 5:
        rows, columns = images.shape[:2]
        images = images.flatten(0, 1)
    else:
        columns = min(columns or COLUMNS, len(images))
        rows = -(-len(images) // columns)
    values = torch.nan_to_num(images.detach().float().cpu()).clamp(0, 1)
    alpha = alpha and values.shape[1] == ALPHA
    values = values if alpha else visible(values)
    pixels = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (K, H, W, C)
    _, height, width, _ = pixels.shape
    factor = max(1, -(-SMALLEST // min(height, width)))
    down, right = height + PADDING, width + PADDING
    size = (rows * down + PADDING, columns * right + PADDING)
    grid = np.zeros((*size, 4), np.uint8) if alpha else np.full((*size, 3), 255, np.uint8)
    for number, image in enumerate(pixels):
        y, x = PADDING + number // columns * down, PADDING + number % columns * right
        grid[y : y + height, x : x + width] = image
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)
