"""Laws of WGAN-GP: the penalty, the distance that the critic finds, who moves whom."""

import pytest
import torch
from torch import nn

from rayloom.config.sections import AdamConfig, RunConfig, TrainConfig
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Turn
from rayloom.data import from_arrays, make_source
from rayloom.models.gans.wgan_gp import WGANGP, WGANGPConfig
from rayloom.nn.network import MLPNetwork
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink

pytestmark = pytest.mark.law("wgan-gp")
SPEC = DataSpec({"image": FieldSpec((1, 2, 2), "float32", "image")}, "toy")
TINY = MLPNetwork(widths=(16,), activation="tanh")


def build(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = WGANGPConfig(latent_dim=2, generator=TINY, critic=TINY, **settings)
        return WGANGP(config, SPEC).double()


def noise(rows):
    return Noise(1, total=rows, dtype=torch.float64)


def batch(rows=12):
    return {"image": torch.rand(rows, 1, 2, 2, generator=torch.Generator().manual_seed(2))}


class Linear(nn.Module):
    """D(x) = w . x: its slope is |w| everywhere."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return (x.flatten(1) @ self.w)[:, None]


def test_the_penalty_of_a_linear_critic_is_the_closed_form():
    model = build()
    model.critic = Linear([1.0, -2.0, 2.0, 4.0])  # |w| = 5
    parts = model.critic_loss(batch(), rng=noise(12), turn=Turn(player="critic"))
    torch.testing.assert_close(parts["slope"], torch.full((12,), 5.0).double())
    torch.testing.assert_close(parts["penalty"], torch.full((12,), 16.0).double())
    torch.testing.assert_close(parts["loss"], 160.0 - parts["gap"])
    (gradient,) = torch.autograd.grad(parts["penalty"].mean(), model.critic.w)
    torch.testing.assert_close(gradient, 2 * (5 - 1) * model.critic.w / 5)  # a double backward


def test_the_slope_is_taken_between_the_pair():
    """At u = e x + (1 - e) G(z), one e a pair: with D(x) = |x|^2 the slope is 2 |u|."""

    class Square(nn.Module):
        def forward(self, x):
            return x.flatten(1).square().sum(1, keepdim=True)

    model = build()
    model.critic = Square()
    rng, real, fake = noise(7), torch.rand(7, 1, 2, 2).double(), -torch.rand(7, 1, 2, 2).double()
    weight = rng.uniform("between", 1, 1, 1)
    u = weight * real + (1 - weight) * fake
    expected = 2 * u.flatten(1).norm(dim=1)
    torch.testing.assert_close(model.slope(real, fake, rng), expected, rtol=1e-6, atol=1e-9)


def test_each_loss_moves_its_own_player_in_its_own_direction():
    model, data, rng = build(), batch(), noise(12)
    critic = model.loss(data, rng=rng, turn=Turn(player="critic"))
    own = torch.autograd.grad(
        critic["loss"].mean(), list(model.generator.parameters()), allow_unused=True
    )
    assert all(gradient is None for gradient in own)  # the critic's samples are given
    before = model.judge(model.generate(model.latent(rng, "generator's z"))).mean()
    loss = model.loss(data, rng=rng, turn=Turn(player="generator"))["loss"].mean()
    assert loss.item() == pytest.approx(-before.item())
    for p, g in zip(
        model.generator.parameters(),
        torch.autograd.grad(loss, list(model.generator.parameters())),
        strict=True,
    ):
        p.data -= 1e-3 * g
    assert model.judge(model.generate(model.latent(rng, "generator's z"))).mean() > before


def engine_for(model, image, batch_size=64, steps=400):
    source = make_source(
        from_arrays("toy", {"train": {"image": image}}), "train", batch_size=batch_size, seed=0,
        shuffle=True,
    )  # fmt: skip
    section = AdamConfig(lr=5e-3, betas=(0.0, 0.9))
    config = RunConfig(
        optimizer={"critic": section, "generator": section},
        train=TrainConfig(grad_steps=steps, log_every=20),
    )
    return Engine(model, config, source, None)


def test_the_critic_finds_the_distance_of_two_shifted_clouds():
    """W1 of a cloud and its copy moved by d is |d|; the generator is held still."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(512, 1, 2, 2, generator=generator) * 0.2
    shift = torch.tensor([0.3, 0.1, 0.2, 0.1]).view(1, 2, 2)
    model = build(critic_steps=1).float()
    model.generate = lambda z: 2 * (cloud[: len(z)].to(z) + shift.to(z)) - 1
    model.generator_loss = lambda batch, *, rng, turn: {
        "loss": sum(p.sum() for p in model.generator.parameters()) * torch.zeros(rng.total)
    }
    engine, sink = engine_for(model, cloud), MemorySink()
    engine.advance(400, sink=sink, interrupted=lambda: False)
    distance = 2 * shift.norm().item()  # in [-1, 1]
    assert sink.history("loss/critic/gap")[-1][1] == pytest.approx(distance, rel=0.1)
    assert sink.history("loss/critic/slope")[-1][1] == pytest.approx(1.0, abs=0.1)


def test_the_generator_uses_the_critics_last_batch_and_noise_of_its_own():
    model = build(critic_steps=3).float()
    seen = []
    for name in ("critic_loss", "generator_loss"):
        inner = getattr(model, name)

        def spy(batch, *, rng, turn, inner=inner):
            seen.append((turn.player, batch["image"].sum().item(), rng.step))
            return inner(batch, rng=rng, turn=turn)

        setattr(model, name, spy)
    engine = engine_for(model, torch.rand(40, 1, 2, 2), batch_size=8)
    engine.advance(2, sink=MemorySink(), interrupted=lambda: False)
    assert [player for player, *_ in seen] == (["critic"] * 3 + ["generator"]) * 2
    assert [step for *_, step in seen] == [0, 1, 2, 2, 3, 4, 5, 5]
    assert seen[2][1] == seen[3][1]
    rng = noise(8)
    assert not torch.equal(model.latent(rng, "critic's z"), model.latent(rng, "generator's z"))


def test_samples_do_not_depend_on_the_cut():
    model = build()
    whole = model.sample({}, rng=noise(9))["image"]
    assert whole.shape == (9, 1, 2, 2)
    assert 0 <= whole.min() and whole.max() <= 1  # noqa: PT018
    parts = [model.sample({}, rng=noise(9).rows(a, b))["image"] for a, b in ((0, 4), (4, 9))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
