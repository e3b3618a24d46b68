"""KL, bounds, gradients and the multiplier: each against another way to the same number."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from rayloom.functional.variational import (
    elbo,
    gaussian_kl,
    importance_weighted_bound,
    log_importance_weight,
    multiplier_step,
    reparameterize,
    running_logsumexp,
    standard_normal_kl,
    standard_normal_kl_per_dim,
    standard_normal_log_prob,
)


@pytest.fixture
def posterior(seed, float64):
    return torch.randn(6, 3), 0.5 * torch.randn(6, 3)


def test_kl_equals_torch(posterior):
    mean, log_std = posterior
    q = Independent(Normal(mean, log_std.exp()), 1)
    p = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(standard_normal_kl(mean, log_std), kl_divergence(q, p))
    torch.testing.assert_close(
        standard_normal_kl_per_dim(mean, log_std), kl_divergence(q.base_dist, p.base_dist)
    )


def test_kl_between_gaussians_equals_torch(posterior):
    mean, log_std = posterior
    mean_p, log_std_p = torch.randn(6, 3), 0.5 * torch.randn(6, 3)
    want = kl_divergence(Normal(mean, log_std.exp()), Normal(mean_p, log_std_p.exp())).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, log_std, mean_p, log_std_p), want)
    zero = torch.zeros_like(mean)
    torch.testing.assert_close(
        gaussian_kl(mean, log_std, zero, zero), standard_normal_kl(mean, log_std)
    )


def test_kl_equals_monte_carlo(posterior):
    mean, log_std = posterior
    z = reparameterize(
        mean.expand(200_000, 6, 3), log_std.expand(200_000, 6, 3), torch.randn(200_000, 6, 3)
    )
    log_ratio = Normal(mean, log_std.exp()).log_prob(z).sum(-1) - standard_normal_log_prob(z)
    error = (log_ratio.mean(0) - standard_normal_kl(mean, log_std)).abs()
    assert (error < 4 * log_ratio.std(0) / math.sqrt(200_000)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(-6, 2)), min_size=1, max_size=5))
def test_kl_is_non_negative_and_zero_only_at_the_prior(rows):
    mean, log_std = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    kl = standard_normal_kl(mean[None], log_std[None])
    assert kl.item() >= -1e-12
    zero = torch.zeros_like(mean)[None]
    assert standard_normal_kl(zero, zero).item() == 0.0


def test_reparameterised_gradient_equals_the_score_function_gradient(seed, float64):
    """Two estimators of d/dtheta E f(z): their means agree; the pathwise one varies far less."""
    mean = torch.tensor([[0.4, -0.2]], requires_grad=True)
    log_std = torch.tensor([[-0.3, 0.2]], requires_grad=True)
    num = 200_000
    eps = torch.randn(num, 2)

    def f(z):
        return (z**3 + torch.sin(z)).sum(-1) + z.prod(-1)

    z = reparameterize(mean.expand(num, 2), log_std.expand(num, 2), eps)
    pathwise = torch.autograd.grad(f(z).mean(), (mean, log_std))
    fixed = z.detach()
    score = Normal(mean, log_std.exp()).log_prob(fixed).sum(-1)
    value = f(fixed)
    by_score = torch.autograd.grad(((value - value.mean()) * score).mean(), (mean, log_std))
    for one, other in zip(pathwise, by_score, strict=True):
        torch.testing.assert_close(one, other, atol=0.08, rtol=0.0)


def test_importance_weight_equals_the_ratio_of_densities(posterior):
    mean, log_std = posterior
    eps, log_likelihood = torch.randn(6, 3), torch.randn(6)
    z = reparameterize(mean, log_std, eps)
    want = (
        log_likelihood
        + Normal(0.0, 1.0).log_prob(z).sum(-1)
        - Normal(mean, log_std.exp()).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(log_importance_weight(log_likelihood, z, eps, log_std), want)


def test_running_logsumexp_in_any_chunks_equals_the_whole(seed, float64):
    log_w = 50 * torch.randn(17, 4) - 800  # exponentials of these underflow
    total = None
    for chunk in log_w.split([1, 5, 9, 2]):
        total = running_logsumexp(total, chunk)
    torch.testing.assert_close(total - math.log(17), importance_weighted_bound(log_w))


def test_bound_of_equal_weights_is_the_weight_and_needs_one():
    torch.testing.assert_close(
        importance_weighted_bound(torch.full((5, 2), -3.0)), torch.full((2,), -3.0)
    )
    with pytest.raises(ValueError, match="at least 1"):
        importance_weighted_bound(torch.zeros(0, 2))


def test_elbo_is_likelihood_minus_kl():
    assert elbo(torch.tensor([-5.0]), torch.tensor([2.0])).item() == -7.0


def test_multiplier_solves_a_constrained_problem(float64):
    """min (x - 3)^2 subject to x <= 1: x = 1 and, from 2 (x - 3) + beta = 0, beta = 4."""
    x, beta = torch.tensor(0.0), torch.tensor(0.0)
    for _ in range(4000):
        x = x - 0.05 * (2 * (x - 3) + beta)
        beta = multiplier_step(beta, x - 1.0, step_size=0.05)
        assert beta >= 0
    torch.testing.assert_close(x, torch.tensor(1.0))
    torch.testing.assert_close(beta, torch.tensor(4.0))


def test_multiplier_of_a_slack_constraint_is_zero(float64):
    """min (x - 3)^2 subject to x <= 5 leaves x = 3, beta = 0: complementary slackness."""
    x, beta = torch.tensor(0.0), torch.tensor(2.0)
    for _ in range(2000):
        x = x - 0.05 * (2 * (x - 3) + beta)
        beta = multiplier_step(beta, x - 5.0, step_size=0.05)
    torch.testing.assert_close(x, torch.tensor(3.0))
    assert beta.item() == 0.0
