"""The section `network` of a config, shared by all families, and what it builds.

    network: {name: conv, channels: [32, 64]}        network: {name: mlp, widths: [512]}

`network: conv` alone takes the defaults.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from torch import nn

from rayloom.config.sections import Config, Sizes, by_name
from rayloom.nn.activation import ACTIVATIONS, Activation, make_activation
from rayloom.nn.conv import ConvDecoder, ConvEncoder, conv_sizes
from rayloom.nn.mlp import MLP, MLPDecoder, MLPEncoder

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Activation",
    "ConvDecoder",
    "ConvEncoder",
    "ConvNetwork",
    "MLPDecoder",
    "MLPEncoder",
    "MLPNetwork",
    "NetworkConfig",
    "conv_sizes",
    "make_activation",
    "make_decoder",
    "make_encoder",
]


class MLPNetwork(Config):
    """A multilayer perceptron."""

    name: Literal["mlp"] = "mlp"
    widths: Sizes = Field(
        (512,), description="hidden widths, from the data inwards; a decoder mirrors them"
    )
    activation: Activation = Field("relu", description="between layers")


class ConvNetwork(Config):
    """Strided convolutions, and transposed ones as decoder."""

    name: Literal["conv"] = "conv"
    channels: Sizes = Field(
        (32, 64),
        min_length=1,
        description="channels of the stages, each of which halves the image; a decoder mirrors "
        "them",
    )
    activation: Activation = Field("relu", description="between layers")


_Section = Annotated[MLPNetwork | ConvNetwork, Field(discriminator="name")]
NetworkConfig = Annotated[
    _Section,
    BeforeValidator(by_name, json_schema_input_type=_Section | Literal["mlp", "conv"]),
]
# `old_keys` of settings that once had these beside `network`
BESIDE = {
    "widths": ("network.widths", "network.channels"),
    "activation": ("network.activation",),
}


def make_encoder(
    config: MLPNetwork | ConvNetwork, image_shape: tuple[int, int, int]
) -> MLPEncoder | ConvEncoder:
    """Images (B, *image_shape) to features (B, `out_dim`)."""
    if isinstance(config, ConvNetwork):
        return ConvEncoder(image_shape, config.channels, activation=config.activation)
    return MLPEncoder(image_shape, config.widths, activation=config.activation)


def make_decoder(
    config: MLPNetwork | ConvNetwork, in_dim: int, out_shape: tuple[int, int, int]
) -> nn.Module:
    """Latents (B, in_dim) to images (B, *out_shape): the mirror of the encoder."""
    if isinstance(config, ConvNetwork):
        return ConvDecoder(in_dim, out_shape, config.channels, activation=config.activation)
    return MLPDecoder(in_dim, out_shape, config.widths, activation=config.activation)
