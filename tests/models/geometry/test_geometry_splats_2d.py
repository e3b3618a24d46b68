"""Laws of 2-D splats: the sum of Gaussians, whose gradient is heard, who gets a second row."""

import math

import pytest
import torch

from rayloom.config.sections import AdamConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, Done, FieldSpec, Turn
from rayloom.data import from_arrays, make_source
from rayloom.models.geometry.splats_2d import SHRINK, Splats2D, Splats2DConfig
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink

pytestmark = pytest.mark.law("splats-2d")
SPEC = DataSpec({"image": FieldSpec((3, 12, 18), "uint8", "image")}, "toy", 1)


def build(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Splats2DConfig(**{"capacity": 8, "start": 4, "period": 2, **settings})
        return Splats2D(config, SPEC).double()


def picture():
    rows = torch.rand(1, 3, 12, 18, generator=torch.Generator().manual_seed(1))
    return (rows * 255).to(torch.uint8)


def engine_for(model, steps=12):
    source = make_source(
        from_arrays("toy", {"train": {"image": picture()}}), "train", batch_size=1, seed=0,
        shuffle=True,
    )  # fmt: skip
    train = TrainConfig(grad_steps=steps, log_every=1, ema={"decay": 0.9})
    config = RunConfig(optimizer=AdamConfig(lr=0.02), train=train)
    return Engine(model, config, source, source)


def test_the_picture_is_the_sum_of_gaussians():
    """Against the density with its covariance matrix, splat by splat; free rows add nothing."""
    model = build()
    with torch.no_grad():
        model.angle.copy_(torch.rand(8))
        model.log_scale.add_(torch.randn(8, 2) * 0.3)
    points, expected = model.grid, torch.zeros(12 * 18, 3).double()
    for i in range(4):
        c, s = model.angle[i].cos().item(), model.angle[i].sin().item()
        turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        covariance = turn @ torch.diag((2 * model.log_scale[i]).exp()) @ turn.T
        off = points - model.mean[i]
        form = torch.einsum("pi,ij,pj->p", off, covariance.inverse(), off)
        weight = model.opacity_logit[i].sigmoid() * torch.exp(-0.5 * form)
        expected += weight[:, None] * model.colour[i]
    torch.testing.assert_close(model.render(points), expected, rtol=1e-9, atol=1e-12)
    image = model.picture()
    assert image.shape == (3, 12, 18)
    torch.testing.assert_close(image[:, 3, 5], model.render(points[3 * 18 + 5][None])[0])


def test_a_splat_integrates_to_its_volume():
    model = build(capacity=1, start=1)
    with torch.no_grad():
        model.mean.copy_(torch.tensor([[0.75, 0.5]]))
        model.log_scale.fill_(math.log(0.08))
    fine = torch.stack(
        torch.meshgrid(torch.arange(150), torch.arange(100), indexing="ij"), -1
    ).view(-1, 2).double().add(0.5) / 100  # fmt: skip
    total = model.render(fine).sum(0) / 100**2
    volume = 2 * math.pi * 0.08**2 * model.opacity[0] * model.colour[0]
    torch.testing.assert_close(total, volume, rtol=1e-6, atol=0)


def test_the_slope_is_the_gradient_of_the_means():
    model, batch = build(), {"image": picture()}
    parts = model.loss(batch, rng=Noise(0, total=1), turn=Turn())
    (gradient,) = torch.autograd.grad(parts["loss"].sum(), model.mean)
    torch.testing.assert_close(parts["slope"].value, gradient)
    assert (gradient[4:] == 0).all()  # free rows


def densified(model, slope, *, fresh=None):
    moved = []

    def move(source, new, parameters):
        moved.append((source, new))
        for p in parameters:
            p.data.copy_(p.data[source])

    done = Done(
        Turn(grad_step=1, horizon=100),
        means=dict,
        sums={"slope": torch.tensor(slope).double()[:, None] * torch.tensor([0.6, 0.8])},
        rng=lambda: Noise(0, total=1, dtype=torch.float64),
        move=move,
    )
    model.after_step(done)
    return moved


def test_a_cloned_pair_is_what_the_one_was():
    model = build(large=10.0)
    before = model.picture().detach().clone()
    ((source, fresh),) = densified(model, [1.0, 5.0, 3.0, 2.0, 0, 0, 0, 0])
    assert source.tolist() == [0, 1, 2, 3, 1, 2, 3, 0]  # the steepest first
    assert fresh.tolist() == [False] * 4 + [True] * 4
    assert model.alive.all()
    torch.testing.assert_close(model.picture(), before, rtol=1e-9, atol=1e-12)


def test_a_large_one_is_split_into_two_smaller_ones_drawn_from_it():
    model = build(large=1e-9, capacity=400, start=200)
    with torch.no_grad():
        model.mean.zero_()
        model.angle.fill_(0.5)
        model.log_scale.copy_(torch.tensor([0.3, 0.1]).log().expand(400, 2))
    densified(model, [1.0] * 200 + [0.0] * 200)
    torch.testing.assert_close(model.log_scale.exp()[0], torch.tensor([0.3, 0.1]).double() / SHRINK)
    c, s = math.cos(0.5), math.sin(0.5)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    covariance = turn @ torch.diag(torch.tensor([0.09, 0.01]).double()) @ turn.T
    torch.testing.assert_close(model.mean.detach().T.cov(), covariance, rtol=0.2, atol=0.01)


def test_what_is_hardly_there_is_pruned_and_its_row_is_used_again():
    model = build(large=10.0)
    with torch.no_grad():
        model.opacity_logit[2] = -9.0
    ((source, fresh),) = densified(model, [1.0, 2.0, 9.0, 3.0, 0, 0, 0, 0])
    assert 2 not in source[fresh]
    assert fresh[2]
    assert source[2] == 3
    assert int(model.alive.sum()) == 6  # three that ask, three that got a second row


def test_thresholds_and_the_end_are_kept_to():
    model = build(slope=2.5, large=10.0)
    densified(model, [1.0, 2.0, 9.0, 3.0, 0, 0, 0, 0])
    assert int(model.alive.sum()) == 6
    model = build(densify_until=0.01)
    assert densified(model, [1.0] * 8) == []
    model = build(densify=False)
    assert densified(model, [1.0] * 8) == []


def test_resumed_equals_unbroken_across_a_densification():
    whole = engine_for(build().float())
    whole.advance(12, sink=MemorySink(), interrupted=lambda: False)
    first, second = engine_for(build().float()), engine_for(build().float())
    first.advance(3, sink=MemorySink(), interrupted=lambda: False)
    second.load_state_dict(first.state_dict())
    second.advance(12, sink=MemorySink(), interrupted=lambda: False)
    assert whole.parameters_sha256() == second.parameters_sha256()
    assert int(whole.model.alive.sum()) > 4


def test_psnr_is_of_the_mean_squared_error():
    engine = engine_for(build().float())
    metrics = engine.evaluate()
    assert metrics["eval/psnr_db"] == pytest.approx(-10 * math.log10(metrics["eval/mse"]))


def test_one_picture_only():
    spec = DataSpec(SPEC.fields, "toy", 2)
    with pytest.raises(UserError, match=r"set data\.limit=1"):
        Splats2D(Splats2DConfig(), spec)


def test_gradients_are_remembered_for_a_period():
    model = build()
    densified(model, [1.0] * 8)
    assert (model.slopes == 0).all()
    assert (model.seen == 0).all()
