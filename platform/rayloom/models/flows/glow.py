"""Glow: a flow of ActNorm, invertible 1x1 convolutions and affine couplings.

Kingma and Dhariwal, 2018, arXiv:1807.03039. log p(x) = log p(z) + sum of log |det| is exact and is
maximised. Pictures go through levels: squeeze, K steps of flow, and half of the channels leave as
z_l ~ N(m(h), s(h)) given the half that goes on (the multi-scale form of RealNVP,
arXiv:1605.08803). A vector of D numbers is a map of one pixel and D channels, without levels.

Grey levels are dequantised uniformly, x = (level + u) / 256 - 1/2; bits per dimension are those of
the 256 levels. `initialise` lets the first batch choose the ActNorms, layer by layer.

Deviations from the paper: coupling networks of far fewer channels, without ActNorm inside; no
learning-rate warm-up.

Dimension key: B examples, C channels, H height, W width, D numbers of an example.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import Config, PositiveFloat, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Export, Part, Player, Turn, operation
from rayloom.functional.likelihood import bits_per_dim
from rayloom.media import Arrays as ArraysMedium
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.flow import (
    ActNorm,
    AffineCoupling,
    Chain,
    GaussianPart,
    InvertibleConv,
    squeeze,
    unsqueeze,
)
from rayloom.nn.method import Method

LEVELS = 256  # of grey
SHOWN = 64


class GlowConfig(Config):
    """Settings of Glow (Kingma and Dhariwal, 2018, arXiv:1807.03039)."""

    name: Literal["glow"] = "glow"
    levels: PositiveInt = Field(2, description="of pictures: each halves height and width")
    steps: PositiveInt = Field(8, description="K, steps of flow per level")
    hidden: PositiveInt = Field(64, description="channels inside the coupling networks")


class SampleSettings(Config):
    """How to sample."""

    temperature: PositiveFloat = Field(
        1.0, description="factor on the prior's standard deviation; the paper shows 0.7"
    )


class Glow(nn.Module):
    """p(x) of pictures, or of vectors.

    Args:
        config: Settings.
        spec: The data, with a field `image`, or else a field `vector`.

    Raises:
        UserError: The data have neither, or sides that cannot be halved so often.
    """

    config_class: ClassVar[type] = GlowConfig
    task: ClassVar[str] = "generative"
    metrics: ClassVar[tuple[Metric, ...]] = shared("eval/loss", "eval/nll_nats", "eval/bpd")
    default_metric: ClassVar[str | None] = "eval/nll_nats"

    @classmethod
    def example(cls) -> tuple[GlowConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        return GlowConfig(levels=2, steps=2, hidden=8), tiny_images()

    def __init__(self, config: GlowConfig, spec: DataSpec) -> None:
        super().__init__()
        self.reads, self.shape = _field(spec)
        self.picture = self.reads == ("image",)
        self.dtype = getattr(torch, spec.fields[self.reads[0]].dtype)
        channels, height, width = self.shape
        levels, kernel = (config.levels, 3) if self.picture else (1, 1)
        if self.picture and (height % 2**levels or width % 2**levels):
            raise UserError(
                f"model.levels {levels}: sides of {height}x{width} pixels cannot be halved so "
                f"often; at most {_halvings(height, width)}"
            )
        self.levels, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            channels *= 4 if self.picture else 1
            layers: list[nn.Module] = []
            for _ in range(config.steps):
                layers += [ActNorm(channels), InvertibleConv(channels)]
                layers.append(AffineCoupling(channels, config.hidden, kernel=kernel))
            self.levels.append(Chain(layers))
            leaving = channels if level + 1 == levels else channels // 2
            self.priors.append(GaussianPart(channels - leaving, leaving, kernel=kernel))
            channels -= leaving

    @property
    def players(self) -> tuple[Player, ...]:
        """One."""
        return (Player("model", list(self.parameters())),)

    @property
    def protocol(self) -> str:
        """What the nats are about."""
        return "256 grey levels, dequantised uniformly" if self._discrete else "density"

    # The density --------------------------------------------------------------------------------

    def encode(self, x: Float[Tensor, "B C H W"]) -> tuple[list[Tensor], Float[Tensor, " B"]]:
        """The latents of each level, standardised, and log p(x), nats."""
        h, log_p, latents = x, x.new_zeros(len(x)), []
        for flow, prior in zip(self.levels, self.priors, strict=True):
            h, log_det = flow(squeeze(h) if self.picture else h)
            h, z = h.split([h.shape[1] - prior.channels, prior.channels], 1)
            eps, log_z = prior(z, h)
            log_p = log_p + log_det + log_z
            latents.append(eps)
        return latents, log_p

    def decode(self, latents: list[Tensor]) -> Float[Tensor, "B C H W"]:
        """The x of standard normal latents: the inverse of `encode`."""
        h = latents[-1][:, :0]
        for level in range(len(latents) - 1, -1, -1):
            z = self.priors[level].inverse(latents[level], h)
            h = self.levels[level].inverse(torch.cat([h, z], 1))
            h = unsqueeze(h) if self.picture else h
        return h

    def log_prob(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Log p(x) of observed x, nats."""
        return self.encode(x)[1]

    def log_prob_of(self, value: Tensor) -> Float[Tensor, " B"]:
        """Log p(x) of stored values; of grey levels at the middle of each."""
        x = value.to(self._like)
        if self.picture:
            x = (x + 0.5) / LEVELS - 0.5 if self._discrete else x - 0.5
        return self.log_prob(x.view(len(x), *self.shape))

    def observe(self, batch: Batch, rng: Noise) -> Float[Tensor, "B C H W"]:
        """The x that is modelled."""
        value = batch[self.reads[0]]
        weight = self._like
        if not self.picture:
            return value.to(weight).view(len(value), *self.shape)
        if not self._discrete:
            return value.to(weight) - 0.5
        noise = rng.uniform("dequantise", *self.shape).to(weight)
        return (value.to(weight) + noise) / LEVELS - 0.5

    @property
    def _like(self) -> Tensor:
        return self.priors[-1].free

    @property
    def _discrete(self) -> bool:
        return self.picture and self.dtype is torch.uint8

    # The contract -------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, batch: Batch, *, rng: Noise) -> None:
        """Let a batch choose the ActNorms, each on what those before it make of the batch."""
        norms = [part for part in self.modules() if isinstance(part, ActNorm)]
        for norm in norms:
            norm.choosing = True
        try:
            self.encode(self.observe(batch, rng))
        finally:
            for norm in norms:
                norm.choosing = False

    def nats(self, batch: Batch, rng: Noise) -> Float[Tensor, " B"]:
        """-log p per example: of the grey levels where there are any, else of the density."""
        offset = math.prod(self.shape) * math.log(LEVELS) if self._discrete else 0.0
        return offset - self.log_prob(self.observe(batch, rng))

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """-log p per example, nats."""
        return {"loss": self.nats(batch, rng)}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """Nats per example, and of grey levels bits per dimension."""
        nats = self.nats(batch, rng)
        found: dict[str, Part] = {"loss": nats, "nll_nats": nats}
        if self._discrete:
            found["bpd"] = bits_per_dim(nats, math.prod(self.shape))
        return found

    @operation(settings=SampleSettings, gives={"image": "image", "vector": "vector"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: SampleSettings | None = None) -> Batch:
        """Draw from the model."""
        temperature, latents = settings.temperature if settings is not None else 1.0, []
        for level, shape in enumerate(self._latent_shapes()):
            eps = rng.normal(f"z{level}", *shape).to(self._like)
            latents.append(temperature * eps)
        x = self.decode(latents)
        return {"image": (x + 0.5).clamp(0, 1)} if self.picture else {"vector": x.flatten(1)}

    def _latent_shapes(self) -> list[tuple[int, int, int]]:
        _, height, width = self.shape
        halved = 2 if self.picture else 1
        return [
            (prior.channels, height // halved**level, width // halved**level)
            for level, prior in enumerate(self.priors, 1)
        ]

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Samples, at the paper's temperature too."""
        many = rng.of_length(SHOWN)
        drawn, cool = (
            self.sample({}, rng=many, settings=SampleSettings(temperature=t)) for t in (1.0, 0.7)
        )
        if not self.picture:
            return {"samples": ArraysMedium(drawn)}
        return {"samples": Images(drawn["image"]), "samples_cool": Images(cool["image"])}

    def exports(self) -> dict[str, Export]:
        """`log_prob`: examples to log p of the value that stands in the middle of each level."""
        shape = self.shape if self.picture else self.shape[:1]
        return {
            "log_prob": Export(
                Method(self, "log_prob_of"), torch.zeros((2, *shape), dtype=self.dtype)
            )
        }


def _field(spec: DataSpec) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    """The fields that are read, and the shape of an example as a map."""
    if "image" not in spec.fields and "vector" in spec.fields:
        shape = spec.fields["vector"].shape
        if len(shape) != 1 or shape[0] < 2:
            raise UserError(f"data set {spec.name!r}: glow wants vectors of two numbers or more")
        return ("vector",), (shape[0], 1, 1)
    return ("image",), spec.image.shape


def _halvings(height: int, width: int) -> int:
    found = 0
    while height % 2 == 0 and width % 2 == 0:
        height, width, found = height // 2, width // 2, found + 1
    return found
