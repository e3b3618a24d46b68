"""What passes between a model and the engine beside losses: sums, groups, moved rows, turns."""

import pytest
import torch
from torch import nn

from rayloom.config.sections import (
    AdamConfig,
    GroupConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from rayloom.core.collective import Solo
from rayloom.core.errors import UserError
from rayloom.core.protocols import Player, Sum
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from training.law import never, train
from training.toys import DIM, Bumps, Codebook, Moments, Recurrent, Regression, Sleeper, build


def engine_for(model, *, batch_size=7, train=None, **sections):
    _, _, source, held_out = build("regression", batch_size=batch_size)
    train = train or TrainConfig(grad_steps=40, log_every=5)
    return Engine(model, RunConfig(train=train, **sections), source, held_out)


def test_sums_of_an_epoch_are_those_of_the_data(float64):
    """130 rows in batches of 7 and one of 4: the mean at the epoch's end is that of all rows."""
    model, config, source, held_out = build("moments", batch_size=7)
    model.loss = lambda batch, *, rng, turn: {
        "x": Sum(batch["x"].sum(0)),
        "rows": Sum(torch.tensor(float(len(batch["x"])))),
    }
    engine = Engine(model, config, source, held_out)
    engine.advance(19, sink=MemorySink(), interrupted=never)
    rows = source.split.take(torch.arange(130))["x"]
    torch.testing.assert_close(model.mean, rows.mean(0), rtol=1e-12, atol=1e-14)
    assert model.seen == 0
    assert engine.progress()["epoch"] == 1


def test_turns_count_players_epochs_and_repeats():
    seen = []

    class Two(Regression):
        @property
        def players(self):
            return (
                Player("counter", every=2, repeats=2),
                Player("model", list(self.parameters()), loss=self.own, fresh=False),
            )

        def loss(self, batch, *, rng, turn):
            seen.append((turn, batch["x"][0, 0].item(), rng.normal("any", 1)[0].item()))
            return {"first": batch["x"][:, 0]}

        def own(self, batch, *, rng, turn):
            seen.append((turn, batch["x"][0, 0].item(), rng.normal("any", 1)[0].item()))
            return super().loss(batch, rng=rng, turn=turn)

        def evaluate_batch(self, batch, *, rng):
            return {"loss": batch["x"][:, 0]}

    engine = engine_for(Two(), batch_size=64)
    engine.advance(4, sink=MemorySink(), interrupted=never)
    turns = [turn for turn, *_ in seen]
    assert [t.player for t in turns] == ["counter", "counter", "model", "model"] * 2
    counted = [t for t in turns if t.player == "counter"]
    assert [(t.grad_step, t.player_step, t.repeat) for t in counted] == [
        (0, 0, 0), (0, 1, 1), (2, 2, 0), (2, 3, 1)
    ]  # fmt: skip
    assert [t.epoch for t in counted] == [0, 0, 0, 1]
    assert [t.epoch_ends for t in counted] == [False, False, True, False]
    assert seen[1][1:] == seen[2][1:] == seen[3][1:]  # not fresh: batch and noise of the one before
    assert seen[0][1:] != seen[1][1:]
    assert engine.progress()["batch"] == 4  # the second player moves no cursor
    assert {t.horizon for t in turns} == {40}


def test_a_late_part_begins_as_an_early_one_would():
    """Asleep it is untouched, bit for bit, decay included; its first Adam step is one of lr."""
    model = Sleeper()
    optimizer = AdamConfig(lr=0.01, groups={"late": GroupConfig(lr=0.03)})
    engine, sink = engine_for(model, optimizer=optimizer), MemorySink()
    before = model.second.weight.clone()
    engine.advance(4, sink=sink, interrupted=never)
    assert torch.equal(model.second.weight, before)
    engine.advance(5, sink=sink, interrupted=never)
    step = (model.second.weight - before).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.03), rtol=1e-3, atol=0)
    assert sink.history("optim/lr/late")[0][1] == 0.03


def test_schedules_of_the_run_of_the_player_and_of_a_group():
    constant, linear = ScheduleConfig(), ScheduleConfig(name="linear")
    for player, group, expected in (
        (None, None, (0.5, 0.5)),
        (constant, None, (1.0, 1.0)),
        (None, constant, (0.5, 1.0)),
        (constant, linear, (1.0, 0.5)),
    ):
        optimizer = AdamConfig(
            lr=1.0, schedule=player, groups={"late": GroupConfig(schedule=group)}
        )
        train = TrainConfig(grad_steps=40, schedule=linear)
        engine = engine_for(Sleeper(), optimizer=optimizer, train=train)
        segments = engine.players[0].segments.all
        assert tuple(segment.schedule(20) for segment in segments) == expected


def test_a_player_may_have_a_clip_norm_of_its_own():
    train = TrainConfig(grad_steps=4, clip_norm=1.0)
    engine = engine_for(Regression(), optimizer=AdamConfig(clip_norm=0.25), train=train)
    assert engine.players[0].clip_norm == 0.25
    assert engine_for(Regression(), train=train).players[0].clip_norm == 1.0


def test_groups_must_exist():
    with pytest.raises(UserError, match="did you mean 'late'"):
        engine_for(Sleeper(), optimizer=AdamConfig(groups={"lade": GroupConfig()}))


def test_moved_rows_take_their_moments_along():
    model = Bumps()
    engine = engine_for(
        model,
        optimizer=AdamConfig(lr=0.03),
        train=TrainConfig(grad_steps=9, log_every=9, ema={"decay": 0.9}),
    )
    engine.advance(2, sink=MemorySink(), interrupted=never)
    (segment,) = engine.players[0].segments.all
    place = segment.piece.place(model.centre)
    moments, seen = segment.optimizer.state["mean"][place].view(6, DIM), {}
    hook = model.after_step

    def spied(done):
        seen["before"], values = moments.clone(), model.centre.detach().clone()
        hook(done)
        near = done.sums["near"]
        seen["least"], seen["most"] = int(near.argmin()), int(near.argmax())
        expected = values[seen["most"]] + 0.1
        torch.testing.assert_close(model.centre[seen["least"]].detach(), expected)

    engine.players[0].after_step = spied
    engine.advance(3, sink=MemorySink(), interrupted=never)
    least, others = seen["least"], [n for n in range(6) if n != seen["least"]]
    assert torch.equal(moments[others], seen["before"][others])
    assert (moments[least] == 0).all()
    average = engine.ema.views["centre"]
    torch.testing.assert_close(average[least], model.centre[least].detach())


def test_a_changed_sum_is_refused():
    class Growing(Codebook):
        def loss(self, batch, *, rng, turn):
            parts = super().loss(batch, rng=rng, turn=turn)
            return {**parts, "sizes": Sum(torch.zeros(5 + turn.grad_step))}

    with pytest.raises(UserError, match=r"'sizes' of shape \(6,\).*\(5,\)"):
        engine_for(Growing()).advance(2, sink=MemorySink(), interrupted=never)


def test_parameters_that_grow_are_refused():
    """Once such a run ended as finished, with a model that nothing could load."""

    class Growing(Regression):
        def after_step(self, done):
            if done.turn.grad_step == 2:
                self.more = nn.Parameter(torch.zeros(3))

    engine = engine_for(Growing())
    engine.advance(3, sink=MemorySink(), interrupted=never)
    with pytest.raises(RuntimeError, match="more came into the model"):
        engine.state_dict()


@pytest.mark.parametrize("old", ["loss", "after_step"])
def test_old_forms_are_told_the_new_one(old):
    class Old(Regression):
        if old == "loss":

            def loss(self, batch, *, player, rng, step):
                return {}
        else:

            def after_step(self, stats, *, player, step):
                return None

    with pytest.raises(UserError, match=rf"Old\.{old} has the form .*{old}\(self, "):
        engine_for(Old())


def test_players_without_parameters_need_no_optimizer():
    engine_for(Moments(), optimizer={})
    with pytest.raises(UserError, match=r"optimizer\.counter: it moves no parameters"):
        engine_for(Moments(), optimizer={"counter": AdamConfig()})


def test_state_that_is_kept_is_not_averaged():
    engine, _ = train("codebook", 7, Solo(), steps=5)
    assert set(engine.ema.views) == {"encoder.weight", "encoder.bias", "codes"}
    assert "sizes" in engine.state_dict()["model"]


# Memory of rows ---------------------------------------------------------------------------------


def test_rows_carry_on_and_begin_anew_where_the_batch_says_so(float64):
    model, config, source, held_out = build("recurrent", batch_size=64)
    seen, loss = [], model.loss

    def spy(batch, *, rng, turn):
        seen.append((batch["first"], batch["memory.age"], batch["memory.h"]))
        return loss(batch, rng=rng, turn=turn)

    model.loss = spy
    engine = Engine(model, config, source, held_out)
    engine.advance(4, sink=MemorySink(), interrupted=never)
    age = torch.zeros(64, dtype=torch.int64)
    for first, given, h in seen:
        age[first] = 0
        assert torch.equal(given, age)
        assert (h[first] == 0.5).all()
        assert not h.requires_grad
        age += 1
    assert age.max() > 2


def test_memory_is_part_of_the_state_and_of_all_rows():
    engine, _ = train("recurrent", 7, Solo(), steps=3)
    assert engine.state_dict()["memory"]["h"].shape == (7, 4)
    other, *_ = build("recurrent", batch_size=13)
    _, config, source, held_out = build("recurrent", batch_size=13)
    with pytest.raises(UserError, match="7 rows, the batch has 13"):
        Engine(other, config, source, held_out).load_state_dict(engine.state_dict())


def test_memory_needs_batches_of_one_size():
    with pytest.raises(UserError, match="drop_last"):
        engine_for(Recurrent(), batch_size=64)


# Looking ----------------------------------------------------------------------------------------


def test_whole_split_metrics_with_their_errors(float64):
    engine, _ = train("recurrent", 7, Solo(), steps=3)
    metrics = engine.evaluate()
    with engine._looking():
        rows = engine.evaluation_source.split.take(torch.arange(50))
        parts = engine.model.evaluate_batch(rows, rng=None)
    table = parts["confusion"].value
    assert metrics["eval/accuracy"] == float(table.trace() / table.sum())
    assert metrics["eval/said"] == parts["said"].value.double().mean()
    assert "eval/accuracy_se" not in metrics  # with Rows no batch can be left out


def test_the_jackknife_is_that_of_a_ratio(float64):
    """Without Rows, over batches of 16, 16, 16 and 2: against the formula by hand."""

    class Ratio(Regression):
        def evaluate_batch(self, batch, *, rng):
            return {"num": Sum(batch["y"][:, 0].sum()), "den": Sum(batch["x"][:, 0].square().sum())}

        def summarise(self, done):
            return {"ratio": done.sums["num"] / done.sums["den"]}

    engine = engine_for(Ratio())
    metrics = engine.evaluate()
    rows = engine.evaluation_source.split.take(torch.arange(50))
    y, x = rows["y"][:, 0].double(), rows["x"][:, 0].double().square()
    cuts = [slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 50)]
    without = torch.stack([(y.sum() - y[c].sum()) / (x.sum() - x[c].sum()) for c in cuts])
    error = (3 / 4 * (without - without.mean()).square().sum()).sqrt()
    assert metrics["eval/ratio"] == pytest.approx(float(y.sum() / x.sum()), rel=1e-6)
    assert metrics["eval/ratio_se"] == pytest.approx(float(error), rel=1e-5)


def test_a_loss_of_several_players_is_no_score():
    class Two(Regression):
        @property
        def players(self):
            first, second = self.net[0], self.net[2]
            return Player("a", list(first.parameters())), Player("b", list(second.parameters()))

    with pytest.raises(UserError, match="several players, so its loss is no score"):
        engine_for(Two())


# Beginning --------------------------------------------------------------------------------------


def test_weights_from_the_data_come_before_the_averages():
    """An average made before them once gave 10.1 bits for 5.8."""

    class Scaled(Regression):
        def initialise(self, batch, *, rng):
            self.seen = len(batch["x"])
            self.net[0].weight.mul_(1 / batch["x"].std())
            self.net[0].bias.fill_(rng.shared("bias").item())

    engine = engine_for(
        Scaled(), batch_size=64, train=TrainConfig(grad_steps=9, ema={"decay": 0.9})
    )
    engine.decide()
    assert engine.model.seen == 64
    assert torch.equal(engine.ema.views["net.0.bias"], engine.model.net[0].bias)
    engine.advance(2, sink=MemorySink(), interrupted=never)
    again = engine_for(Scaled(), batch_size=64, train=TrainConfig(grad_steps=9, ema={"decay": 0.9}))
    again.load_state_dict(engine.state_dict())
    again.advance(3, sink=MemorySink(), interrupted=never)
    assert not hasattr(again.model, "seen")  # a resumed run keeps its weights


def test_what_a_step_leaves_on_the_model_is_refused():
    """Under accumulate it was silently wrong: 2.66 for 2.91."""

    class Stash(Regression):
        def loss(self, batch, *, rng, turn):
            parts = super().loss(batch, rng=rng, turn=turn)
            self.last = parts["first"].detach()
            return parts

    with pytest.raises(UserError, match=r"left tensors on itself .*\(last\).*Sum"):
        engine_for(Stash()).advance(1, sink=MemorySink(), interrupted=never)


def test_float64_throughout():
    engine = engine_for(Regression(), train=TrainConfig(grad_steps=4, precision="fp64"))
    dtypes, loss = set(), engine.model.loss

    def spy(batch, *, rng, turn):
        dtypes.update({batch["x"].dtype, rng.normal("any", 1).dtype})
        return loss(batch, rng=rng, turn=turn)

    engine.model.loss = spy
    engine.advance(2, sink=MemorySink(), interrupted=never)
    assert dtypes == {torch.float64}
    assert engine.players[0].segments.flat.data.dtype == torch.float64
    assert engine.evaluate()["eval/loss"] > 0
