"""Pixel likelihoods: each is a distribution, and equals an independent statement of itself."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.distributions import Bernoulli, Normal

from rayloom.functional.likelihood import (
    bernoulli_log_prob,
    bits_per_dim,
    discretised_logistic_log_prob,
    gaussian_log_prob,
)


def test_shape_checks_are_on():
    """Canary: without the import hook every annotation is decoration."""
    with pytest.raises(TypeCheckError):
        bernoulli_log_prob(torch.zeros(2, 3), torch.zeros(2, 4))


def test_bernoulli_sums_to_one(seed, float64):
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))  # (64, 6)
    log_prob = bernoulli_log_prob(x, (3 * torch.randn(6)).expand_as(x))
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0))


def test_bernoulli_equals_torch_and_survives_large_logits(seed):
    logits = torch.randn(5, 7)
    x = (torch.rand(5, 7) < 0.5).float()
    torch.testing.assert_close(
        bernoulli_log_prob(x, logits), Bernoulli(logits=logits).log_prob(x).sum(-1)
    )
    sure = bernoulli_log_prob(torch.zeros(1, 2), torch.tensor([[300.0, -300.0]]))
    torch.testing.assert_close(sure, torch.tensor([-300.0]))


@pytest.mark.parametrize("scale_shape", [(5, 7), (7,), (1,), (5, 1), ()])
def test_gaussian_equals_torch(seed, scale_shape):
    """A shared scale counts once per dimension."""
    x, mean = torch.randn(5, 7), torch.randn(5, 7)
    log_std = torch.randn(scale_shape) if scale_shape else torch.randn(1)
    want = Normal(mean, log_std.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(x, mean, log_std), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("num_bins", [2, 5, 256])
@pytest.mark.parametrize("log_scale", [-9.0, -3.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-5.0, -1.0, 0.013, 0.8, 2.0])
def test_discretised_logistic_masses_sum_to_one(num_bins, log_scale, mean):
    """The edge bins take the tails, so nothing is lost, in single precision too."""
    x = torch.linspace(-1.0, 1.0, num_bins).unsqueeze(-1)  # (bins, 1)
    log_prob = discretised_logistic_log_prob(
        x, torch.full_like(x, mean), torch.full_like(x, log_scale), num_bins=num_bins
    )
    assert log_prob.isfinite().all()
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_discretised_logistic_equals_the_difference_of_two_cdfs(float64):
    """Away from the tails, where the difference can be formed."""
    x = torch.linspace(-1.0, 1.0, 256).unsqueeze(-1)
    mean, scale = torch.full_like(x, 0.1), 0.3
    upper = torch.where(x > 0.999, 1.0, torch.sigmoid((x + 1 / 255 - mean) / scale))
    lower = torch.where(x < -0.999, 0.0, torch.sigmoid((x - 1 / 255 - mean) / scale))
    got = discretised_logistic_log_prob(x, mean, torch.full_like(x, math.log(scale)))
    torch.testing.assert_close(got.exp(), (upper - lower).squeeze(-1))


def test_discretised_logistic_is_exact_in_the_tail_with_finite_gradients():
    """Forty scales from the mean the mass is about 2h/s e^-40; a difference of CDFs gives 0."""
    mean = torch.tensor([[-0.6]], requires_grad=True)
    log_scale = torch.tensor([[math.log(0.02)]], requires_grad=True)
    x = torch.tensor([[round(0.2 * 127.5 + 127.5) / 127.5 - 1.0]])
    log_prob = discretised_logistic_log_prob(x, mean, log_scale)
    distance = (x.item() + 0.6) / 0.02
    want = -distance + math.log(2 * math.sinh(1 / 255 / 0.02))
    assert log_prob.item() == pytest.approx(want, rel=1e-4)
    log_prob.sum().backward()
    assert mean.grad.item() == pytest.approx(1 / 0.02, rel=1e-3)
    assert log_scale.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 255), st.floats(-1, 1), st.floats(-6, 2))
def test_discretised_logistic_is_a_log_probability(level, mean, log_scale):
    x = torch.tensor([[level / 127.5 - 1.0]])
    value = discretised_logistic_log_prob(x, torch.tensor([[mean]]), torch.tensor([[log_scale]]))
    assert value.isfinite()
    assert value.item() <= 1e-6


def test_bits_per_dim_of_uniform_bytes_is_eight():
    nats = torch.tensor([28 * 28 * math.log(256.0)])
    torch.testing.assert_close(bits_per_dim(nats, 28 * 28), torch.tensor([8.0]))
    with pytest.raises(ValueError, match="at least 1"):
        bits_per_dim(nats, 0)
