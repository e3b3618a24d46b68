"""The engine in one process: chunks, resume, NaN, evaluation, pictures, precision, errors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rayloom.config.sections import AdamConfig, EvaluationConfig, RunConfig, SGDConfig, TrainConfig
from rayloom.core.collective import Solo
from rayloom.core.errors import NonFiniteError, UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Player,
    Trainable,
    Turn,
)
from rayloom.media import (
    Film,
    Images,
    Table,
    Text,
)
from rayloom.media.grid import tile, visible
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from training.law import difference, never, points, train
from training.toys import CASES, Adversaries, Regression, build


def engine_for(model, *, batch_size=7, **sections):
    _, _, source, held_out = build("regression", batch_size=batch_size)
    sections.setdefault("train", TrainConfig(grad_steps=20, log_every=5))
    return Engine(model, RunConfig(**sections), source, held_out)


def test_engine_is_a_trainable():
    engine, _ = train("regression", 7, Solo(), steps=0)
    assert isinstance(engine, Trainable)


@pytest.mark.parametrize("name", ["two-stage", "masked-sequences", "batch-statistics"])
def test_engine_equals_a_loop_by_hand(float64, name):
    """Three steps of plain gradient descent on the mean: per example, or per unmasked step."""
    settings = {"clip_norm": None, "ema": None, "log_every": 1}
    model, config, source, held_out = build(name, batch_size=64, **settings)
    byhand = build(name, batch_size=64)[0]
    config = config.model_copy(update={"optimizer": SGDConfig(lr=0.1)})
    engine, sink = Engine(model, config, source, held_out), MemorySink()
    engine.advance(3, sink=sink, interrupted=never)
    parameters = [p for p in byhand.parameters() if p.requires_grad]
    for step in range(3):
        local = source.batch(step)
        noise = Noise(engine.batches._seed, step=step, total=local.total, dtype=torch.float64)
        loss = byhand.loss(local.fields, rng=noise, turn=Turn(step))["loss"]
        mean = loss[0].sum() / loss[1].sum() if isinstance(loss, tuple) else loss.mean()
        assert sink.history("loss/total")[step][1] == pytest.approx(mean.item(), rel=1e-12)
        for p, gradient in zip(parameters, torch.autograd.grad(mean, parameters), strict=True):
            p.data -= 0.1 * gradient
    theirs = byhand.state_dict()
    for key, value in engine.model.state_dict().items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-10, atol=1e-13)


# Chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("batch-statistics", "contrast")])
@pytest.mark.parametrize("chunks", [3, 100])
def test_chunks_equal_no_chunks(float64, name, chunks):
    """Noise, masks, counts and hooks included; more chunks than rows too."""
    whole, sink = train(name, 7, Solo())
    pieces, other = train(name, 7, Solo(), accumulate=chunks)
    assert difference(pieces, whole) < 1e-9
    for (_, mine), (_, theirs) in zip(points(other), points(sink), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


def test_chunks_are_refused_with_batch_statistics():
    with pytest.raises(UserError, match="needs the whole batch"):
        train("batch-statistics", 7, Solo(), accumulate=2)
    model = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2))
    model.players = (Player("model", list(model.parameters())),)
    with pytest.raises(UserError, match="accumulate"):
        engine_for(model, train=TrainConfig(grad_steps=1, accumulate=2))


# Resume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stop_at", [1, 11, 20])
def test_resume_equals_unbroken_in_bits(name, stop_at):
    """In the first interval, in the middle of an epoch and of a log interval, after an epoch."""
    whole, sink = train(name, 7, Solo(), steps=25)
    broken, pieces = train(name, 7, Solo(), stop_at=stop_at, steps=25)
    assert whole.parameters_sha256() == broken.parameters_sha256()
    assert points(sink) == points(pieces)
    assert whole.evaluate() == broken.evaluate()


@pytest.mark.parametrize("name", ["regression", "adversaries"])
def test_a_kill_in_the_middle_of_accumulation(name):
    """The chunk raises; the state before that step goes on as if nothing had happened."""
    whole, sink = train(name, 7, Solo(), steps=9, accumulate=3)
    engine, pieces = train(name, 7, Solo(), steps=4, accumulate=3)
    state = engine.state_dict()
    calls, loss = iter(range(100)), engine.model.loss

    def dying(*args, **settings):
        if next(calls) == 4:  # the second chunk of the second step
            raise KeyboardInterrupt
        return loss(*args, **settings)

    engine._losses = [dying]
    with pytest.raises(KeyboardInterrupt):
        engine.advance(9, sink=MemorySink(), interrupted=never)
    model, config, source, held_out = build(name, batch_size=7, accumulate=3)
    again = Engine(model, config, source, held_out)
    again.load_state_dict(state)
    again.advance(9, sink=pieces, interrupted=never)
    assert again.parameters_sha256() == whole.parameters_sha256()
    assert points(pieces) == points(sink)


def test_interruption_comes_at_a_step_boundary_and_leaves_no_trace():
    whole, sink = train("adversaries", 7, Solo(), steps=12)
    engine, pieces = train("adversaries", 7, Solo(), steps=0)
    for stop in (2, 3, 7):
        left = iter([False] * stop)
        engine.advance(12, sink=pieces, interrupted=lambda left=left: next(left, True))
    assert engine.position() == 12
    assert engine.parameters_sha256() == whole.parameters_sha256()
    assert points(pieces) == points(sink)


def test_evaluation_changes_nothing():
    """Evaluation and pictures between steps leave no trace, in bits."""
    whole, _ = train("batch-statistics", 7, Solo(), steps=10)
    engine, sink = train("batch-statistics", 7, Solo(), steps=4)
    engine.evaluate()
    engine.show(sink)
    engine.advance(10, sink=sink, interrupted=never)
    assert engine.parameters_sha256() == whole.parameters_sha256()


def test_states_are_copies():
    engine, sink = train("regression", 7, Solo(), steps=3)
    state = engine.state_dict()
    kept = state["model"]["net.0.weight"].clone()
    engine.advance(6, sink=sink, interrupted=never)
    assert torch.equal(state["model"]["net.0.weight"], kept)
    assert int(state["players"]["model"]["optimizer"]["step"]) == 3


def test_foreign_states_are_refused():
    engine, _ = train("regression", 7, Solo(), steps=1)
    other, _ = train("adversaries", 7, Solo(), steps=1)
    with pytest.raises(UserError, match="players"):
        engine.load_state_dict(other.state_dict())
    plain, _ = train("regression", 7, Solo(), steps=1, ema=None)
    with pytest.raises(UserError, match=r"train\.ema"):
        engine.load_state_dict(plain.state_dict())


def test_the_horizon_is_that_of_the_first_start():
    """A longer resume neither moves the schedule nor the log points."""
    engine, _ = train("regression", 7, Solo(), steps=3)
    model, config, source, held_out = build("regression", batch_size=7, grad_steps=400)
    longer = Engine(model, config, source, held_out)
    assert longer.choices["horizon"] == 400
    longer.load_state_dict(engine.state_dict())
    assert longer.choices["horizon"] == 40
    mine, theirs = (e.players[0].segments.all[0].schedule for e in (longer, engine))
    assert mine(30) == theirs(30)


# Counting ---------------------------------------------------------------------------------------


def test_epochs_count_the_batches_of_all_players():
    engine, _ = train("regression", 7, Solo(), steps=0)
    assert engine.to_clock("epochs", 1) == 19  # 130 rows in batches of 7
    assert engine.to_clock("epochs", 0.5) == 10
    assert engine.to_clock("grad_steps", 5) == 5
    gan, _ = train("adversaries", 7, Solo(), steps=0)
    assert gan.to_clock("epochs", 1) == 7  # 3 batches a round, 19 batches
    with pytest.raises(UserError, match="epochs or grad_steps"):
        engine.to_clock("env_steps", 5)
    gan.advance(7, sink=MemorySink(), interrupted=never)
    assert gan.progress() == {"grad_step": 7, "epoch": 1, "batch": 21}


def test_a_player_may_act_every_other_round():
    class Lazy(Adversaries):
        @property
        def players(self):
            critic, generator = Adversaries.players.fget(self)
            generator.every = 3
            return critic, generator

    engine = engine_for(Lazy())
    before = engine.players[1].segments.flat.data.clone()
    sink = MemorySink()
    engine.advance(1, sink=sink, interrupted=never)
    acted = engine.players[1].segments.flat.data.clone()
    assert not torch.equal(before, acted)
    engine.advance(3, sink=sink, interrupted=never)
    assert torch.equal(acted, engine.players[1].segments.flat.data)
    engine.advance(4, sink=sink, interrupted=never)
    assert not torch.equal(acted, engine.players[1].segments.flat.data)
    assert engine.batch_number == 4 * 2 + 2


# What is logged ---------------------------------------------------------------------------------


def test_log_points_are_means_over_examples(float64):
    """The mean since the last point, weighted by examples (the last batch of an epoch is short)."""
    model, config, source, held_out = build(
        "two-stage", batch_size=64, log_every=3, clip_norm=None, ema=None
    )
    seen = []
    loss = model.loss

    def spy(*args, **settings):
        parts = loss(*args, **settings)
        seen.append(parts["loss"].detach())
        return parts

    model.loss = spy
    engine = Engine(model, config, source, held_out)
    sink = MemorySink()
    engine.advance(6, sink=sink, interrupted=never)
    assert [len(s) for s in seen] == [64, 64, 2] * 2
    expected = [torch.cat(seen[:3]).mean().item(), torch.cat(seen[3:]).mean().item()]
    assert [v for _, v in sink.history("loss/total")] == pytest.approx(expected, rel=1e-12)
    assert [s for s, _ in sink.history("loss/total")] == [3, 6]
    assert sink.history("train/epoch") == [(3, 1.0), (6, 2.0)]


def test_masked_means_are_per_count(float64):
    _, sink = train("masked-sequences", 64, Solo(), steps=3)
    model, _, source, _ = build("masked-sequences", batch_size=64)
    sums, counts = model._errors(source.batch(0).fields)
    first = (sums.sum() / counts.sum()).item()
    assert counts.sum() != 64
    _, single = train("masked-sequences", 64, Solo(), steps=1, log_every=1)
    assert single.history("loss/total")[0][1] == pytest.approx(first)
    assert len(sink.history("loss/per_row")) == 1


def test_long_intervals_fold_on_the_host(float64, monkeypatch):
    """More steps than the meter has rows: the same means, and the same bits after a resume."""
    _, expected = train("adversaries", 7, Solo(), steps=12, log_every=12)
    monkeypatch.setattr("rayloom.training.meter.CAPACITY", 4)
    _, folded = train("adversaries", 7, Solo(), steps=12, log_every=12)
    _, resumed = train("adversaries", 7, Solo(), steps=12, log_every=12, stop_at=7)
    assert points(folded) == points(resumed)
    assert points(folded)[0][1] == pytest.approx(points(expected)[0][1], rel=1e-12)


def test_gradient_norm_is_the_one_before_clipping(float64):
    _, clipped = train("two-stage", 64, Solo(), steps=3, clip_norm=1e-3)
    _, free = train("two-stage", 64, Solo(), steps=3, clip_norm=None)
    first = clipped.history("loss/grad_norm")[0][1]
    assert first > 0.1
    assert first == pytest.approx(free.history("loss/grad_norm")[0][1], rel=0.2)


# NaN --------------------------------------------------------------------------------------------


class Breaks(Regression):
    """A part becomes NaN at a step."""

    def __init__(self, at, what):
        super().__init__()
        self.at, self.what = at, what

    def loss(self, batch, *, rng, turn):
        parts = super().loss(batch, rng=rng, turn=turn)
        if turn.grad_step == self.at:
            bad = torch.where(torch.arange(len(batch["x"])) == 3, float("nan"), 0.0)
            if self.what == "part":
                parts["first"] = parts["first"].detach() + bad
            elif self.what == "loss":
                parts["loss"] = parts["loss"] + bad
                parts["first"] = parts["first"] + bad
            else:  # a finite loss whose gradient is not
                x = self.net[0].weight.sum() * 0.0
                parts["loss"] = parts["loss"] + torch.sqrt(x)
        return parts


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("part", r"grad_step 7, player 'model': first \(NaN\)\."),
        ("loss", r"grad_step 7, player 'model': first \(NaN\)\."),
        ("gradient", r"grad_step 7, player 'model': the gradient norm \("),
    ],
)
@pytest.mark.parametrize("log_every", [1, 5, 100])
def test_nan_is_named_by_part_and_step(what, message, log_every):
    """However long the log interval, and before anything could write a checkpoint."""
    train_config = TrainConfig(grad_steps=20, log_every=log_every)
    engine = engine_for(Breaks(7, what), train=train_config)
    with pytest.raises(NonFiniteError, match=message):
        engine.advance(20, sink=MemorySink(), interrupted=never)


def test_nan_in_a_short_advance_is_found_before_it_returns():
    engine = engine_for(Breaks(2, "loss"), train=TrainConfig(grad_steps=20, log_every=100))
    with pytest.raises(NonFiniteError, match="grad_step 2"):
        engine.advance(4, sink=MemorySink(), interrupted=never)


# Evaluation -------------------------------------------------------------------------------------


class Scored(Regression):
    def evaluate_batch(self, batch, *, rng):
        error = (self.net(batch["x"]) - batch["y"]).square().sum(1)
        weight = (batch["x"][:, 0] > 0).double()
        return {"error": error, "positive_error": (error * weight, weight)}


def test_evaluation_covers_the_split_with_standard_errors(float64):
    engine = engine_for(Scored(), train=TrainConfig(grad_steps=5))
    metrics = engine.evaluate()
    split = build("regression", batch_size=50)[3]
    rows = [split.batch(n).fields for n in range(split.batches_per_epoch)]
    x, y = (torch.cat([r[k] for r in rows]) for k in ("x", "y"))
    assert len(x) == 50
    with torch.no_grad():
        error = (engine.model.net(x) - y).square().sum(1)
    assert metrics["eval/error"] == pytest.approx(error.mean().item(), rel=1e-12)
    assert metrics["eval/error_se"] == pytest.approx(error.std().item() / math.sqrt(50))
    weight = (x[:, 0] > 0).double()
    ratio = (error * weight).sum() / weight.sum()
    residual = weight * (error - ratio)
    se = (residual.square().sum() * 50 / 49).sqrt() / weight.sum()
    assert metrics["eval/positive_error"] == pytest.approx(ratio.item(), rel=1e-12)
    assert metrics["eval/positive_error_se"] == pytest.approx(se.item(), rel=1e-9)


def test_evaluation_uses_the_averages_and_eval_mode():
    engine, _ = train("batch-statistics", 7, Solo(), steps=8)
    raw = {k: v.clone() for k, v in engine.model.state_dict().items()}
    averaged = engine.evaluation_state()
    assert all(torch.equal(v, raw[k]) for k, v in engine.model.state_dict().items())
    assert not torch.equal(averaged["first.weight"], raw["first.weight"])
    assert not torch.equal(averaged["norm.running_mean"], raw["norm.running_mean"])
    metrics = engine.evaluate()
    assert not engine.model.training
    engine.model.load_state_dict(averaged)
    split = build("batch-statistics", batch_size=50)[3]
    rows = [split.batch(n).fields for n in range(split.batches_per_epoch)]
    x, y = (torch.cat([r[k] for r in rows]).float() for k in ("x", "y"))
    with torch.no_grad():
        expected = (engine.model.value(x) - y[:, 0]).square().mean().item()
    assert metrics["eval/loss"] == pytest.approx(expected, rel=1e-5)


def test_averages_follow_every_step(float64):
    """Once per grad_step, whatever the number of players; buffers as well."""
    for name, key in (("adversaries", "critic.0.weight"), ("batch-statistics", "norm.running_var")):
        engine, sink = train(name, 7, Solo(), steps=0)
        expected = engine.model.state_dict()[key].clone()
        for step in range(6):
            engine.advance(step + 1, sink=sink, interrupted=never)
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * engine.model.state_dict()[key]
        torch.testing.assert_close(engine.evaluation_state()[key], expected)


def test_evaluation_by_loss_needs_no_method_and_allows_penalties():
    class Steep(Regression):
        double_backward = True

        def loss(self, batch, *, rng, turn):
            x = batch["x"].detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
            return {"loss": slope.square().sum(1)}

    metrics = engine_for(Steep()).evaluate()
    assert metrics.keys() == {"eval/loss", "eval/loss_se"}
    assert train("masked-sequences", 7, Solo(), steps=2)[0].evaluate()["eval/step_error"] > 0


def test_unknown_metrics_are_refused():
    with pytest.raises(UserError, match="no metric 'nll'"):
        engine_for(Regression(), evaluation=EvaluationConfig(metrics=["nll"]))


# Pictures, modes and settings -------------------------------------------------------------------


class Pictured(Regression):
    def show(self, batch, *, rng):
        assert not self.training
        return {
            "noise": Images(rng.uniform("u", 1, 4, 5)[:5]),
            "rows": Images(torch.linspace(0, 1, 6 * 3 * 4 * 4).view(2, 3, 3, 4, 4)),
            "walk": Film(torch.linspace(0, 1, 6 * 3 * 4 * 4).view(2, 3, 3, 4, 4)),
            "said": Text(["ROMEO:", "what light"]),
            "counts": Table({"name": ["a", "b"], "share": [0.25, 0.75]}),
        }


class KeepingSink(MemorySink):
    def file(self, step, key, path):
        self.files.append((key + path.suffix, path.read_bytes()))


def test_what_is_shown_is_the_same_each_time():
    engine = engine_for(Pictured(), batch_size=16)
    first, second = KeepingSink(), KeepingSink()
    engine.show(first)
    engine.advance(2, sink=second, interrupted=never)
    engine.show(second)
    step, picture = second.images["pictures/noise"]
    assert step == 2
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, first.images["pictures/noise"][1])
    assert picture.shape == ((4 + 4) * 14, (5 * 7 + 2) * 14, 3)
    assert second.images["pictures/rows"][1].shape[:2] == (14 * 14, 20 * 14)
    assert second.files == first.files, "equal content, equal bytes"
    files = dict(second.files)
    assert set(files) == {"films/walk.gif", "texts/said.txt", "tables/counts.csv"}
    assert files["films/walk.gif"].startswith(b"GIF89a")
    assert files["texts/said.txt"].startswith(b"ROMEO:\n")
    assert files["tables/counts.csv"] == b"name,share\na,0.25\nb,0.75\n"


@pytest.mark.parametrize(
    ("old", "new"), [("pictures", "write show\\(batch"), ("export_module", "write exports\\(\\)")]
)
def test_old_names_are_refused_by_the_new_ones(old, new):
    model = type("Aged", (Regression,), {old: lambda self: None})()
    with pytest.raises(UserError, match=f"Aged.{old}.*{new}"):
        engine_for(model)


def test_what_is_shown_must_be_media():
    model = type("Bare", (Regression,), {"show": lambda self, batch, *, rng: {"x": torch.ones(1)}})
    with pytest.raises(UserError, match=r"Bare\.show.*Tensor as 'x'.*Images"):
        engine_for(model()).show(MemorySink())


def test_tiles_show_the_pixels():
    images = torch.tensor([0.0, 1.0, 0.5, float("nan"), 2.0]).view(5, 1, 1, 1).expand(5, 1, 60, 60)
    grid = tile(images)
    assert grid.shape == (64, 5 * 62 + 2, 3)
    assert [int(grid[30, 30 + 62 * n, 0]) for n in range(5)] == [0, 255, 128, 0, 255]
    with pytest.raises(ValueError, match="pictures must be"):
        tile(torch.zeros(2, 8, 8))
    clear = torch.tensor([1.0, 0.0, 0.0, 0.5]).view(1, 4, 1, 1).expand(1, 4, 60, 60)
    assert tile(clear)[30, 30].tolist() == [255, 128, 128], "colour over white"
    assert tile(clear, alpha=True)[30, 30].tolist() == [255, 0, 0, 128]
    assert tile(clear, alpha=True)[0, 0].tolist() == [0, 0, 0, 0], "the ground is transparent"
    odd = torch.rand(2, 5, 5, 8, 8)
    assert torch.equal(visible(odd), odd[:, :, :3])
    assert torch.equal(visible(odd[:, :, :2]), odd[:, :, :1])
    assert visible(odd[:, :, :3]).shape[2] == 3


def test_overfitting_one_batch_goes_down():
    model, config, source, held_out = build(
        "regression", batch_size=16, grad_steps=300, log_every=50, clip_norm=None
    )
    engine = Engine(model, config, source, held_out, overfit_batch=True)
    sink = MemorySink()
    engine.advance(300, sink=sink, interrupted=never)
    values = [v for _, v in sink.history("loss/total")]
    assert values[-1] < 0.3 * values[0]


def test_bf16_trains_and_auto_is_remembered():
    engine, sink = train("two-stage", 64, Solo(), steps=6, precision="bf16")
    _, other = train("two-stage", 64, Solo(), steps=6)
    mine, theirs = sink.history("loss/total")[-1][1], other.history("loss/total")[-1][1]
    assert mine != theirs
    assert mine == pytest.approx(theirs, rel=0.05)
    assert engine.players[0].segments.flat.data.dtype == torch.float32
    engine = Engine(*build("regression", batch_size=7, precision="auto"))
    assert engine.choices["precision"] == "auto"
    said = engine.decide()
    assert f"is {engine.choices['precision']}:" in said
    assert engine.decide() is None
    auto, _ = train("batch-statistics", 7, Solo(), steps=3, precision="auto")
    assert auto.choices["precision"] in ("fp32", "bf16")
    assert auto.state_dict()["choices"]["precision"] == auto.choices["precision"]
    if auto.choices["precision"] == "fp32":  # the probe left buffers and parameters alone
        plain, _ = train("batch-statistics", 7, Solo(), steps=3)
        assert plain.parameters_sha256() == auto.parameters_sha256()


@pytest.mark.parametrize(("bf16", "winner"), [(0.8, "bf16"), (0.97, "fp32"), (1.2, "fp32")])
def test_other_work_on_the_machine_does_not_choose_the_precision(monkeypatch, bf16, winner):
    """A burst that makes most passes of one kind slow is not taken for their speed."""
    from rayloom.training import precision

    now, passes = [0.0], []
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])

    def run(kind):
        passes.append(kind)
        slowed = kind == winner and passes.count(kind) % 5
        now[0] += (1.0 if kind == "fp32" else bf16) * (5.0 if slowed else 1.0)

    chosen, seconds = precision.probe(torch.nn.Linear(2, 2), run, torch.device("cpu"))
    assert chosen == winner
    assert seconds == pytest.approx({"fp32": 1.0, "bf16": bf16})
    assert passes[:4] == ["fp32", "bf16", "fp32", "bf16"]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_short_run_is_profiled_too(tmp_path, steps):
    model, config, source, held_out = build(
        "regression", batch_size=7, epochs=None, grad_steps=steps
    )
    engine = Engine(model, config, source, held_out, profile=tmp_path / "profile")
    engine.advance(steps, sink=MemorySink(), interrupted=never)
    engine.close()
    assert "Self CPU" in (tmp_path / "profile" / "operators.txt").read_text()


def test_profile_writes_a_trace(tmp_path):
    model, config, source, held_out = build("regression", batch_size=7)
    engine = Engine(model, config, source, held_out, profile=tmp_path / "profile")
    engine.advance(20, sink=MemorySink(), interrupted=never)
    assert (tmp_path / "profile" / "trace.json").stat().st_size > 1000
    assert "Self CPU" in (tmp_path / "profile" / "operators.txt").read_text()


# Mistakes ---------------------------------------------------------------------------------------


def test_optimizer_sections_must_fit_the_players():
    with pytest.raises(UserError, match="did you mean 'critic'"):
        engine_for(Adversaries(), optimizer={"critik": AdamConfig(), "generator": AdamConfig()})
    with pytest.raises(UserError, match="no section for player 'generator'"):
        engine_for(Adversaries(), optimizer={"critic": AdamConfig()})


def test_players_must_share_out_the_parameters():
    class Orphan(Regression):
        @property
        def players(self):
            return (Player("model", list(self.net[0].parameters())),)

    class Twice(Regression):
        @property
        def players(self):
            return tuple(Player(n, list(self.parameters())) for n in ("a", "b"))

    class Stale(Regression):
        @property
        def players(self):
            return (Player("model", list(self.parameters()), fresh=False),)

    with pytest.raises(UserError, match="is the first and has fresh=False"):  # it never ended
        engine_for(Stale())
    with pytest.raises(UserError, match=r"no player owns net\.2\.weight"):
        engine_for(Orphan())
    with pytest.raises(UserError, match="two players, a and b"):
        engine_for(Twice())


def test_wrong_losses_are_explained():
    class Scalar(Regression):
        def loss(self, batch, *, rng, turn):
            return {"loss": super().loss(batch, rng=rng, turn=turn)["loss"].mean()}

    class Nothing(Regression):
        def loss(self, batch, *, rng, turn):
            return {"loss": batch["x"].sum(1)}

    with pytest.raises(ValueError, match="one number per example"):
        engine_for(Scalar()).advance(1, sink=MemorySink(), interrupted=never)
    with pytest.raises(UserError, match="does not depend on its parameters"):
        engine_for(Nothing()).advance(1, sink=MemorySink(), interrupted=never)


def test_replaced_parameters_are_noticed():
    engine, sink = train("regression", 7, Solo(), steps=1)
    engine.model.load_state_dict(engine.model.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="replaced in the model"):
        engine.advance(2, sink=sink, interrupted=never)
