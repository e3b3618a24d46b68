"""RLlib as the host: bit-equal to `workers: 0`, whatever dies."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toy_entries import all_is_free

from rayloom.catalogue.plugins import load_plugins
from rayloom.config.resolved import config_from_dict
from rayloom.core.errors import RayloomError, UserError
from rayloom.distributed.rllib import algorithm_config, remote_parts, writable
from rayloom.distributed.train import wait_until
from rayloom.rl.loop import RLTrainable

REINFORCE = Path(__file__).parents[1] / "plugins" / "reinforce_plugin.py"
DQN = {
    "algorithm": {"name": "dqn", "learning_starts": 256},
    "env": {"name": "CartPole-v1", "num_envs": 12, "group_size": 4},
    "train": {"env_steps": 2_500},
    "evaluation": {"episodes": 4, "num_envs": 2},
    "seed": 3,
}


class Points:
    def __init__(self):
        self.points = []

    def scalars(self, step, values):
        kept = {k: v for k, v in values.items() if not k.startswith("time/")}
        self.points.append((step, kept))

    def image(self, step, key, pixels):
        raise AssertionError("no pictures here")

    def file(self, step, key, path):
        raise AssertionError("no files here")


def finish(trainable, steps):
    sink = Points()
    trainable.advance(steps, sink=sink, interrupted=lambda: False)
    return trainable.parameters_sha256(), sink.points, trainable.progress()


def remote(tree, workers=2):
    return config_from_dict({**tree, "resources": {"workers": workers}})


def test_two_runners_one_killed_in_a_round_and_a_remote_learner_equal_one_process(
    ray_cluster, capfd, caplog
):
    """The law of the RL half. The kill comes while a round is under way."""
    alone = RLTrainable(config_from_dict(DQN))
    expected = finish(alone, 2_500)
    said = []
    with remote_parts(remote(DQN), say=said.append) as (collector, updater):
        import ray

        trainable = RLTrainable(remote(DQN), collector=collector, updater=updater)
        pids = ray.get([runner.pid.remote() for runner in collector.runners])
        assert len({*pids, os.getpid(), updater._call("pid")}) == 4  # four processes
        original = collector._gather

        def gather(waiting, found):
            if trainable.round == 3 and not collector.redone:
                os.kill(pids[1], 9)  # its calls are sent; none has been waited for
            original(waiting, found)

        collector._gather = gather
        started = time.monotonic()
        got = finish(trainable, 2_500)
        assert time.monotonic() - started < 50  # RLlib's own restart sleeps for 60 s
        assert collector.redone >= 1
        state = trainable.state_dict()
        metrics = trainable.evaluate()
    assert got == expected
    assert [text for text in said if "died" in text] == [
        "env runner 1 died: its process was killed, or ran out of memory; "
        "its groups are collected again by the others"
    ]
    assert metrics == alone.evaluate()
    wait_until(lambda: "raylet: A worker died" in caplog.text, timeout_s=10)
    assert capfd.readouterr().out == ""  # Ray's own words about it are in the log
    back = RLTrainable(config_from_dict(DQN))  # `workers` may change on resume
    back.load_state_dict(state)
    assert finish(back, 3_500)[0] == finish(alone, 3_500)[0]


def test_an_on_policy_learner_from_a_plugin_runs_on_the_host(ray_cluster):
    load_plugins([str(REINFORCE)])
    tree = {
        **DQN,
        "algorithm": {"name": "reinforce"},
        "train": {"env_steps": 1_000},
    }
    expected = finish(RLTrainable(config_from_dict(tree)), 1_000)
    with remote_parts(remote(tree, 1), plugins=[REINFORCE]) as (collector, updater):
        assert finish(
            RLTrainable(remote(tree, 1), collector=collector, updater=updater), 1_000
        ) == (expected)


def test_an_algorithm_config_trains_saves_and_restores_under_rllibs_keys(tmp_path, ray_cluster):
    def fresh():
        config = algorithm_config("dqn").environment("CartPole-v1").debugging(seed=5)
        return config.training(
            gamma=0.95,
            lr=5e-4,
            learning_starts=256,
            settings={"env.num_envs": 8, "env.group_size": 4, "train.env_steps": 5_000},
        )

    config = fresh()
    assert config.run_config().algorithm.gamma == 0.95
    assert config.run_config().optimizer.lr == 5e-4
    algorithm = config.build_algo()
    for _ in range(3):
        result = algorithm.train()
    assert result["training_iteration"] == 3
    sampled = result["num_env_steps_sampled_lifetime"]
    assert sampled == algorithm.trainable.env_step >= 3 * 200
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == sampled
    assert 8 <= result["env_runners"]["episode_return_mean"] <= 200
    folder = algorithm.save_to_path(tmp_path / "checkpoint")
    assert not [p for p in Path(folder).rglob("*") if p.suffix in (".pkl", ".pt", ".msgpack")]
    algorithm.train()
    whole = algorithm.trainable.parameters_sha256()
    algorithm.stop()
    again = type(algorithm).from_checkpoint(folder)
    result = again.train()
    assert again.trainable.parameters_sha256() == whole
    assert result["training_iteration"] == 4
    assert result["num_env_steps_sampled_lifetime"] == again.trainable.env_step
    again.stop()
    same = fresh().run_config().model_copy(update={"train": again.run_config.train})
    loop = RLTrainable(same)
    while loop.round < 4:
        loop.advance(loop.env_step + 1, sink=Points(), interrupted=lambda: False)
    assert loop.parameters_sha256() == whole


def test_an_algorithm_config_runs_in_a_tuner(ray_cluster, tmp_path):
    from ray import tune

    config = algorithm_config("dqn").environment("CartPole-v1")
    config.env_runners(num_env_runners=1, num_envs_per_env_runner=4)
    config.learners(num_learners=1)  # on no GPU: it books nothing, and Tune must not mind
    config.training(lr=tune.grid_search([1e-3, 1e-4]), settings={"train.env_steps": 2_000})
    results = tune.Tuner(
        config.algo_class,
        param_space=config,
        run_config=tune.RunConfig(
            name="t", storage_path=str(tmp_path), verbose=0, stop={"training_iteration": 2}
        ),
    ).fit()
    assert not results.errors
    assert len(results) == 2
    for result in results:
        assert result.metrics["env_runners"]["num_env_steps_sampled_lifetime"] >= 400
        json.dumps(result.metrics["env_runners"]["num_episodes"])


def test_wrong_settings_are_told_in_words():
    with pytest.raises(UserError, match="no algorithm is called 'dqm'"):
        algorithm_config("dqm")
    with pytest.raises(UserError, match=r"training\(gama=\.\.\.\)"):
        algorithm_config("dqn").training(gama=0.9)
    with pytest.raises(UserError, match="gamma"):
        algorithm_config("dqn").training(gamma=1.5).run_config()
    with pytest.raises(UserError, match=r"environment.* that a plugin brings"):
        algorithm_config("dqn").environment(Points).run_config()


def test_an_error_of_a_runner_is_told_not_retried(ray_cluster):
    tree = {**DQN, "env": {**DQN["env"], "kwargs": {"no_such_argument": 1}}}
    with (
        pytest.raises((UserError, Exception), match="no_such_argument"),
        remote_parts(remote(tree, 1)) as (collector, updater),
    ):
        RLTrainable(remote(tree, 1), collector=collector, updater=updater)


def test_a_learner_that_dies_while_it_is_built_is_told_in_a_sentence(ray_cluster, killed_at_birth):
    killed_at_birth("_WrappedExecutable")
    words = "^the learner died while it was being built: its process was killed.*is lost$"
    with pytest.raises(RayloomError, match=words), remote_parts(remote(DQN, 1)):
        pass
    assert wait_until(all_is_free, timeout_s=20)  # also of the env runner that did come up


def test_read_only_arrays_become_writable():
    array = np.arange(3)
    array.flags.writeable = False
    out = writable({"a": [array, (array, 1)], "b": "text"})
    out["a"][0][0] = 7
    out["a"][1][0][0] = 7
    assert array[0] == 0
    assert threading.active_count() >= 1
