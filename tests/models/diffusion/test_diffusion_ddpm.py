"""Laws of denoising diffusion: the chain, the samplers, guidance, the bound."""

import math

import pytest
import torch

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Turn, operations
from rayloom.data import from_arrays
from rayloom.functional import diffusion
from rayloom.functional.diffusion import (
    SCHEDULES,
    bound_weight,
    diffuse,
    discretised_gaussian_log_prob,
    guide,
    posterior_variance,
    predict_x,
    prior_kl,
    reverse_chain,
    sampling_times,
)
from rayloom.models.diffusion.ddpm import DDPM, DDPMSampling
from rayloom.testing import check_model
from rayloom_pipelines.load.operate import operate
from thread_ranks import same_on_ranks

pytestmark = pytest.mark.law("ddpm")

SPEC = DataSpec(
    {
        "image": FieldSpec((1, 8, 8), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 3),
    },
    "tiny",
)


def build(spec=SPEC, **changes):
    """A tiny model in float64 whose network says something (a new one says nothing)."""
    config = DDPM.example()[0].model_copy(update=changes)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DDPM(config, spec).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(params=[*SCHEDULES])
def alpha_bar(request):
    return SCHEDULES[request.param](1000)


# The chain ---------------------------------------------------------------------------------------


def test_schedules_have_the_published_ends():
    linear, cosine = SCHEDULES["linear"](1000), SCHEDULES["cosine"](1000)
    assert linear[0] == cosine[0] == 1
    assert float(1 - linear[1]) == pytest.approx(1e-4)
    assert float(1 - linear[1000] / linear[999]) == pytest.approx(0.02)
    assert float(linear[1000]) == pytest.approx(4.04e-5, rel=0.01)  # KL to the prior about 0
    assert float(cosine[500]) == pytest.approx(0.4938, abs=1e-3)
    assert float(1 - cosine[1000] / cosine[999]) == pytest.approx(diffusion.MAX_BETA)
    for kept in (linear, cosine):
        assert bool((kept[1:] < kept[:-1]).all())


def test_the_marginal_is_that_of_the_chain_step_by_step(alpha_bar):
    """q(x_t|x) against x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z, as moments."""
    x = torch.tensor([[0.7]], dtype=torch.float64)
    mean, variance = x.clone(), torch.zeros_like(x)
    for t in range(1, 1001):
        beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        at = alpha_bar[t].view(1)
        centre = diffuse(x, torch.zeros_like(x), at)
        spread = diffuse(x, torch.ones_like(x), at) - centre
        torch.testing.assert_close(centre, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(spread.square(), variance, rtol=1e-10, atol=1e-12)


def test_noise_and_picture_are_each_other_s_inverse(alpha_bar):
    x, eps = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1, 10, 500, 900, 990])
    x_t = diffuse(x, eps, alpha_bar[t])
    torch.testing.assert_close(predict_x(x_t, eps, alpha_bar[t]), x, rtol=1e-7, atol=1e-7)


def test_a_step_with_the_right_eps_draws_the_posterior(alpha_bar):
    """Mean and variance of q(x_{t-1}|x_t, x) by Bayes' rule (DDPM, equations 6 and 7)."""
    x, x_t = (torch.tensor([[v]], dtype=torch.float64) for v in (0.3, -1.1))
    for t in (2, 10, 500, 1000):
        a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
        beta = 1 - a_t / a_s
        variance = beta * (1 - a_s) / (1 - a_t)
        mean = a_s.sqrt() * beta / (1 - a_t) * x + (1 - beta).sqrt() * (1 - a_s) / (1 - a_t) * x_t

        def step(z, t=t, a_t=a_t):
            walk = reverse_chain(
                lambda y, _: (y - a_t.sqrt() * x) / (1 - a_t).sqrt(),
                x_t, [t, t - 1], alpha_bar, eta=1.0, noise=lambda _: z, clip=False,
            )  # fmt: skip
            return next(walk).x_s

        centre = step(torch.zeros_like(x))
        torch.testing.assert_close(centre, mean)
        spread = (step(torch.ones_like(x)) - centre).square()
        torch.testing.assert_close(spread.squeeze(), variance)
        torch.testing.assert_close(posterior_variance(a_t, a_s), variance)


# Sampling ----------------------------------------------------------------------------------------

MEAN, STD = 0.4, 0.25


def exact(alpha_bar):
    """eps of data N(MEAN, STD^2): minus its score times sqrt(1 - alpha_bar)."""

    def denoise(x_t, t):
        a = alpha_bar[t]
        return (1 - a).sqrt() * (x_t - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)

    return denoise


def walked(alpha_bar, x_T, steps, eta):
    draws = torch.Generator().manual_seed(5)
    for step in reverse_chain(
        exact(alpha_bar), x_T, sampling_times(1000, steps), alpha_bar, eta=eta,
        noise=lambda _: torch.randn(x_T.shape, generator=draws, dtype=x_T.dtype), clip=False,
    ):  # fmt: skip
        last = step
    assert last.s == 0
    return last.x_s


def test_ddpm_gives_back_a_gaussian_from_its_exact_score(alpha_bar):
    x_T = torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = walked(alpha_bar, x_T, 1000, 1.0)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(x.std()) == pytest.approx(STD, rel=0.02)


def test_ddim_gives_back_a_gaussian_and_errs_half_as_much_with_twice_the_steps(alpha_bar):
    """Without noise x is affine in x_T: two starts tell its mean and deviation."""
    starts = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    errors = []
    for steps in (125, 250, 500, 1000):
        low, high = walked(alpha_bar, starts, steps, 0.0).squeeze(1)
        assert float(low) == pytest.approx(MEAN, abs=0.05)
        errors.append(abs(float(high - low) / STD - 1))
    assert errors[-1] < 0.01
    order = math.log2(errors[1] / errors[2])
    assert order == pytest.approx(1, abs=0.35)


def test_times_begin_at_the_noise_and_are_even():
    assert sampling_times(1000, 4) == [1000, 750, 500, 250]
    assert sampling_times(50, 50) == list(range(50, 0, -1))
    for wanted in (1, 3, 7, 49):
        times = sampling_times(50, wanted)
        assert times[0] == 50
        assert len(set(times)) == wanted
        assert min(times) >= 1


def test_clipping_keeps_the_aim_among_pixels(alpha_bar):
    """And the eps of the step is the one that leads from the clipped aim to where the walk is."""
    x_T = 3 * torch.ones(2, 1, dtype=torch.float64)
    first, last = reverse_chain(
        lambda x, t: -x, x_T, [1000, 500], alpha_bar, eta=0.0, noise=torch.zeros, clip=True
    )
    assert torch.equal(first.x, torch.ones_like(x_T))
    eps = (x_T - alpha_bar[1000].sqrt()) / (1 - alpha_bar[1000]).sqrt()
    torch.testing.assert_close(first.x_s, alpha_bar[500].sqrt() + (1 - alpha_bar[500]).sqrt() * eps)
    assert torch.equal(last.x_s, last.x)


# Guidance ----------------------------------------------------------------------------------------


def test_guidance_of_zero_and_one_are_the_plain_branches():
    model = build()
    x_t = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label, t = torch.tensor([0, 1, 2, 1]), torch.full((4,), 20)
    plain = {0.0: model.eps(x_t, t, torch.full_like(label, 3)), 1.0: model.eps(x_t, t, label)}
    assert not torch.allclose(plain[0.0], plain[1.0])
    for weight, branch in plain.items():
        assert torch.equal(model.guided_eps(x_t, 20, label, weight), branch)
        near = model.guided_eps(x_t, 20, label, weight + 1e-9)  # the doubled batch
        torch.testing.assert_close(near, branch, rtol=1e-6, atol=1e-6)
    beyond = model.guided_eps(x_t, 20, label, 3.0)
    torch.testing.assert_close(beyond, plain[0.0] + 3 * (plain[1.0] - plain[0.0]))
    assert guide(torch.tensor(1.0), torch.tensor(2.0), 0.5) == 1.5


def test_labels_are_kept_from_the_share_that_is_said():
    """A dropped label's embedding gets no gradient, a told one's does."""
    batch = {"image": torch.zeros(30, 1, 8, 8, dtype=torch.uint8), "label": torch.arange(30) % 3}
    for share, told in ((0.0, [True, True, True, False]), (1.0, [False, False, False, True])):
        model = build(label_dropout=share)
        model.loss(batch, rng=Noise(0, total=30, dtype=torch.float64), turn=Turn())[
            "loss"
        ].sum().backward()
        moved = model.network.embed_label.weight.grad.abs().sum(1) > 0
        assert moved.tolist() == told


# The objective and its bound ---------------------------------------------------------------------


def test_the_contract_is_kept_in_slices():
    check_model(DDPM)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(7, 1), (8, 2), (1, 1)])
def test_two_ranks_equal_one(batch_size, accumulate):
    """At batch size 1 a rank has no example."""

    def both():
        config, arrays = DDPM.example()
        dataset = from_arrays("tiny", {"train": arrays})
        torch.manual_seed(0)
        return DDPM(config, dataset.spec).double(), dataset

    same_on_ranks(both, batch_size=batch_size, accumulate=accumulate)


def test_the_weight_of_the_bound_is_the_kl_of_two_gaussians(alpha_bar):
    x, x_hat = (torch.tensor([v], dtype=torch.float64) for v in (0.3, -0.2))
    for t in (2, 40, 500, 1000):
        a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
        beta, variance = 1 - a_t / a_s, posterior_variance(a_t, a_s)
        means = a_s.sqrt() * beta / (1 - a_t) * (x - x_hat)
        kl = means.square() / (2 * variance)
        eps_error = (x - x_hat) * (a_t / (1 - a_t)).sqrt()  # the same x_t, told apart
        found = bound_weight(alpha_bar, torch.tensor([t])) * eps_error.square()
        torch.testing.assert_close(found, kl, rtol=1e-9, atol=1e-12)


def test_the_prior_s_kl_is_that_of_torch():
    from torch.distributions import Normal, kl_divergence

    x = torch.tensor([[0.5, -1.0], [0.0, 1.0]], dtype=torch.float64)
    a = 0.3
    expected = kl_divergence(Normal(math.sqrt(a) * x, math.sqrt(1 - a)), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(prior_kl(x, a), expected)


@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.02), (-1.0, 0.5), (0.99, 1e-3), (5.0, 0.1)])
def test_grey_levels_have_the_mass_of_one(mean, std):
    levels = torch.arange(256, dtype=torch.float64).mul(2 / 255).sub(1)[:, None]
    log_mass = discretised_gaussian_log_prob(levels, torch.full_like(levels, mean), std)
    assert bool(log_mass.isfinite().all())
    assert float(log_mass.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_bound_of_exact_noise_is_that_of_the_data(monkeypatch):
    """One grey level everywhere: a network that knows it leaves nothing but the ends' terms."""
    model = build(spec=DataSpec({"image": SPEC.fields["image"]}, "grey"))
    image = torch.full((8, 1, 8, 8), 51, dtype=torch.uint8)
    x = model.observe(image)

    def known(x_t, t, label):
        a = model.alpha_bar[t].view(-1, 1, 1, 1)
        return (x_t - a.sqrt() * x[: len(x_t)]) / (1 - a).sqrt()

    monkeypatch.setattr(model, "eps", known)
    bits = model.evaluate_batch({"image": image}, rng=Noise(0, total=8, dtype=torch.float64))["bpd"]
    std = float(posterior_variance(model.alpha_bar[2], model.alpha_bar[1]).sqrt())
    ends = prior_kl(x, float(model.alpha_bar[-1])) - discretised_gaussian_log_prob(x, x, std)
    torch.testing.assert_close(bits, ends / (64 * math.log(2)))


# The operation -----------------------------------------------------------------------------------


def drawn(model, num, label=None, batch_size=64, part=None, **settings):
    made, given = operations(DDPM)["sample"], {} if label is None else {"label": label}
    return operate(
        model, made, given, num, settings=DDPMSampling(**{"steps": 4} | settings), seed=1,
        batch_size=batch_size, part=part,
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_batches_and_workers_draw_what_one_process_draws_at_once(sampler):
    model = build()
    whole = drawn(model, 40, sampler=sampler)
    for batch_size in (1, 7, 16):
        parts = drawn(model, 40, sampler=sampler, batch_size=batch_size)
        assert torch.equal(parts["label"], whole["label"])
        torch.testing.assert_close(parts["image"], whole["image"], rtol=1e-9, atol=1e-9)
    pair = [drawn(model, 40, sampler=sampler, batch_size=16, part=(rank, 2)) for rank in (0, 1)]
    joined = torch.cat([half["image"] for half in pair])
    torch.testing.assert_close(joined, whole["image"], rtol=1e-9, atol=1e-9)


def test_settings_and_conditions_reach_the_walk():
    model = build()
    label = torch.tensor([2, 0, 1, 1])
    plain = drawn(model, 4, label)
    assert torch.equal(plain["label"], label)
    assert 0 <= float(plain["image"].min()) <= float(plain["image"].max()) <= 1
    for change in ({"steps": 5}, {"guidance": 0.0}, {"sampler": "ddpm"}, {"clip": False}):
        assert not torch.equal(drawn(model, 4, label, **change)["image"], plain["image"]), change
    assert not torch.equal(drawn(model, 4, label.flip(0))["image"], plain["image"])
    film = drawn(model, 4, label, frames=3)["film"]
    assert film.shape == (4, 3, 1, 8, 8)
    assert torch.equal(film[:, -1], plain["image"]), "the last step aims at the end"
    with pytest.raises(UserError, match="steps=51: the chain has 50"):
        drawn(model, 4, steps=51)
    alone = build(conditional=False)
    assert set(drawn(alone, 2)) == {"image"}
    with pytest.raises(UserError, match="trained without labels"):
        drawn(alone, 4, label)


def test_any_size_comes_back():
    for shape in ((1, 7, 9), (3, 8, 8)):
        spec = DataSpec({"image": FieldSpec(shape, "uint8", "image")}, "odd")
        assert drawn(build(spec=spec), 2)["image"].shape == (2, *shape)
