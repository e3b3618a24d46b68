"""Grids of images for the journal and MLflow.

Dimension key: R rows, K images (per row), C channels, H and W pixels.
"""

import numpy as np
import torch
from torch import Tensor

COLUMNS = 8  # images per row, unless the tensor says otherwise
PADDING = 2  # pixels between images, before enlarging
SMALLEST = 56  # images are enlarged by a whole factor until their shorter side has so many pixels


def visible(images: Tensor) -> Tensor:
    """Images (..., C, H, W) as grey or colour: of two channels the first, of more the first three.

    What lies beyond (alpha, infrared) trains, but cannot be shown beside them.
    """
    channels = images.shape[-3]
    return images if channels in (1, 3) else images[..., : 1 if channels < 3 else 3, :, :]


def tile(images: Tensor) -> np.ndarray:
    """Images in [0, 1] as one picture, uint8 (H', W', 3).

    Args:
        images: (K, 1 or 3, H, W), laid out in rows of 8; or (R, K, 1 or 3, H, W), a row each
            (interpolations, traversals).

    Raises:
        ValueError: Another shape, or other than 1 or 3 channels.
    """
    if images.ndim not in (4, 5) or images.shape[-3] not in (1, 3) or not images.numel():
        raise ValueError(f"pictures must be (K, 1|3, H, W), not {tuple(images.shape)}")
    if images.ndim == 5:
        rows, columns = images.shape[:2]
        images = images.flatten(0, 1)
    else:
        columns = min(COLUMNS, len(images))
        rows = -(-len(images) // columns)
    values = torch.nan_to_num(images.detach().float().cpu()).clamp(0, 1)
    pixels = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (K, H, W, C)
    _, height, width, _ = pixels.shape
    factor = max(1, -(-SMALLEST // min(height, width)))
    down, right = height + PADDING, width + PADDING
    grid = np.full((rows * down + PADDING, columns * right + PADDING, 3), 255, np.uint8)
    for number, image in enumerate(pixels):
        y, x = PADDING + number // columns * down, PADDING + number % columns * right
        grid[y : y + height, x : x + width] = image
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)
