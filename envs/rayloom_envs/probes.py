"""The probe ladder: five environments, each of which isolates one fault of a learner.

| probe | what it has | what fails if it is not solved |
|---|---|---|
| constant_reward | one state, one action, reward 1 | the loss and optimizer of the value |
| obs_reward | two states, reward +1 or -1 by observation | gradients through the network |
| two_step | two steps, reward at the second | discounting and bootstrapping |
| two_action | one state, reward +1 or -1 by action | the policy or the choice of action |
| obs_action | reward +1 where action fits observation | both together |

The ladder is Andy Jones's ("Debugging RL, without the agonizing pain", 2021). `optimal_q(gamma)`
returns the exact action values of every probe, which is what a learner is tested against.

Observations are float32 (1,); actions are `Discrete`; episodes end by termination.
"""

from typing import Any

import numpy as np

from rayloom_envs.tabular import MDP, TabularEnv, TabularVectorEnv

NAMES = ("constant_reward", "obs_reward", "two_step", "two_action", "obs_action")


def make_mdp(probe: str) -> tuple[MDP, np.ndarray]:
    """The process of a probe and its observations, float32 (S, 1); the last state is the end.

    Raises:
        ValueError: There is no such probe.
    """
    if probe == "constant_reward":  # 0 -> end
        return _mdp([[(1, 1.0)]], initial=[0], ends=[1]), _column(0, 0)
    if probe == "obs_reward":  # 0 or 1 -> end
        return _mdp([[(2, -1.0)], [(2, 1.0)]], initial=[0, 1], ends=[2]), _column(-1, 1, 0)
    if probe == "two_step":  # 0 -> 1 -> end
        return _mdp([[(1, 0.0)], [(2, 1.0)]], initial=[0], ends=[2]), _column(-1, 1, 0)
    if probe == "two_action":
        return _mdp([[(1, -1.0), (1, 1.0)]], initial=[0], ends=[1]), _column(0, 0)
    if probe == "obs_action":
        rows = [[(2, 1.0), (2, -1.0)], [(2, -1.0), (2, 1.0)]]
        return _mdp(rows, initial=[0, 1], ends=[2]), _column(-1, 1, 0)
    raise ValueError(f"no probe is called {probe!r}; known: {', '.join(NAMES)}")


def _column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def _mdp(rows: list[list[tuple[int, float]]], *, initial: list[int], ends: list[int]) -> MDP:
    """A deterministic process: `rows[s][a]` is (next state, reward)."""
    s, a = len(rows) + len(ends), len(rows[0])
    transition, reward = np.zeros((s, a, s)), np.zeros((s, a, s))
    for state, row in enumerate(rows):
        for action, (then, gain) in enumerate(row):
            transition[state, action, then] = 1.0
            reward[state, action, then] = gain
    for end in ends:
        transition[end, :, end] = 1.0
    start = np.zeros(s)
    start[initial] = 1.0 / len(initial)
    return MDP(transition, reward, np.isin(np.arange(s), ends), start)


class Probe(TabularEnv):
    """One probe environment.

    Args:
        probe: One of `NAMES`.
        render_mode: Not supported; None.
    """

    def __init__(self, *, probe: str, render_mode: str | None = None) -> None:
        mdp, observations = make_mdp(probe)
        super().__init__(mdp, observations=observations, render_mode=render_mode)


class ProbeVector(TabularVectorEnv):
    """N probe environments; arguments as in `Probe` and `TabularVectorEnv`."""

    def __init__(
        self,
        *,
        num_envs: int = 1,
        probe: str,
        max_episode_steps: int = 0,
        render_mode: str | None = None,
    ) -> None:
        mdp, observations = make_mdp(probe)
        super().__init__(
            mdp,
            num_envs=num_envs,
            observations=observations,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )


def optimal_q(mdp: MDP, gamma: float, *, sweeps: int = 10_000) -> np.ndarray:
    """Exact optimal action values by policy iteration, shape (S, A); zero in terminal states.

    Each evaluation solves (I - gamma P_pi) v = r_pi; the greedy improvement stops when no action
    value grows. Needs gamma < 1 or a process in which every policy ends.

    Raises:
        ValueError: No fixed policy within `sweeps` improvements.
    """
    states = np.arange(mdp.num_states)
    alive = (~mdp.terminal).astype(float)
    reward, transition = mdp.expected_reward, mdp.transition * alive  # an end has value 0
    policy = np.zeros(mdp.num_states, np.int64)
    for _ in range(sweeps):
        chain = transition[states, policy] * alive[:, None]
        v = np.linalg.solve(np.eye(len(states)) - gamma * chain, reward[states, policy] * alive)
        q = (reward + gamma * transition @ v) * alive[:, None]
        better = q.max(1) > q[states, policy] + 1e-12
        if not better.any():
            return q
        policy = np.where(better, q.argmax(1), policy)
    raise ValueError(f"policy iteration did not end within {sweeps} improvements")


def describe(probe: str) -> dict[str, Any]:
    """Numbers of a probe for docs and tests: states, actions and the best return from the start."""
    mdp, _ = make_mdp(probe)
    best = optimal_q(mdp, 1.0).max(1)
    return {
        "states": mdp.num_states,
        "actions": mdp.num_actions,
        "best_return": float(best @ mdp.initial),
    }
