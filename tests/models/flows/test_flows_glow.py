"""Glow: inverse, log-determinant, integral one, the first batch, bits of grey levels, ranks."""

import math

import numpy as np
import pytest
import torch

from rayloom.config.sections import AdamConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Turn
from rayloom.data import from_arrays, make_source
from rayloom.data.sets.toys import EightGaussians
from rayloom.models.flows.glow import Glow, GlowConfig, SampleSettings
from rayloom.nn.flow import ActNorm
from rayloom.testing import check_model
from rayloom.testing.models import IMAGES, random_batch
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from thread_ranks import same_after_resume, same_on_ranks

pytestmark = pytest.mark.law("glow")

PLANE = DataSpec({"vector": FieldSpec((2,), "float32", "vector")})
SMALL = GlowConfig(levels=2, steps=2, hidden=8)


def noise(num):
    return Noise(3, total=num, dtype=torch.float64)


def build(spec=IMAGES, config=SMALL):
    """In double precision, moved off its start."""
    torch.manual_seed(0)
    model = Glow(config, spec).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("spec", [IMAGES, PLANE], ids=["images", "plane"])
def test_the_contract(spec):
    check_model(Glow, SMALL, spec)


@pytest.mark.parametrize("spec", [IMAGES, PLANE], ids=["images", "plane"])
def test_it_is_undone_and_its_density_is_that_of_autograd_s_jacobian(spec):
    model = build(spec)
    x = torch.randn(2, *model.shape, dtype=torch.float64)
    latents, log_p = model.encode(x)
    torch.testing.assert_close(model.decode(latents), x)

    def flat(v):
        return torch.cat([z.flatten() for z in model.encode(v.view(1, *model.shape))[0]])

    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(flat, x[row].flatten())
        z = flat(x[row])
        base = -0.5 * z.square().sum() - 0.5 * len(z) * math.log(2 * math.pi)
        torch.testing.assert_close(log_p[row], base + torch.linalg.slogdet(jacobian).logabsdet)


def test_the_density_integrates_to_one():
    model = build(PLANE)
    axis = torch.linspace(-12, 12, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = model.log_prob(grid.view(-1, 2, 1, 1)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_the_first_batch_chooses_every_actnorm():
    """Each sees what those before it make of the batch: all outputs have mean 0 and variance 1."""
    torch.manual_seed(0)
    model, batch = Glow(SMALL, IMAGES).double(), random_batch(IMAGES, 60)
    model.initialise(batch, rng=noise(60))
    seen = []
    for part in model.modules():
        if isinstance(part, ActNorm):
            part.register_forward_hook(lambda layer, x, y: seen.append(y[0]))
    model.loss(batch, rng=noise(60), turn=Turn())
    assert len(seen) == 4
    for y in seen:
        assert y.mean((0, 2, 3)).abs().max() < 1e-9
        assert (y.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-2
    assert not any(getattr(part, "choosing", False) for part in model.modules())


def bright_pictures():
    """Far from standard normal: a model that no batch has chosen is far off."""
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(200, 10, (64, 1, 8, 8)), 0, 255).astype(np.uint8)
    return from_arrays("bright", {"train": {"image": images}})


def bits_after_a_few_steps(*, ema):
    data = bright_pictures()
    torch.manual_seed(0)
    source = make_source(data, "train", batch_size=32, seed=0, shuffle=True)
    section = {"decay": 0.999, "warmup": False} if ema else None
    run = RunConfig(optimizer=AdamConfig(lr=1e-4), train=TrainConfig(grad_steps=3, ema=section))
    engine = Engine(Glow(SMALL, data.spec), run, source, source)
    engine.advance(3, sink=MemorySink(), interrupted=lambda: False)
    return engine.evaluate()["eval/bpd"]


def test_the_average_is_made_after_the_first_batch_has_chosen():
    """One that still held the start of the constructor would give the bits of another model."""
    averaged, trained = (bits_after_a_few_steps(ema=ema) for ema in (True, False))
    assert averaged == pytest.approx(trained, abs=0.05)
    data = bright_pictures()
    torch.manual_seed(0)
    batch = data.split("train").take(torch.arange(32))
    start = Glow(SMALL, data.spec).evaluate_batch(batch, rng=Noise(0, total=32))["bpd"].mean()
    assert start.item() > trained + 1


def test_it_learns_eight_gaussians_as_a_density():
    """Below a full-covariance Gaussian, not below the true entropy, and still a density."""
    rng = np.random.default_rng(0)
    points, held_out = (EightGaussians().draw(n, rng) for n in (2_000, 1_000))
    data = from_arrays("ring", {"train": {"vector": points.astype(np.float32)}})
    torch.manual_seed(0)
    model = Glow(GlowConfig(steps=5, hidden=32), data.spec)
    source = make_source(data, "train", batch_size=250, seed=0, shuffle=True)
    run = RunConfig(optimizer=AdamConfig(lr=5e-3), train=TrainConfig(grad_steps=150, clip_norm=10))
    Engine(model, run, source, None).advance(150, sink=MemorySink(), interrupted=lambda: False)
    axis = torch.linspace(-6, 6, 201)
    with torch.no_grad():
        x = torch.tensor(held_out, dtype=torch.float32).view(-1, 2, 1, 1)
        nats = -model.log_prob(x).mean().item()
        grid = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
        mass = model.log_prob(grid).exp().sum().item() * float(axis[1] - axis[0]) ** 2
    covariance = np.cov(points.T, bias=True)
    gaussian = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance).logabsdet
    entropy = -EightGaussians.log_prob(held_out).mean()
    assert entropy < nats < gaussian - 1
    assert mass == pytest.approx(1, abs=0.02)


def test_bits_are_those_of_256_levels():
    """Uniform dequantisation: a uniform density on [-1/2, 1/2] costs exactly 8 bits."""
    model, batch = build(), random_batch(IMAGES, 4)
    model.log_prob = lambda x: torch.zeros(len(x), dtype=torch.float64)
    values = model.evaluate_batch(batch, rng=noise(4))
    assert values["bpd"].tolist() == pytest.approx([8.0] * 4)
    x = model.observe(batch, noise(4))
    assert x.min() >= -0.5
    assert x.max() < 0.5
    level = ((x + 0.5) * 256).floor()
    assert torch.equal(level, batch["image"].double())


def test_samples_undo_to_their_noise_and_rows_stand_alone():
    model, rng = build().eval(), noise(5)
    cold = SampleSettings(temperature=0.5)
    whole = model.sample({}, rng=rng, settings=cold)["image"]
    parts = [
        model.sample({}, rng=rng.rows(a, b), settings=cold)["image"] for a, b in ((0, 2), (2, 5))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    plane = build(PLANE).eval()
    x = plane.sample({}, rng=rng)["vector"].view(5, 2, 1, 1)
    torch.testing.assert_close(plane.encode(x)[0][0], rng.normal("z0", 2, 1, 1))


def test_the_toy_s_density_is_the_one_it_is_drawn_from():
    axis = np.linspace(-5, 5, 501)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    mass = np.exp(EightGaussians.log_prob(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-6)
    points = EightGaussians().draw(100_000, np.random.default_rng(0))
    assert (points**2).sum(1).mean() == pytest.approx(4 + 2 * 0.04, rel=5e-3)


@pytest.mark.parametrize(
    ("fields", "config", "message"),
    [
        ({"image": FieldSpec((1, 28, 28), "uint8", "image")}, {"levels": 3}, "at most 2"),
        ({"vector": FieldSpec((1,), "float32")}, {}, "two numbers or more"),
        ({"label": FieldSpec((), "int64", "label", 3)}, {}, "no field 'image'"),
    ],
)
def test_data_that_do_not_fit_are_refused(fields, config, message):
    with pytest.raises(UserError, match=message):
        Glow(SMALL.model_copy(update=config), DataSpec(fields, name="mine"))


def made():
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    data = from_arrays("noise", {"train": {"image": images}})
    torch.manual_seed(0)
    return Glow(SMALL, data.spec).double(), data


@pytest.mark.parametrize(("ranks", "batch_size", "accumulate"), [(2, 7, 1), (3, 1, 1), (2, 16, 4)])
def test_ranks_and_chunks_equal_one_process(ranks, batch_size, accumulate):
    same_on_ranks(made, batch_size=batch_size, ranks=ranks, accumulate=accumulate)


def test_resumed_equals_unbroken_in_bits():
    same_after_resume(made)
