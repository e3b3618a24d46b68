"""Shared makers of the RL tests."""

import numpy as np

from rayloom.config.sections import (
    AdamConfig,
    EnvConfig,
    EvaluationConfig,
    RunConfig,
    TrainConfig,
)
from rayloom.rl.algorithms.dqn import DQNConfig
from rayloom.rl.loop import RLTrainable


class Points:
    """A sink that keeps everything."""

    def __init__(self):
        self.rows, self.files = [], []

    def scalars(self, step, values):
        self.rows.append((step, dict(values)))

    def image(self, step, key, pixels):
        self.files.append((step, key))

    def file(self, step, key, path):
        self.files.append((step, key, path.stat().st_size))

    def deterministic(self):
        return [
            (step, {k: v for k, v in row.items() if not k.startswith(("time/", "system/"))})
            for step, row in self.rows
        ]


def never():
    return False


def make_config(env="CartPole-v1", *, num_envs=4, group_size=2, steps=700, seed=0, **algorithm):
    env = env if isinstance(env, EnvConfig) else EnvConfig(
        name=env, num_envs=num_envs, group_size=group_size
    )  # fmt: skip
    settings = {"learning_starts": 100, "round_env_steps": 64, "widths": [16], "batch_size": 16}
    return RunConfig(
        algorithm=DQNConfig(**{**settings, **algorithm}),
        env=env,
        optimizer=AdamConfig(lr=1e-3),
        train=TrainConfig(env_steps=steps, log_every=100),
        evaluation=EvaluationConfig(episodes=4, num_envs=2, video=False),
        seed=seed,
    )


def train(config, *, sink=None):
    trainable = RLTrainable(config)
    trainable.advance(trainable.budget, sink=sink or Points(), interrupted=never)
    return trainable


def equal_states(a, b, path=""):
    """Assert that two states are the same in every bit."""
    from rayloom.core.protocols import Chunk

    if isinstance(a, Chunk):
        assert a.key == b.key, path
        equal_states(dict(a.arrays), dict(b.arrays), path)
    elif isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            equal_states(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            equal_states(x, y, f"{path}/{i}")
    else:
        assert np.array_equal(np.asarray(a), np.asarray(b)), path
