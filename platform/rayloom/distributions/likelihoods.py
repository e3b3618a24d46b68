"""Likelihoods of images: the data protocol, the decoder's last step and the units, in one place.

A likelihood says which variable is modelled (`observe`: binarised, dequantised, rescaled), how
many numbers per pixel a decoder must give (`params_per_channel`), which distribution they mean
(`forward`), and whether its log probabilities are those of discrete data (`bits_offset`).

Papers: Kingma and Welling, 2014, arXiv:1312.6114; Salakhutdinov and Murray, 2008
(binarised digits); Rybkin, Daniilidis and Levine, 2021, arXiv:2006.13202 (shared learned scale);
Salimans et al., 2017, arXiv:1701.05517 (discretised logistic); Theis et al., 2016,
arXiv:1511.01844 (dequantisation).

Dimension key: B examples, C channels, H height, W width, PC channels times parameters per channel;
`*batch` batch axes.
"""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from rayloom.config.sections import Config, by_name
from rayloom.core.noise import Noise
from rayloom.distributions.pixels import (
    BernoulliPixels,
    DiscretisedLogisticPixels,
    GaussianPixels,
)
from rayloom.nn.preprocess import quantise, to_unit

Scale = Literal["fixed", "shared", "predicted"]
_LOG_STD_BOUNDS = (-6.0, 2.0)  # for pixels in [0, 1]: e^-6 is 0.6 of a grey level
_LOG_SCALE_BOUNDS = (-7.0, 2.0)  # for pixels in [-1, 1]


class BernoulliConfig(Config):
    """Zeros and ones; `binarise` is the protocol, and numbers of two protocols do not compare."""

    name: Literal["bernoulli"] = "bernoulli"
    binarise: Literal["dynamic", "threshold", "none"] = Field(
        "dynamic",
        description="dynamic: x ~ Bernoulli(grey value), afresh at each use; threshold: grey value "
        "> 0.5; none: grey values as they are, a cross entropy and no likelihood",
    )


class GaussianConfig(Config):
    """A density over [0, 1] pixels."""

    name: Literal["gaussian"] = "gaussian"
    scale: Scale = Field(
        "shared", description="fixed: std; shared: one learned number; predicted: one per pixel"
    )
    std: float = Field(
        0.1, gt=0, le=7, description="fixed standard deviation, or where the learned one starts"
    )
    dequantise: bool = Field(
        False, description="add uniform noise to the 256 grey levels; gives bits per dimension"
    )


class DiscretisedLogisticConfig(Config):
    """256 grey levels; exact bits per dimension."""

    name: Literal["discretised-logistic"] = "discretised-logistic"
    scale: Literal["shared", "predicted"] = Field(
        "predicted", description="shared: one learned number; predicted: one per pixel"
    )


_Section = Annotated[
    BernoulliConfig | GaussianConfig | DiscretisedLogisticConfig, Field(discriminator="name")
]
LikelihoodConfig = Annotated[
    _Section,
    BeforeValidator(
        by_name,
        json_schema_input_type=_Section | Literal["bernoulli", "gaussian", "discretised-logistic"],
    ),
]


class BernoulliLikelihood(nn.Module):
    """Binarised pixels in {0, 1}.

    Args:
        config: Its section.
    """

    params_per_channel = 1

    def __init__(self, config: BernoulliConfig) -> None:
        super().__init__()
        self.binarise = config.binarise
        # Of grey values there is no likelihood, hence no bits.
        self.bits_offset = None if config.binarise == "none" else 0.0
        self.protocol = f"bernoulli, {config.binarise} binarisation"

    def observe(
        self,
        x: UInt8[Tensor, "B C H W"] | Float[Tensor, "B C H W"],
        rng: Noise | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B C H W"]:
        """The modelled variable. Without `rng`, its mean: what a deterministic encoder sees."""
        unit = to_unit(x, dtype)
        if self.binarise == "threshold":
            return (unit > 0.5).to(dtype)
        if self.binarise == "dynamic" and rng is not None:
            return (rng.uniform("binarise", *unit.shape[1:]) < unit).to(dtype)
        return unit

    def forward(self, out: Float[Tensor, "*batch PC H W"]) -> BernoulliPixels:
        """The distribution that a decoder's output stands for."""
        return BernoulliPixels(_full(out))

    def to_picture(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Values of the modelled variable as pixels in [0, 1]."""
        return value


class GaussianLikelihood(nn.Module):
    """Pixels in [0, 1] with Gaussian noise.

    Args:
        config: Its section.
    """

    def __init__(self, config: GaussianConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.dequantise = config.dequantise
        self.params_per_channel = 2 if config.scale == "predicted" else 1
        # A density on [0, 1] of 256 dequantised levels: log 256 per dimension makes it discrete.
        self.bits_offset = math.log(256.0) if config.dequantise else None
        self.protocol = f"gaussian, {config.scale} scale" + (
            ", uniform dequantisation" if config.dequantise else ""
        )
        start = torch.tensor(math.log(config.std))
        if config.scale == "shared":
            self.log_std = nn.Parameter(start)
        else:
            self.register_buffer("log_std", start)

    def observe(
        self,
        x: UInt8[Tensor, "B C H W"] | Float[Tensor, "B C H W"],
        rng: Noise | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B C H W"]:
        """The modelled variable. Without `rng`, without dequantisation noise."""
        unit = to_unit(x, dtype)
        if self.dequantise:
            noise = 0.5 if rng is None else rng.uniform("dequantise", *unit.shape[1:])
            return ((unit * 255.0).round_() + noise) / 256.0
        return unit

    def forward(self, out: Float[Tensor, "*batch PC H W"]) -> GaussianPixels:
        """The distribution that a decoder's output stands for."""
        out = _full(out)
        if self.scale == "predicted":
            mean, log_std = out.chunk(2, dim=-3)
            return GaussianPixels(mean, (log_std + self.log_std).clamp(*_LOG_STD_BOUNDS))
        return GaussianPixels(out, self.log_std.clamp(*_LOG_STD_BOUNDS))

    def to_picture(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Values of the modelled variable as pixels in [0, 1]."""
        return value.clamp(0.0, 1.0)


class DiscretisedLogisticLikelihood(nn.Module):
    """256 grey levels on [-1, 1].

    Args:
        config: Its section.
    """

    bits_offset = 0.0

    def __init__(self, config: DiscretisedLogisticConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.params_per_channel = 2 if config.scale == "predicted" else 1
        self.protocol = f"discretised logistic, 256 levels, {config.scale} scale"
        start = torch.tensor(-2.0)
        if config.scale == "shared":
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    def observe(
        self,
        x: UInt8[Tensor, "B C H W"] | Float[Tensor, "B C H W"],
        rng: Noise | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B C H W"]:
        """The modelled variable: grey levels on [-1, 1]; draws nothing."""
        unit = to_unit(x, dtype)
        if x.dtype is not torch.uint8:
            unit = quantise(unit)
        return unit * 2.0 - 1.0

    def forward(self, out: Float[Tensor, "*batch PC H W"]) -> DiscretisedLogisticPixels:
        """The distribution that a decoder's output stands for."""
        out = _full(out)
        if self.scale == "predicted":
            mean, log_scale = out.chunk(2, dim=-3)
            log_scale = (log_scale + self.log_scale).clamp(*_LOG_SCALE_BOUNDS)
            return DiscretisedLogisticPixels(mean, log_scale)
        return DiscretisedLogisticPixels(out, self.log_scale.clamp(*_LOG_SCALE_BOUNDS))

    def to_picture(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Values of the modelled variable as pixels in [0, 1]."""
        return ((value + 1.0) * 0.5).clamp(0.0, 1.0)


Likelihood = BernoulliLikelihood | GaussianLikelihood | DiscretisedLogisticLikelihood


def make_likelihood(
    config: BernoulliConfig | GaussianConfig | DiscretisedLogisticConfig,
) -> Likelihood:
    """The likelihood that a section describes."""
    if isinstance(config, BernoulliConfig):
        return BernoulliLikelihood(config)
    if isinstance(config, GaussianConfig):
        return GaussianLikelihood(config)
    return DiscretisedLogisticLikelihood(config)


def _full(out: Tensor) -> Tensor:
    """At least single precision: sums over pixels under autocast need it."""
    return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out
