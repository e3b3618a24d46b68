"""Laws of 2-D splats: the sum of Gaussians, whose gradient is heard, who gets a second row."""

import math

import pytest
import torch

from rayloom.config.sections import AdamConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, Done, FieldSpec, Turn
from rayloom.data import from_arrays, make_source
from rayloom.models.geometry.splats_2d import Splats2D, Splats2DConfig
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


def densified(model, missing):
    """`after_step` with what is missing, (C, H, W); the moves it asked for."""
    moved = []
    done = Done(
        Turn(grad_step=1, horizon=100),
        means=dict,
        sums={"missing": missing},
        rng=lambda: Noise(0, total=1, dtype=torch.float64),
        move=lambda source, fresh, parameters: moved.append((source, fresh, len(parameters))),
    )
    model.after_step(done)
    return moved


def at_one_pixel(y=5, x=7, value=0.9):
    missing = torch.zeros(3, 12, 18).double()
    missing[:, y, x] = torch.tensor([value, 0.0, -value])
    return missing


def test_what_is_missing_is_the_target_less_the_picture():
    model, batch = build(), {"image": picture()}
    parts = model.loss(batch, rng=Noise(0, total=1), turn=Turn())
    missing = batch["image"][0].double() / 255 - model.picture()
    torch.testing.assert_close(parts["missing"].value, missing.detach())
    torch.testing.assert_close(parts["loss"], missing.square().mean()[None])


def test_new_splats_stand_where_the_error_is_in_the_colour_that_is_missing():
    model = build(grow=0.25)
    ((source, fresh, count),) = densified(model, at_one_pixel())
    assert source.tolist() == list(range(8))
    assert fresh.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert count == 5  # all parameters move
    assert model.alive.tolist() == [True] * 6 + [False] * 2
    torch.testing.assert_close(model.mean[4:6].detach(), model.grid[5 * 18 + 7].expand(2, 2))
    expected = torch.tensor([0.1, 0.0, -0.1]).double().expand(2, 3)  # the mean of 3x3 pixels
    torch.testing.assert_close(model.colour[4:6].detach(), expected)
    torch.testing.assert_close(model.log_scale[4].exp(), torch.full((2,), 1.5 / 12).double())


def test_pixels_are_drawn_in_proportion_to_the_squared_error():
    model = build(capacity=4004, start=4, grow=1.0)
    missing = at_one_pixel(2, 3, 1.0) + at_one_pixel(8, 9, 2.0)
    densified(model, missing)
    near = (model.mean[4:].detach() - model.grid[2 * 18 + 3]).norm(dim=1) < 1e-9
    assert near.double().mean().item() == pytest.approx(1 / 5, abs=0.03)


def test_a_new_one_lessens_the_error():
    engine = engine_for(build(grow=0.13).float())  # one at a time
    before = engine.evaluate()["eval/mse"]
    missing = (picture()[0].float() / 255 - engine.model.picture()).detach()
    densified(engine.model, missing)
    assert engine.evaluate()["eval/mse"] < before


def test_what_is_hardly_there_is_pruned_and_its_row_is_used_again():
    model = build(grow=0.13)  # one at a time
    with torch.no_grad():
        model.opacity_logit[2] = -9.0
    ((_, fresh, _),) = densified(model, at_one_pixel())
    assert fresh.nonzero().squeeze(1).tolist() == [2]
    assert int(model.alive.sum()) == 4
    assert model.opacity[2] == 0.5


def test_the_end_and_the_capacity_are_kept_to():
    assert densified(build(densify_until=0.01), at_one_pixel()) == []
    assert densified(build(densify=False), at_one_pixel()) == []
    assert densified(build(start=8), at_one_pixel()) == []
    assert densified(build(), torch.zeros(3, 12, 18).double()) == []


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
