"""The rules of an environment whose state can be saved (`get_state`, `set_state`)."""

from collections.abc import Callable
from typing import Any

import numpy as np


def check_env_state(make: Callable[[], Any], *, steps: int = 50, seed: int = 0) -> None:
    """Check that an environment's state, once saved, brings back the same future.

    Args:
        make: Builds the environment.
        steps: Environment steps to compare.
        seed: Of the episode and of the actions.

    Raises:
        AssertionError: `set_state(get_state())` on a fresh environment gave another future.
    """
    env, twin = make(), make()
    for name in ("get_state", "set_state"):
        assert hasattr(env, name), f"{type(env).__name__} has no {name}"
    actions = np.random.default_rng(seed)
    env.action_space.seed(seed)
    env.reset(seed=seed)
    twin.reset(seed=seed + 1)
    for _ in range(int(actions.integers(1, 5))):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    twin.set_state(env.get_state())
    for step in range(steps):
        action = env.action_space.sample()
        left, right = env.step(action), twin.step(action)
        assert np.array_equal(left[0], right[0]), f"observations differ {step} steps later"
        assert left[1:4] == right[1:4], f"reward or end differs {step} steps later"
        if left[2] or left[3]:
            a, b = env.reset(seed=seed + step), twin.reset(seed=seed + step)
            assert np.array_equal(a[0], b[0]), "a seeded reset gave two observations"
