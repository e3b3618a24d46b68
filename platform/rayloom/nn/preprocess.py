"""Stored values to network inputs, on the device where the model lives.

Dimension key: B examples, C channels, H height, W width.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit(
    x: UInt8[Tensor, "B C H W"] | Float[Tensor, "B C H W"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B C H W"]:
    """Pixels in [0, 1]: uint8 is divided by 255, floating values are taken to be there already.

    Args:
        x: Images.
        dtype: Floating type of the result.
    """
    if x.dtype is torch.uint8:
        return x.to(dtype).div_(255.0)  # division, not a product: 255 becomes exactly 1
    return x.to(dtype)


def quantise(x: Float[Tensor, "B C H W"], num_values: int = 256) -> Float[Tensor, "B C H W"]:
    """Values in [0, 1] moved to the nearest of `num_values` equally spaced ones."""
    return x.mul(num_values - 1).round_().div_(num_values - 1)
