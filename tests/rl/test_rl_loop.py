"""The loop: seeded runs, resume at any round, plugins, refused settings, the driver."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rl_helpers import Points, equal_states, make_config, never, train

from rayloom.catalogue.plugins import load_plugins
from rayloom.config.resolved import config_from_dict, to_dict
from rayloom.config.sections import (
    AdamConfig,
    EMAConfig,
    EnvConfig,
    EvaluationConfig,
    RunConfig,
    TrainConfig,
)
from rayloom.core.errors import UserError
from rayloom.core.protocols import Trainable
from rayloom.records import Checkpoints
from rayloom.rl.collect import GroupWorker, LocalUpdater
from rayloom.rl.loop import RLTrainable
from rayloom_envs import probes

PLUGIN = Path(__file__).parents[1] / "plugins" / "reinforce_plugin.py"
VARIANTS = [
    {},
    {"n_step": 3, "replay": {"prioritized": True, "capacity": 300}},
    {"dueling": True, "replay": {"capacity": 200}},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_seeded_runs_are_equal_and_two_seeds_are_not(variant):
    config = make_config(**variant)
    one, two = Points(), Points()
    a, b = train(config, sink=one), train(config, sink=two)
    assert a.parameters_sha256() == b.parameters_sha256()
    assert one.deterministic() == two.deterministic()
    assert len(one.rows) >= 5
    other = train(config.model_copy(update={"seed": 1}))
    assert other.parameters_sha256() != a.parameters_sha256()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("at", [1, 150, 401])
def test_saved_and_continued_equals_never_stopped(variant, at, tmp_path):
    """Through real checkpoint files, at any round, also with a partly filled n-step window."""
    config = make_config(**variant)
    unbroken = Points()
    expected = train(config, sink=unbroken)
    first, sink = RLTrainable(config), Points()
    first.advance(at, sink=sink, interrupted=never)
    assert first.env_step < expected.env_step
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(first.position(), first.state_dict(), metrics={})
    first.advance(at + 150, sink=Points(), interrupted=never)  # changes no checkpoint
    second = RLTrainable(config_from_dict(to_dict(config)))
    second.load_state_dict(checkpoints.load(checkpoints.latest().step))
    second.advance(second.budget, sink=sink, interrupted=never)
    assert second.parameters_sha256() == expected.parameters_sha256()
    assert sink.deterministic() == unbroken.deterministic()
    assert second.progress() == expected.progress()
    equal_states(second.state_dict(), expected.state_dict())


def test_looking_in_between_changes_nothing():
    config = make_config()
    expected = train(config)
    stopped, calls = RLTrainable(config), 0
    while stopped.env_step < stopped.budget:
        stopped.advance(stopped.env_step + 1, sink=Points(), interrupted=lambda: True)
        stopped.evaluate()
        stopped.state_dict()
        calls += 1
    assert calls > 10
    assert stopped.parameters_sha256() == expected.parameters_sha256()


def test_state_dict_is_a_snapshot():
    trainable = RLTrainable(make_config(replay={"prioritized": True}))
    trainable.advance(400, sink=Points(), interrupted=never)
    state = trainable.state_dict()
    held = RLTrainable(make_config(replay={"prioritized": True}))
    held.load_state_dict(state)
    trainable.advance(700, sink=Points(), interrupted=never)
    again = RLTrainable(make_config(replay={"prioritized": True}))
    again.load_state_dict(state)
    equal_states(held.state_dict(), again.state_dict())


def test_the_budget_is_overshot_by_less_than_one_vector_step():
    trained = train(make_config(num_envs=4, steps=1001, round_env_steps=64))
    assert 1001 <= trained.env_step < 1001 + 4


class Scattered:
    """A collector of several workers that takes the groups in reverse: what actors may do."""

    def __init__(self, config, workers):
        self.workers = [GroupWorker(config) for _ in range(workers)]
        self.calls = 0

    def collect(self, weights, tasks):
        self.calls += 1
        copies = {name: value.clone() for name, value in weights.items()}
        done = {}
        for task in reversed(list(tasks)):
            worker = self.workers[(task.group + self.calls) % len(self.workers)]
            if self.calls == 3:
                worker.collect(copies, task)  # died after collecting: its result is lost
            done[task.group] = worker.collect(copies, task)
        return [done[task.group] for task in tasks]

    def close(self):
        pass


@pytest.mark.parametrize("workers", [1, 3])
def test_the_collector_does_not_change_the_run(workers):
    config = make_config(num_envs=16, group_size=8, round_env_steps=128)
    expected = train(config)
    spread = RLTrainable(config, collector=Scattered(config, workers))
    spread.advance(spread.budget, sink=Points(), interrupted=never)
    assert spread.parameters_sha256() == expected.parameters_sha256()


def test_it_is_a_trainable_and_counts():
    trained = train(make_config())
    assert isinstance(trained, Trainable)
    progress = trained.progress()
    assert progress["env_step"] == trained.position()
    assert progress["grad_step"] == trained.updater.learner.grad_step > 0
    assert progress["episode"] > 10


def test_policy_and_module_of_a_state():
    config = make_config()
    trained = train(config)
    back = RLTrainable(config)
    back.load_state_dict(trained.state_dict())
    policy = back.policy()
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(policy.best(x), trained.policy().best(x))
    q = back.export_module()(torch.from_numpy(x))
    np.testing.assert_array_equal(policy.best(x), q.argmax(-1).numpy())
    assert torch.equal(trained.export_module()(torch.from_numpy(x)), q)


def test_settings_that_would_be_ignored_are_refused_together():
    config = make_config()
    wrong = TrainConfig(env_steps=10, ema=EMAConfig(), accumulate=2, precision="bf16")
    config = config.model_copy(update={"train": wrong, "optimizer": {"q": AdamConfig()}})
    with pytest.raises(UserError) as told:
        RLTrainable(config)
    for key in ("train.ema", "train.accumulate", "train.precision", "optimizer"):
        assert key in str(told.value)
    with pytest.raises(UserError, match="env_steps"):
        RLTrainable(make_config().model_copy(update={"train": TrainConfig(epochs=2)}))


@pytest.fixture
def reinforce():
    load_plugins([str(PLUGIN)])


def reinforce_config(env, *, steps, seed=0, round_env_steps=64):
    config = config_from_dict(
        {
            "algorithm": {
                "name": "reinforce",
                "gamma": 0.9,
                "round_env_steps": round_env_steps,
            },
            "env": {"name": env, "num_envs": 8, "group_size": 4},
            "optimizer": {"name": "adam", "lr": 2e-2},
            "train": {"env_steps": steps},
            "evaluation": {"greedy": True, "video": False},
            "seed": seed,
        }
    )
    assert isinstance(config, RunConfig)
    return config


@pytest.mark.parametrize("probe", ["two_action", "obs_action", "two_step"])
def test_an_on_policy_plugin_solves_the_probes(probe, reinforce):
    name = "rayloom/Probe" + "".join(w.title() for w in probe.split("_")) + "-v0"
    trained = train(reinforce_config(name, steps=4000))
    best = probes.describe(probe)["best_return"]
    assert trained.evaluate()["eval/return_mean"] == best
    assert trained.to_clock("grad_steps", 10) == 640


def test_the_plugin_resumes_and_ignores_who_collects(reinforce):
    config = reinforce_config("CartPole-v1", steps=2000, round_env_steps=256)
    expected = train(config)
    first = RLTrainable(config)
    first.advance(700, sink=Points(), interrupted=never)
    second = RLTrainable(config, collector=Scattered(config, 2))
    second.load_state_dict(first.state_dict())
    second.advance(second.budget, sink=Points(), interrupted=never)
    assert second.parameters_sha256() == expected.parameters_sha256()


def test_updater_hands_out_views_that_follow_the_learner():
    config = make_config()
    updater = LocalUpdater(config)
    view = updater.weights()["body.0.weight"]
    updater.learner.flat.data.zero_()
    assert (view == 0).all()


def test_a_video_is_shown_once_at_the_end_and_only_if_the_environment_draws():
    config = make_config(EnvConfig(name="rayloom/GridWorld-v0", num_envs=2, group_size=2), steps=60)
    shown = EvaluationConfig(episodes=2, num_envs=2, video=True)
    trained = train(config.model_copy(update={"evaluation": shown}))
    sink = Points()
    trained.show(sink)
    assert [(step, key) for step, key, _ in sink.files] == [(trained.env_step, "video/episode")]
    assert RLTrainable.show_at == "end"
    blind = make_config(EnvConfig(name="rayloom/ProbeTwoStep-v0", num_envs=2), steps=60)
    sink = Points()
    train(blind.model_copy(update={"evaluation": shown})).show(sink)
    assert sink.files == []
