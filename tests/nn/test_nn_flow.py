"""Invertible layers: inverse, log-determinant against autograd, ActNorm's first batch."""

import pytest
import torch

from rayloom.nn.flow import (
    ActNorm,
    AffineCoupling,
    Chain,
    GaussianPart,
    InvertibleConv,
    squeeze,
    unsqueeze,
)

MAKERS = {
    "actnorm": lambda: ActNorm(4),
    "conv": lambda: InvertibleConv(4),
    "coupling": lambda: AffineCoupling(4, 8),
    "odd coupling": lambda: AffineCoupling(3, 8, kernel=1),
    "chain": lambda: Chain([ActNorm(4), InvertibleConv(4), AffineCoupling(4, 8)]),
}


def awake(layer):
    """In double precision, moved off its start."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("name", MAKERS)
def test_layers_are_undone_and_their_log_determinants_are_those_of_autograd(name, seed):
    layer = awake(MAKERS[name]())
    channels = 3 if name == "odd coupling" else 4
    x = torch.randn(3, channels, 2, 3, dtype=torch.float64)
    y, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(y), x)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: layer(v.view(1, channels, 2, 3))[0].flatten(), x[row].flatten()
        )
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet)
    assert layer(x[:0])[1].shape == (0,)


def test_a_convolution_starts_as_a_rotation_and_stays_invertible(seed):
    layer = InvertibleConv(6).double()
    weight = layer.weight()
    torch.testing.assert_close(
        weight @ weight.T, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0
    )
    awake(layer)
    assert torch.linalg.slogdet(layer.weight()).logabsdet.item() == pytest.approx(
        layer.log_s.sum().item()
    )


def test_the_kept_inverse_follows_the_weights_also_through_data(seed):
    """Parameters are views of a flat tensor, which is written past autograd's version counters."""
    layer = InvertibleConv(3).double().eval()
    x = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        first = layer.inverse_weight()
        assert layer.inverse_weight() is first
        layer.log_s.data.add_(0.5)
        torch.testing.assert_close(layer.inverse(layer(x)[0]), x)


def test_actnorm_standardises_the_batch_that_it_chose_by(seed):
    layer, x = ActNorm(3).double(), 5 + 3 * torch.randn(64, 3, 4, 4, dtype=torch.float64)
    layer.choose(x)
    y, _ = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(
        y.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("given", [0, 2])
def test_the_part_that_leaves_has_the_density_of_a_gaussian(given, seed):
    part = awake(GaussianPart(given, 4, kernel=3))
    h, z = (torch.randn(3, c, 2, 2, dtype=torch.float64) for c in (given, 4))
    eps, log_p = part(z, h)
    torch.testing.assert_close(part.inverse(eps, h), z)
    mean, log_std = part._moments(h)
    wanted = torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum((1, 2, 3))
    torch.testing.assert_close(log_p, wanted)


def test_squeeze_keeps_blocks_together():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert squeeze(x)[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert torch.equal(unsqueeze(squeeze(x)), x)
