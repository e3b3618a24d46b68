"""Networks: sizes come out exactly for any image, mistakes are told, empty shards pass."""

import pytest
import torch

from rayloom.core.errors import UserError
from rayloom.nn.network import (
    ACTIVATIONS,
    MLP,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    conv_sizes,
    make_activation,
)
from rayloom.nn.preprocess import quantise, to_unit

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 7, 9), (1, 13, 5), (1, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("widths", [(4,), (4, 6), (4, 6, 8)])
def test_convolutions_return_to_the_size_they_came_from(shape, widths):
    if min(shape[1:]) < 2 ** len(widths):
        with pytest.raises(UserError, match=r"model.network.channels"):
            ConvEncoder(shape, widths)
        return
    encoder, decoder = ConvEncoder(shape, widths), ConvDecoder(5, shape, widths)
    x = torch.rand(3, *shape)
    assert encoder(x).shape == (3, encoder.out_dim)
    assert decoder(torch.randn(3, 5)).shape == x.shape


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_every_pixel_is_reached_both_ways(network, seed):
    """No border is cut off by the odd sizes: each input and each output pixel matters."""
    shape, widths = (1, 7, 9), (4, 6)
    make = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}[network]
    encoder = make[0](shape, widths, activation="tanh")
    decoder = make[1](5, shape, widths, activation="tanh")
    x = torch.rand(1, *shape, requires_grad=True)
    encoder(x).square().sum().backward()
    z = torch.randn(1, 5, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda z: decoder(z).flatten(), z)  # (63, 1, 5)
    assert (jacobian.abs().sum((1, 2)) > 0).all()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_an_empty_shard_gives_zero_gradients(network):
    make = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}[network]
    encoder, decoder = make[0]((1, 8, 8), (4,)), make[1](3, (1, 8, 8), (4,))
    (encoder(torch.rand(0, 1, 8, 8)).sum() + decoder(torch.rand(0, 3)).sum()).backward()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()


def test_mlp_layers_mirror():
    assert [m.out_features for m in MLP(3, (5, 4), 2) if hasattr(m, "out_features")] == [5, 4, 2]
    assert MLP(3, (), 2)(torch.zeros(1, 3)).shape == (1, 2)
    decoder = MLPDecoder(2, (1, 2, 3), (5, 4))
    sizes = [m.out_features for m in decoder.layers if hasattr(m, "out_features")]
    assert sizes == [4, 5, 6]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_exist(name):
    assert make_activation(name)(torch.zeros(2)).shape == (2,)


def test_unknown_activation_names_the_known():
    with pytest.raises(ValueError, match="relu"):
        make_activation("rellu")


def test_sizes_and_the_message_when_they_run_out():
    assert conv_sizes(28, 28, 3) == [(28, 28), (14, 14), (7, 7), (3, 3)]
    with pytest.raises(UserError, match="8x8 image allows 3"):
        conv_sizes(8, 8, 4)


def test_bytes_become_exactly_zero_and_one():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    unit = to_unit(x, torch.float64)
    torch.testing.assert_close(unit.flatten(), torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64))
    assert to_unit(x).max() == 1.0
    torch.testing.assert_close(to_unit(unit, torch.float64), unit)
    torch.testing.assert_close(quantise(unit + 0.001), unit)
