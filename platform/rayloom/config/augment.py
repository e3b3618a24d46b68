"""The transforms of `data.augment`: what each draws for an example, and from where to where."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayloom.config.base import Config, PositiveFloat

Probability = Annotated[float, Field(ge=0, le=1)]


class _Transform(Config):
    probability: Probability = Field(1.0, description="share of the examples that it acts on")


class RotateConfig(_Transform):
    """About the middle, by an angle from -degrees to degrees."""

    name: Literal["rotate"] = "rotate"
    degrees: PositiveFloat = Field(le=180, description="greatest angle")


class FlipConfig(_Transform):
    """Mirrored."""

    name: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = Field(
        "horizontal", description="left and right change places, or top and bottom"
    )
    probability: Probability = Field(0.5, description="share of the examples that it acts on")


class ShiftConfig(_Transform):
    """Moved along both axes, by -fraction to fraction of the side."""

    name: Literal["shift"] = "shift"
    fraction: PositiveFloat = Field(0.1, le=1, description="greatest way, of the side")


class ScaleConfig(_Transform):
    """Made greater or smaller about the middle, evenly in the logarithm."""

    name: Literal["scale"] = "scale"
    low: PositiveFloat = Field(0.9, description="least factor")
    high: PositiveFloat = Field(1.1, description="greatest factor")

    @model_validator(mode="after")
    def _ordered(self) -> "ScaleConfig":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class NoiseConfig(_Transform):
    """Gaussian noise on every value of the field `image`."""

    name: Literal["noise"] = "noise"
    std: PositiveFloat = Field(0.05, le=1, description="deviation; the range of values is 1")


class BlurConfig(_Transform):
    """The field `image` through a Gaussian of a width from 0 to sigma."""

    name: Literal["blur"] = "blur"
    sigma: PositiveFloat = Field(1.0, le=16, description="greatest width, pixels")


class SaltPepperConfig(_Transform):
    """Pixels of the field `image` made black or white."""

    name: Literal["salt_pepper"] = "salt_pepper"
    share: Probability = Field(0.02, description="of the pixels")


class ChannelDropoutConfig(_Transform):
    """One channel of the field `image` made 0."""

    name: Literal["channel_dropout"] = "channel_dropout"
    probability: Probability = Field(0.1, description="share of the examples that it acts on")


TransformConfig = Annotated[
    RotateConfig
    | FlipConfig
    | ShiftConfig
    | ScaleConfig
    | NoiseConfig
    | BlurConfig
    | SaltPepperConfig
    | ChannelDropoutConfig,
    Field(discriminator="name"),
]
