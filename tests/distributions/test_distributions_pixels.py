"""Likelihood heads: draws follow their own log probabilities; protocols say what they do."""

import json
import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from rayloom.core.noise import Noise
from rayloom.distributions.gaussian import DiagonalGaussian, DiagonalGaussianHead
from rayloom.distributions.likelihoods import (
    BernoulliConfig,
    DiscretisedLogisticConfig,
    GaussianConfig,
    LikelihoodConfig,
    make_likelihood,
)
from rayloom.distributions.pixels import (
    BernoulliPixels,
    DiscretisedLogisticPixels,
    GaussianPixels,
)

SECTION = TypeAdapter(LikelihoodConfig)
ALL = [
    BernoulliConfig(),
    BernoulliConfig(binarise="threshold"),
    GaussianConfig(scale="fixed"),
    GaussianConfig(scale="shared"),
    GaussianConfig(scale="predicted", dequantise=True),
    DiscretisedLogisticConfig(scale="shared"),
    DiscretisedLogisticConfig(scale="predicted"),
]
ids = [f"{c.name}-{getattr(c, 'scale', getattr(c, 'binarise', ''))}" for c in ALL]


def noise(total, **about):
    return Noise(3, total=total, **about)


def test_bernoulli_draws_follow_log_prob():
    pixels = BernoulliPixels(torch.tensor([-1.0, 0.3]).expand(20_000, 2)[:, None, None])
    x = pixels.sample(noise(20_000), "x")
    torch.testing.assert_close(x.mean(0).flatten(), pixels.mean[0].flatten(), atol=0.02, rtol=0)
    one = BernoulliPixels(torch.full((1, 1, 1, 1), 0.3)).log_prob(torch.ones(1, 1, 1, 1))
    assert x[..., 1].mean().log().item() == pytest.approx(one.item(), abs=0.03)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, -1.0), (0.9, -0.5), (-1.4, -2.0)])
def test_discretised_logistic_draws_follow_log_prob(mean, log_scale):
    """Frequencies of 9 values in 40,000 draws, the edge bins included."""
    num, bins = 40_000, 9
    shape = (num, 1, 1, 1)
    pixels = DiscretisedLogisticPixels(
        torch.full(shape, mean), torch.full(shape, log_scale), num_bins=bins
    )
    drawn = pixels.sample(noise(num), "x").flatten()
    level = (drawn + 1) * (bins - 1) / 2
    torch.testing.assert_close(level, level.round(), atol=1e-5, rtol=0)
    frequency = torch.bincount(level.round().long(), minlength=bins) / num
    grid = torch.linspace(-1, 1, bins).view(bins, 1, 1, 1)
    exact = DiscretisedLogisticPixels(
        torch.full((bins, 1, 1, 1), mean), torch.full((bins, 1, 1, 1), log_scale), num_bins=bins
    )
    torch.testing.assert_close(frequency, exact.log_prob(grid).exp(), atol=0.012, rtol=0)


def test_gaussian_draws_have_the_mean_and_scale():
    pixels = GaussianPixels(torch.full((50_000, 1, 1, 1), 0.3), torch.tensor(math.log(0.2)))
    x = pixels.sample(noise(50_000), "x")
    assert x.mean().item() == pytest.approx(0.3, abs=0.005)
    assert x.std().item() == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("config", ALL, ids=ids)
def test_log_prob_broadcasts_over_leading_samples(config, seed):
    """(K, B, C, H, W) parameters against (B, C, H, W) pixels: what importance sampling does."""
    likelihood = make_likelihood(config)
    image = torch.randint(0, 256, (4, 2, 3, 5), dtype=torch.uint8)
    x = likelihood.observe(image, noise(4), torch.float32)
    out = torch.randn(3, 4, 2 * likelihood.params_per_channel, 3, 5)
    together = likelihood(out).log_prob(x)
    assert together.shape == (3, 4)
    for k in range(3):
        torch.testing.assert_close(together[k], likelihood(out[k]).log_prob(x))


@pytest.mark.parametrize("config", ALL, ids=ids)
def test_draws_of_a_head_look_like_what_it_observes(config, seed):
    likelihood = make_likelihood(config)
    out = torch.randn(6, 1 * likelihood.params_per_channel, 4, 4)
    x = likelihood(out).sample(noise(6), "x")
    assert x.shape == (6, 1, 4, 4)
    picture = likelihood.to_picture(x)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_dynamic_binarisation_has_the_grey_value_as_its_mean():
    likelihood = make_likelihood(BernoulliConfig(binarise="dynamic"))
    image = torch.tensor([0, 64, 191, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    x = likelihood.observe(image.expand(20_000, 1, 2, 2), noise(20_000), torch.float32)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(x.mean(0), image[0] / 255.0, atol=0.015, rtol=0)
    assert x[:, 0, 0, 0].sum() == 0  # black stays black,
    assert x[:, 0, 1, 1].sum() == 20_000  # white stays white


def test_threshold_cuts_between_127_and_128():
    likelihood = make_likelihood(BernoulliConfig(binarise="threshold"))
    image = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    x = likelihood.observe(image, None, torch.float32)
    assert x.flatten().tolist() == [0, 0, 1, 1]


def test_grey_values_have_no_bits():
    assert make_likelihood(BernoulliConfig(binarise="none")).bits_offset is None
    assert make_likelihood(GaussianConfig()).bits_offset is None


def test_dequantised_uniform_density_has_eight_bits(float64):
    """Density 1 on [0, 1] is a uniform choice among 256 levels."""
    likelihood = make_likelihood(GaussianConfig(dequantise=True))
    assert likelihood.bits_offset / math.log(2) == pytest.approx(8.0)
    image = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    x = likelihood.observe(image, noise(256), torch.float64)
    assert (x * 256).floor().flatten().tolist() == list(range(256))


def test_discretised_logistic_observes_the_grid_exactly():
    likelihood = make_likelihood(DiscretisedLogisticConfig())
    image = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    x = likelihood.observe(image, None, torch.float32)
    torch.testing.assert_close(x.flatten(), torch.linspace(-1, 1, 256), atol=1e-6, rtol=0)
    from_unit = likelihood.observe(image / 255.0, None, torch.float32)
    torch.testing.assert_close(from_unit, x)


@pytest.mark.parametrize("config", ALL, ids=ids)
def test_floating_images_are_observed_as_their_bytes_are(config, seed):
    likelihood = make_likelihood(config)
    image = torch.randint(0, 256, (4, 1, 3, 3), dtype=torch.uint8)
    of_bytes = likelihood.observe(image, noise(4), torch.float32)
    of_floats = likelihood.observe(image / 255.0, noise(4), torch.float32)
    torch.testing.assert_close(of_bytes, of_floats)


def test_half_precision_outputs_are_summed_in_single():
    for config in ALL:
        likelihood = make_likelihood(config)
        out = torch.zeros(2, likelihood.params_per_channel, 3, 3, dtype=torch.bfloat16)
        assert likelihood(out).mean.dtype is torch.float32


def test_name_alone_is_a_section():
    assert SECTION.validate_python("gaussian") == GaussianConfig()
    assert SECTION.validate_python({"name": "bernoulli", "binarise": "none"}).binarise == "none"
    dumped = SECTION.dump_python(GaussianConfig(scale="fixed"), mode="json")
    assert SECTION.validate_json(json.dumps(dumped)) == GaussianConfig(scale="fixed")


@pytest.mark.parametrize(
    "section",
    [
        "poisson",
        {"name": "bernoulli", "scale": "fixed"},
        {"name": "gaussian", "std": 0},
        {"name": "gaussian", "std": float("nan")},
        {"name": "bernoulli", "binarise": "often"},
        3,
    ],
)
def test_wrong_sections_are_refused(section):
    with pytest.raises(ValidationError):
        SECTION.validate_python(section)


def test_gaussian_head_keeps_its_bounds_and_density(seed):
    head = DiagonalGaussianHead(3, 2, log_std_bounds=(-1.0, 1.0))
    q = head(100 * torch.randn(50, 3))
    assert q.log_std.min() >= -1
    assert q.log_std.max() <= 1
    eps = torch.randn(50, 2)
    want = torch.distributions.Normal(q.mean, q.log_std.exp()).log_prob(q.rsample(eps)).sum(-1)
    torch.testing.assert_close(q.log_prob(q.rsample(eps)), want, rtol=1e-4, atol=1e-4)


def test_gaussian_sample_uses_the_rows_of_its_noise():
    q = DiagonalGaussian(torch.zeros(6, 2), torch.zeros(6, 2))
    whole = q.sample(noise(6), "z")
    part = DiagonalGaussian(torch.zeros(2, 2), torch.zeros(2, 2)).sample(
        noise(6, start=3, stop=5), "z"
    )
    assert torch.equal(whole[3:5], part)
