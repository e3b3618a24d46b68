"""Evaluation: own environments, own seeds, a fixed number of episodes per slot.

Taking the first k episodes that end in a vector of environments would favour short ones. Here every
slot has a quota before anything runs, and all its episodes are counted, so that mean return and
length are unbiased at any number of slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayloom.config.sections import EnvConfig
from rayloom.core import failpoints
from rayloom.core.errors import UserError
from rayloom.core.seeding import stream_seed
from rayloom.metrics.returns import summarize
from rayloom.rl.envs.groups import make_group
from rayloom.rl.envs.making import spec_of
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.policies import Policy

_CHUNK = 64  # vector steps between looks at the quotas


@dataclass(frozen=True)
class Episodes:
    """Returns and lengths of evaluation episodes, by slot, then time.

    Attributes:
        returns: Undiscounted, float64 (E,).
        lengths: Environment steps, int64 (E,).
    """

    returns: np.ndarray
    lengths: np.ndarray

    def metrics(self, *, prefix: str = "eval/", seed: int = 0) -> dict[str, float]:
        """Mean, interquartile mean, 95 % bootstrap interval and spread of the returns, length."""
        return summarize(self.returns, self.lengths, prefix=prefix, seed=seed)


def metric_names() -> list[str]:
    """The metrics that every evaluation of an agent has."""
    return list(Episodes(np.zeros(1), np.ones(1, np.int64)).metrics())


class _Greedy:
    """A policy that takes its best action as a behaviour."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def load(self, weights: Mapping[str, Any]) -> None:
        self.policy.load(weights)

    def act(
        self, observation: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self.policy.best(observation), {}

    def best(self, observation: np.ndarray) -> np.ndarray:
        return self.policy.best(observation)


def run_episodes(
    policy: Policy,
    env: EnvConfig,
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    greedy: bool = True,
    settings: Mapping[str, Any] | None = None,
    spec: EnvSpec | None = None,
    max_steps: int = 1_000_000,
) -> Episodes:
    """Run a fixed number of episodes; every slot contributes its share, whatever their lengths.

    Args:
        policy: With weights loaded.
        env: Environment; its `num_envs` and `group_size` are not used.
        episodes: E in all; slot i runs E // num_envs, the first E % num_envs slots one more.
        num_envs: Slots; at most E are used.
        seed: Of starts and, for stochastic policies, of the actions.
        greedy: Best actions, or the behaviour with `settings`.
        settings: Of the behaviour, such as epsilon.
        spec: The environment's spaces; None reads them.
        max_steps: Environment steps of the longest slot before giving up.

    Raises:
        UserError: No episode is wanted, or one does not end within `max_steps` steps of its slot.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    spec = spec or spec_of(env)
    slots = max(1, min(num_envs, episodes))
    quota = np.full(slots, episodes // slots) + (np.arange(slots) < episodes % slots)
    group = make_group(env, spec, seed=stream_seed(seed, "evaluation"), group=0, size=slots)
    acting = _Greedy(policy) if greedy else policy
    returns: list[list[float]] = [[] for _ in range(slots)]
    lengths: list[list[int]] = [[] for _ in range(slots)]
    done = np.zeros(slots, np.int64)
    try:
        while (done < quota).any():
            if group.steps_taken >= max_steps:
                raise UserError(
                    f"evaluation: an episode of {env.name} did not end within {max_steps} steps; "
                    "give it a time limit (env.wrappers: {name: TimeLimit, max_episode_steps: N})"
                )
            rollout = group.collect(_CHUNK, acting, settings or {})
            failpoints.hit("evaluation.middle")
            _, ended_slot = np.nonzero(rollout.ended)
            for slot, gain, length in zip(
                ended_slot, rollout.episode_return, rollout.episode_length, strict=True
            ):
                returns[slot].append(float(gain))
                lengths[slot].append(int(length))
                done[slot] += 1
    finally:
        group.close()
    kept_returns = [r for slot in range(slots) for r in returns[slot][: quota[slot]]]
    kept_lengths = [n for slot in range(slots) for n in lengths[slot][: quota[slot]]]
    return Episodes(np.array(kept_returns), np.array(kept_lengths, np.int64))
