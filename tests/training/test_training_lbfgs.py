"""L-BFGS: to the optimum of a convex problem, one engine step at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from rayloom.config.sections import LBFGSConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import Player
from rayloom.data import from_arrays, make_source
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from training.law import never
from training.toys import Sleeper


class Ridge(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    @property
    def players(self):
        return (Player("model", [self.weight]),)

    def loss(self, batch, *, rng, turn):
        error = batch["x"] @ self.weight - batch["y"]
        return {"loss": error.square() + 0.1 * self.weight.square().sum()}


def data(rows=90):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)) * [1.0, 3.0, 0.3, 10.0]
    return x, x @ [1.0, -2.0, 3.0, 0.5] + rng.normal(size=rows)


def engine_for(model, **train):
    x, y = data()
    source = make_source(
        from_arrays("ridge", {"train": {"x": x, "y": y}}), "train", batch_size=90, seed=0,
        shuffle=False,
    )  # fmt: skip
    config = RunConfig(
        optimizer=LBFGSConfig(max_iter=4),
        train=TrainConfig(grad_steps=20, precision="fp64", **train),
    )
    return Engine(model, config, source, None)


def test_it_finds_the_optimum_in_the_whole_and_in_chunks():
    x, y = data()
    best = np.linalg.solve(x.T @ x + 9 * np.eye(4), x.T @ y)
    for accumulate in (1, 4):
        engine, sink = engine_for(Ridge(), accumulate=accumulate), MemorySink()
        engine.advance(20, sink=sink, interrupted=never)
        np.testing.assert_allclose(engine.model.weight.detach().numpy(), best, rtol=1e-7)
        losses = [value for _, value in sink.history("loss/total")]
        assert np.diff(losses).max() < 1e-12


def test_its_memory_is_part_of_the_state():
    whole = engine_for(Ridge())
    whole.advance(4, sink=MemorySink(), interrupted=never)
    first, second = engine_for(Ridge()), engine_for(Ridge())
    first.advance(2, sink=MemorySink(), interrupted=never)
    second.load_state_dict(first.state_dict())
    second.advance(4, sink=MemorySink(), interrupted=never)
    assert whole.parameters_sha256() == second.parameters_sha256()


def test_only_the_evaluation_at_the_start_of_a_step_counts():
    class Counting(Ridge):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def loss(self, batch, *, rng, turn):
            self.calls.add_(1)
            return super().loss(batch, rng=rng, turn=turn)

    engine, sink = engine_for(Counting(), log_every=1), MemorySink()
    engine.advance(3, sink=sink, interrupted=never)
    assert engine.model.calls == 3
    _, y = data()
    assert sink.history("loss/total")[0][1] == pytest.approx(np.square(y).mean(), rel=1e-12)


def test_groups_and_lbfgs_do_not_go_together():
    with pytest.raises(UserError, match="moves player 'model' whole"):
        engine_for(Sleeper())
