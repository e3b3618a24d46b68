"""Finite Markov decision processes as Gymnasium environments, one at a time or many at once.

Dimension key: S states, A actions, N environments of a vector.

Both environments expose what a planner needs: `P`, the transition table in the form of Gymnasium's
toy-text environments, and `mdp`, the same as dense arrays. `get_state` and `set_state` save and
restore an environment exactly, its random stream included.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

Transition = tuple[float, int, float, bool]  # probability, next state, reward, terminated


@dataclass(frozen=True)
class MDP:
    """A finite Markov decision process.

    Attributes:
        transition: P(s' | s, a), shape (S, A, S); rows sum to one.
        reward: Reward of the transition s, a -> s', shape (S, A, S).
        terminal: Whether arriving in a state ends the episode, shape (S,).
        initial: Probability of starting in a state, shape (S,).
    """

    transition: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    initial: np.ndarray

    def __post_init__(self) -> None:
        s, a, _ = self.transition.shape
        if self.transition.shape != (s, a, s) or self.reward.shape != (s, a, s):
            raise ValueError(
                f"transition {self.transition.shape}, reward {self.reward.shape}: not (S, A, S)"
            )
        if not np.allclose(self.transition.sum(-1), 1.0):
            raise ValueError("every row of the transition array must sum to one")
        if not np.isclose(self.initial.sum(), 1.0):
            raise ValueError("the initial probabilities must sum to one")

    @property
    def num_states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    @property
    def expected_reward(self) -> np.ndarray:
        """E[r | s, a], shape (S, A)."""
        return (self.transition * self.reward).sum(-1)

    def table(self) -> dict[int, dict[int, list[Transition]]]:
        """`P[s][a]`: a list of (probability, next state, reward, terminated), zeros left out."""
        return {
            s: {
                a: [
                    (
                        float(self.transition[s, a, t]),
                        int(t),
                        float(self.reward[s, a, t]),
                        bool(self.terminal[t]),
                    )
                    for t in np.flatnonzero(self.transition[s, a])
                ]
                for a in range(self.num_actions)
            }
            for s in range(self.num_states)
        }


def _draw(cumulative: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Indices drawn by inversion: `cumulative` (..., S) ends in one, `u` (...) is in [0, 1)."""
    return np.minimum((cumulative <= u[..., None]).sum(-1), cumulative.shape[-1] - 1)


class TabularEnv(gym.Env):
    """One environment over an `MDP`. Episodes end in terminal states; a time limit is a wrapper's.

    Args:
        mdp: The process.
        observations: What is seen in each state, shape (S, ...); None shows the state's number
            (a `Discrete` space).
        render_mode: `ansi`, `rgb_array` or None, as far as a subclass draws.
    """

    metadata = {"render_modes": [], "render_fps": 4}  # noqa: RUF012 (Gymnasium's form)

    def __init__(
        self, mdp: MDP, *, observations: np.ndarray | None = None, render_mode: str | None = None
    ) -> None:
        self.mdp = mdp
        self.P = mdp.table()
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(mdp.num_actions)
        self.observation_space = _observation_space(mdp, observations)
        self._observations = observations
        self._initial = mdp.initial.cumsum()
        self._next = mdp.transition.cumsum(-1)
        self.state = 0

    def _observe(self) -> Any:
        return self.state if self._observations is None else self._observations[self.state].copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `options` are ignored."""
        super().reset(seed=seed)
        self.state = int(_draw(self._initial, np.asarray(self.np_random.random())))
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action, an integer in [0, A)."""
        before = self.state
        u = np.asarray(self.np_random.random())
        self.state = int(_draw(self._next[before, action], u))
        reward = float(self.mdp.reward[before, action, self.state])
        return self._observe(), reward, bool(self.mdp.terminal[self.state]), False, {}

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future: the state and the random stream."""
        return {"state": self.state, "random": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Back to what `get_state` returned."""
        self.state = int(state["state"])
        self.np_random.bit_generator.state = state["random"]


class TabularVectorEnv(VectorEnv):
    """N environments over one `MDP`, stepped by array operations.

    Autoreset is Gymnasium's `NEXT_STEP`: the step after an end ignores its action, starts a new
    episode and returns reward 0.

    Args:
        mdp: The process.
        num_envs: N.
        observations: As for `TabularEnv`.
        max_episode_steps: Time limit; 0 for none.
        render_mode: Not supported; None.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's form)
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        mdp: MDP,
        *,
        num_envs: int = 1,
        observations: np.ndarray | None = None,
        max_episode_steps: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.mdp, self.num_envs, self.render_mode = mdp, num_envs, render_mode
        self.max_episode_steps = max_episode_steps
        self.single_action_space = spaces.Discrete(mdp.num_actions)
        self.single_observation_space = _observation_space(mdp, observations)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._observations = observations
        self._initial = mdp.initial.cumsum()
        self._next = mdp.transition.cumsum(-1)
        self.state = np.zeros(num_envs, np.int64)
        self.steps = np.zeros(num_envs, np.int64)
        self.ended = np.zeros(num_envs, np.bool_)

    def _observe(self) -> np.ndarray:
        return self.state.copy() if self._observations is None else self._observations[self.state]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start N episodes; `options` are ignored."""
        super().reset(seed=seed)
        self.state = _draw(self._initial, self.np_random.random(self.num_envs))
        self.steps = np.zeros(self.num_envs, np.int64)
        self.ended = np.zeros(self.num_envs, np.bool_)
        return self._observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take N actions, integers in [0, A), shape (N,)."""
        fresh = self.ended
        u = self.np_random.random(self.num_envs)
        moved = _draw(self._next[self.state, actions], u)
        reward = np.where(fresh, 0.0, self.mdp.reward[self.state, actions, moved])
        self.state = np.where(fresh, _draw(self._initial, u), moved)
        self.steps = np.where(fresh, 0, self.steps + 1)
        terminated = self.mdp.terminal[self.state] & ~fresh
        late = self.steps >= self.max_episode_steps if self.max_episode_steps else False
        truncated = np.logical_and(late, ~fresh)
        self.ended = terminated | truncated
        return self._observe(), reward, terminated, truncated, {}

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future of the N environments."""
        return {
            "state": self.state.copy(),
            "steps": self.steps.copy(),
            "ended": self.ended.copy(),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Back to what `get_state` returned."""
        self.state = np.array(state["state"], np.int64)
        self.steps = np.array(state["steps"], np.int64)
        self.ended = np.array(state["ended"], np.bool_)
        self.np_random.bit_generator.state = state["random"]


def _observation_space(mdp: MDP, observations: np.ndarray | None) -> spaces.Space:
    if observations is None:
        return spaces.Discrete(mdp.num_states)
    if len(observations) != mdp.num_states:
        raise ValueError(f"{len(observations)} observations for {mdp.num_states} states")
    low, high = observations.min(0), observations.max(0)
    same = low == high  # Gymnasium warns of boxes without volume
    return spaces.Box(low - same, high + same, dtype=observations.dtype.type)
