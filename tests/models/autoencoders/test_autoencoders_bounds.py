"""Bounds of log p(x) against a model whose log p(x) is known, and against the naive estimator."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.functional.variational import (
    importance_weighted_bound,
    log_importance_weight,
    reparameterize,
)
from rayloom.models.autoencoders.vae import VAE, VAEConfig

pytestmark = pytest.mark.law("vae")

STD = 0.3
SHAPE = (1, 2, 3)
SPEC = DataSpec({"image": FieldSpec(SHAPE, "uint8", "image")}, "toy")


def linear_gaussian(*, exact_posterior):
    """p(z) = N(0, I), p(x|z) = N(W z + b, STD^2 I) with orthogonal columns in W.

    Then p(x) = N(b, W W^T + STD^2 I), and the posterior is diagonal: with c_i = |w_i|^2,
    N(w_i.(x - b) / (c_i + STD^2), STD^2 / (c_i + STD^2)).
    """
    config = VAEConfig(latent_dim=2, likelihood={"name": "gaussian", "scale": "fixed", "std": STD})
    torch.manual_seed(0)
    model = VAE(config, SPEC).double()
    weight = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0]
    weight = weight * torch.tensor([0.8, 0.4], dtype=torch.float64)
    bias = torch.rand(6, dtype=torch.float64)
    decoder, head = nn.Linear(2, 6).double(), nn.Linear(6, 4).double()
    variance = weight.square().sum(0) + STD**2  # (2,)
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(bias)
        head.weight.zero_()
        head.weight[:2] = (weight / variance).T
        head.bias[:2] = -(weight / variance).T @ bias
        head.bias[2:] = torch.log(STD / variance.sqrt())
        if not exact_posterior:
            head.weight[:2] *= 0.8
            head.bias[2:] += 0.4
    model.encoder, model.posterior.linear = nn.Flatten(), head
    model.decoder = nn.Sequential(decoder, nn.Unflatten(1, SHAPE))
    covariance = weight @ weight.T + STD**2 * torch.eye(6, dtype=torch.float64)
    return model, MultivariateNormal(bias, covariance)


def data(num):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(num, *SHAPE, dtype=torch.float64, generator=generator)


def rng(num, step=0):
    return Noise(11, step=step, total=num, dtype=torch.float64)


def test_bound_is_tight_at_the_exact_posterior():
    """Every importance weight equals p(x), so any K gives log p(x) without noise."""
    model, marginal = linear_gaussian(exact_posterior=True)
    x = data(20)
    exact = marginal.log_prob(x.flatten(1))
    for k in (1, 7):
        nll = model.nll({"image": x}, num_samples=k, rng=rng(20))
        torch.testing.assert_close(-nll, exact)
    many = x.repeat_interleave(4000, 0)
    elbo = model.elbo(many, rng=rng(len(many))).view(20, 4000)
    error = (elbo.mean(1) - exact).abs()
    assert (error < 4 * elbo.std(1) / math.sqrt(4000)).all()


def test_elbo_below_iwae_growing_in_k_below_log_p():
    """With a wrong posterior: ELBO < L_2 < L_8 < L_64 < log p, by more than the noise."""
    model, marginal = linear_gaussian(exact_posterior=False)
    x = data(8)
    exact = marginal.log_prob(x.flatten(1)).mean()
    many = x.repeat(500, 1, 1, 1)
    values = [model.elbo(many, rng=rng(4000)).mean()]
    for k in (2, 8, 64):
        values.append(-model.nll({"image": many}, num_samples=k, rng=rng(4000, k)).mean())
    values.append(exact)
    assert all(low < high for low, high in pairwise(values)), values
    assert exact - values[-2] < 0.02
    assert exact - values[0] > 0.1


def test_elbo_gap_is_the_posterior_kl():
    """log p(x) - ELBO = KL(q(z|x) || p(z|x)): the identity behind the bound."""
    model, marginal = linear_gaussian(exact_posterior=False)
    exact, _ = linear_gaussian(exact_posterior=True)
    x = data(5)
    many = x.repeat_interleave(40_000, 0)
    elbo = model.elbo(many, rng=rng(len(many))).view(5, -1)
    q, p = model.encode(x), exact.encode(x)
    gap = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.log_std.exp()),
        torch.distributions.Normal(p.mean, p.log_std.exp()),
    ).sum(-1)
    error = (marginal.log_prob(x.flatten(1)) - elbo.mean(1) - gap).abs()
    assert (error < 4 * elbo.std(1) / 200).all()


def toy_vae(network, likelihood):
    torch.manual_seed(0)
    spec = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")}, "toy")
    config = VAEConfig(latent_dim=3, network=network, widths=(6,), likelihood=likelihood)
    return VAE(config, spec).double()


def naive_nll(model, image, num_samples, noise):
    """One image and one sample at a time, the encoder run afresh for each."""
    out = []
    for b in range(len(image)):
        row = noise.rows(b, b + 1)
        weights = []
        for k in range(num_samples):
            x = model.observe(image[b : b + 1], row)
            q = model.posterior_of(x)
            eps = row.normal(f"importance-{k}", 3)
            z = reparameterize(q.mean, q.log_std, eps)
            weights.append(log_importance_weight(model.decode(z).log_prob(x), z, eps, q.log_std))
        out.append(-importance_weighted_bound(torch.stack(weights)))
    return torch.cat(out)


@pytest.mark.parametrize("chunk", [1, 5, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("network", "likelihood"),
    [("mlp", "bernoulli"), ("conv", "discretised-logistic"), ("mlp", "gaussian")],
)
def test_chunked_nll_equals_the_naive_one(network, likelihood, chunk):
    model = toy_vae(network, likelihood)
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        want = naive_nll(model, image, 9, rng(6))
    got = model.nll({"image": image}, num_samples=9, rng=rng(6), chunk=chunk)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("chunk", "passes"), [(4, 15), (6, 10), (30, 2), (1000, 1)])
def test_nll_encodes_once_and_decodes_in_chunks(chunk, passes):
    """10 samples of 6 images: never more than `chunk` rows in the decoder at once."""
    model, encoded, decoded = toy_vae("mlp", "bernoulli"), [], []
    model.encoder.register_forward_hook(lambda _, given, __: encoded.append(len(given[0])))
    model.decoder.register_forward_hook(lambda _, given, __: decoded.append(len(given[0])))
    image = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    model.nll({"image": image}, num_samples=10, rng=rng(6), chunk=chunk)
    assert encoded == [6]
    assert sum(decoded) == 60
    assert max(decoded) <= chunk
    assert len(decoded) == passes


def test_nll_does_not_depend_on_how_the_images_are_split():
    model = toy_vae("mlp", "bernoulli")
    image = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    whole = model.nll({"image": image}, num_samples=4, rng=rng(7))
    parts = [
        model.nll({"image": image[a:b]}, num_samples=4, rng=rng(7).rows(a, b))
        for a, b in ((0, 3), (3, 3), (3, 7))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("num_samples", "chunk"), [(0, 10), (5, 0)])
def test_nll_refuses_nothing_to_average(num_samples, chunk):
    model = toy_vae("mlp", "bernoulli")
    image = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at least 1"):
        model.nll({"image": image}, num_samples=num_samples, rng=rng(2), chunk=chunk)


def test_nll_refuses_noise_of_another_batch():
    model = toy_vae("mlp", {"name": "bernoulli", "binarise": "threshold"})
    with pytest.raises(ValueError, match="rows"):
        model.nll({"image": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, num_samples=2, rng=rng(3))
