"""Strided convolutions from pictures and to pictures of any size.

Initial weights come from torch's global generator; see `rayloom.nn.mlp`.

Dimension key: B examples, C channels, H height, W width, F features, D latent dimensions.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from rayloom.core.errors import UserError
from rayloom.nn.activation import make_activation

# Kernel 4 with stride 2: each output of the transposed convolution sees the same number of
# inputs, which avoids checkerboards (Odena, Dumoulin and Olah, 2016, doi:10.23915/distill.00003).
_KERNEL, _STRIDE, _PADDING = 4, 2, 1


def conv_sizes(height: int, width: int, num_stages: int) -> list[tuple[int, int]]:
    """Sizes of the image and of the output of each stage, each about half of the one before.

    Raises:
        UserError: The image is too small for so many stages.
    """
    sizes = [(height, width)]
    for _ in range(num_stages):
        if min(sizes[-1]) < 2:
            raise UserError(
                f"model.network.channels asks for {num_stages} halvings, but a {height}x{width} "
                f"image allows {len(sizes) - 1}; give fewer, or take network: mlp"
            )
        h, w = sizes[-1]
        sizes.append((h // 2, w // 2))
    return sizes


class ResidualConv(nn.Module):
    """x + conv1x1(act(conv3x3(act(x)))), (B, C, H, W) throughout.

    Args:
        channels: C.
        activation: Name in `ACTIVATIONS`.
    """

    def __init__(self, channels: int, *, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            make_activation(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
            make_activation(activation),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The sum."""
        return x + self.layers(x)


def down_stages(channels: int, widths: Sequence[int], *, activation: str) -> nn.Sequential:
    """Convolutions that halve height and width each: (B, C, H, W) to (B, widths[-1], h, w)."""
    stages: list[nn.Module] = []
    for out_channels in widths:
        stages += [
            nn.Conv2d(channels, out_channels, _KERNEL, _STRIDE, _PADDING),
            make_activation(activation),
        ]
        channels = out_channels
    return nn.Sequential(*stages)


def up_stages(
    out_shape: tuple[int, int, int], widths: Sequence[int], *, activation: str
) -> nn.Sequential:
    """The mirror of `down_stages`: (B, widths[-1], h, w) to (B, *out_shape), sizes exact."""
    sizes = conv_sizes(out_shape[1], out_shape[2], len(widths))[::-1]
    outs = [*widths[-2::-1], out_shape[0]]  # channels after each stage
    stages: list[nn.Module] = []
    channels = widths[-1]
    for index, out_channels in enumerate(outs):
        (h, w), (next_h, next_w) = sizes[index], sizes[index + 1]
        odd = (next_h - 2 * h, next_w - 2 * w)  # the row and column that halving dropped
        stages.append(nn.ConvTranspose2d(channels, out_channels, _KERNEL, _STRIDE, _PADDING, odd))
        if index + 1 < len(outs):
            stages.append(make_activation(activation))
        channels = out_channels
    return nn.Sequential(*stages)


class ConvEncoder(nn.Module):
    """Strided convolutions, then flattened: (B, C, H, W) to (B, F).

    Args:
        image_shape: (C, H, W).
        widths: Channels of the stages; each halves height and width.
        activation: Name in `ACTIVATIONS`.

    Raises:
        UserError: The image is too small for so many stages.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], *, activation: str = "relu"
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        last_h, last_w = conv_sizes(height, width, len(widths))[-1]
        self.stages = down_stages(channels, widths, activation=activation)
        self.out_dim = widths[-1] * last_h * last_w

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Features of images."""
        return self.stages(x).flatten(1)


class ConvDecoder(nn.Module):
    """A linear layer, then transposed convolutions: (B, D) to (B, C, H, W), sizes exact.

    Args:
        in_dim: D, latent dimensions.
        out_shape: (C, H, W); C counts the parameters of the likelihood.
        widths: Channels of the encoder's stages (they are reversed here).
        activation: Name in `ACTIVATIONS`.

    Raises:
        UserError: The image is too small for so many stages.
    """

    def __init__(
        self,
        in_dim: int,
        out_shape: tuple[int, int, int],
        widths: Sequence[int],
        *,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        low = conv_sizes(out_shape[1], out_shape[2], len(widths))[-1]
        self.start_shape = (widths[-1], *low)
        start_dim = widths[-1] * low[0] * low[1]
        self.start = nn.Sequential(nn.Linear(in_dim, start_dim), make_activation(activation))
        self.stages = up_stages(out_shape, widths, activation=activation)

    def forward(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B C H W"]:
        """Parameters of the pixels."""
        return self.stages(self.start(z).unflatten(1, self.start_shape))
