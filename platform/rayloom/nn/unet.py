"""U-Net: down through halved maps, up again, each level joined to its mirror.

Ronneberger, Fischer and Brox, 2015, arXiv:1505.04597, in the residual form of Ho, Jain and
Abbeel, 2020, arXiv:2006.11239: group normalisation, SiLU, self-attention on coarse maps, and time
and class added inside each block. Without time and class it is a network for segmentation.

Deviations: convolutions are padded and odd sizes come back exactly (each map is enlarged to the
size of its mirror); the last convolution of each block and of the network starts at zero.

Dimension key: B examples, C channels, H height, W width, E embedding dimensions.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rayloom.config.sections import Config, NonNegativeInt, PositiveInt, Sizes
from rayloom.core.errors import UserError
from rayloom.nn.attention import SelfAttention
from rayloom.nn.dropout import Dropout


class UNetNetwork(Config):
    """A U-Net."""

    name: Literal["unet"] = "unet"
    channels: Sizes = Field(
        (32, 64, 64),
        min_length=1,
        description="of the levels, the finest first, each half as large",
    )
    blocks: PositiveInt = Field(1, description="residual blocks per level, on either side")
    attention_levels: NonNegativeInt = Field(
        1, description="how many of the coarsest levels have self-attention"
    )
    heads: PositiveInt = Field(4, description="of the attention")
    groups: PositiveInt = Field(8, description="of the normalisation; divides all channels")
    dropout: float = Field(0.0, ge=0, lt=1, description="rate inside each block")


def sinusoids(time: Float[Tensor, " B"], dim: int) -> Float[Tensor, "B E"]:
    """Sines and cosines of a time on the scale of 0 to 1,000, at `dim / 2` frequencies."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000) / max(half - 1, 1)))
    angles = time[:, None] * frequencies.to(time)  # (B, E / 2)
    return torch.cat([angles.sin(), angles.cos()], -1)


class UNet(nn.Module):
    """Maps (B, C, H, W) to (B, C', H, W), told a time and a class if it was made for them.

    Args:
        config: Its section.
        in_channels: C.
        out_channels: C'.
        timed: Whether `forward` gets a time.
        num_classes: Number of classes that `forward` may be told; 0: none. The class numbered
            `num_classes` stands for "not told" (classifier-free guidance, arXiv:2207.12598).

    Raises:
        UserError: Groups or heads do not divide the channels.
    """

    def __init__(
        self,
        config: UNetNetwork,
        in_channels: int,
        out_channels: int,
        *,
        timed: bool = False,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        _check(config)
        channels, first = config.channels, config.channels[0]
        self.embed_dim = 4 * first if timed or num_classes else 0
        self.first = first
        if timed:
            self.embed_time = nn.Sequential(
                nn.Linear(first, self.embed_dim),
                nn.SiLU(),
                nn.Linear(self.embed_dim, self.embed_dim),
            )
        self.embed_label = nn.Embedding(num_classes + 1, self.embed_dim) if num_classes else None
        self.timed, self.num_classes = timed, num_classes
        self.stem = nn.Conv2d(in_channels, first, 3, padding=1)
        width, coarse = first, len(channels) - config.attention_levels
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(channels):
            attend = level >= coarse
            self.down.append(_Level(width, out, config, self.embed_dim, attend=attend))
            width = out
        self.shrink = nn.ModuleList(nn.Conv2d(c, c, 3, 2, 1) for c in channels[:-1])
        self.middle = _Level(
            width, width, config, self.embed_dim, attend=config.attention_levels > 0
        )
        self.enlarge = nn.ModuleList(
            nn.Conv2d(channels[level + 1], channels[level], 3, padding=1)
            for level in range(len(channels) - 1)
        )
        for level, out in enumerate(channels):
            self.up.append(_Level(2 * out, out, config, self.embed_dim, attend=level >= coarse))
        self.head = nn.Sequential(
            nn.GroupNorm(config.groups, first),
            nn.SiLU(),
            _zeroed(nn.Conv2d(first, out_channels, 3, padding=1)),
        )

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        *,
        time: Float[Tensor, " B"] | None = None,
        label: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B C2 H W"]:
        """The map of each example.

        Args:
            x: Maps of any size of at least 1 pixel after all halvings.
            time: On the scale of 0 to 1,000; wanted exactly if the network is timed.
            label: Class of each example, or `num_classes` where it is not told; None: nowhere.
        """
        e = self.embedding(len(x), time, label)
        h = self.stem(x)
        mirror: list[Tensor] = []
        for level, down in enumerate(self.down):
            h = down(h, e)
            mirror.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        h = self.middle(h, e)
        for level in range(len(self.up) - 1, -1, -1):
            h = self.up[level](torch.cat([h, mirror[level]], 1), e)
            if level:
                h = interpolate(h, size=mirror[level - 1].shape[-2:], mode="nearest")
                h = self.enlarge[level - 1](h)
        return self.head(h)

    def embedding(
        self, rows: int, time: Tensor | None, label: Tensor | None
    ) -> Float[Tensor, "B E"] | None:
        """What the blocks are told of time and class."""
        if (time is not None) != self.timed:
            raise ValueError("a time is wanted" if self.timed else "this network takes no time")
        if label is not None and self.embed_label is None:
            raise ValueError("this network takes no class")
        parts = []
        if time is not None:
            parts.append(self.embed_time(sinusoids(time, self.first).to(self.stem.weight.dtype)))
        if self.embed_label is not None:
            if label is None:
                label = torch.full((rows,), self.num_classes, device=self.stem.weight.device)
            parts.append(self.embed_label(label))
        return sum(parts) if parts else None


class _Block(nn.Module):
    """Two convolutions beside the identity; the embedding is added between them."""

    def __init__(self, width: int, out: int, config: UNetNetwork, embed_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, width)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.told = nn.Linear(embed_dim, out) if embed_dim else None
        self.norm2 = nn.GroupNorm(config.groups, out)
        self.drop = Dropout(config.dropout)
        self.conv2 = _zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()
        self.act = nn.SiLU()

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        if self.told is not None and e is not None:
            h = h + self.told(self.act(e))[:, :, None, None]
        return self.skip(x) + self.conv2(self.drop(self.act(self.norm2(h))))


class _Attend(nn.Module):
    """Self-attention over the positions of a map, beside the identity."""

    def __init__(self, width: int, config: UNetNetwork) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, width)
        self.attention = SelfAttention(width, config.heads, causal=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        return x + self.attention(flat).transpose(1, 2).unflatten(2, x.shape[2:])


class _Level(nn.Module):
    """The blocks of one size."""

    def __init__(
        self, width: int, out: int, config: UNetNetwork, embed_dim: int, *, attend: bool
    ) -> None:
        super().__init__()
        widths = [width] + [out] * (config.blocks - 1)
        self.blocks = nn.ModuleList(_Block(w, out, config, embed_dim) for w in widths)
        self.attend = nn.ModuleList(_Attend(out, config) for _ in widths if attend)

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x, e)
            if len(self.attend):
                x = self.attend[number](x)
        return x


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _check(config: UNetNetwork) -> None:
    for channels in config.channels:
        if channels % config.groups:
            raise UserError(
                f"model.network.groups {config.groups} must divide all of "
                f"model.network.channels {list(config.channels)}"
            )
    coarse = max(0, len(config.channels) - config.attention_levels)
    for channels in config.channels[coarse:]:
        if channels % config.heads:
            raise UserError(
                f"model.network.heads {config.heads} must divide the channels of the levels with "
                f"attention, {channels} among them"
            )
