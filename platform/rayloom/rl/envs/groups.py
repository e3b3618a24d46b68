"""Environment groups: the unit in which experience is collected.

Dimension key: T vector steps, N environments of the group.

A group is a fixed number of environments with one random stream and one inference batch. What a
group lives through depends on its state, the weights and the task alone, so it does not matter
which process collects it, and a group whose process died is collected again.

All groups present Gymnasium's next-step autoreset: the step after an end ignores its action and
resets; it is marked invalid. So the last observation of an episode is an ordinary row.
"""

import logging
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from rayloom.config.sections import EnvConfig
from rayloom.core.protocols import State
from rayloom.core.seeding import numpy_stream, stream_seed
from rayloom.rl.envs import state as env_state
from rayloom.rl.envs.making import has_vector_form, make_env, make_vector_env
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.policies import Policy
from rayloom.rl.rollout import Rollout

_log = logging.getLogger(__name__)
_VECTOR_FROM = 6  # below so many environments a loop is faster than array operations


class Group:
    """Base of both kinds: the random stream, the observation at hand and episode accounting.

    Args:
        spec: Spaces of the environment.
        seed: Seed of the run, or of an evaluation.
        group: Number of the group.
        size: N.

    Attributes:
        observation: Encoded observation at hand, (N, *obs_shape).
        ended: (N,), the next step only resets.
        episode: (N,), numbers of the current episodes.
    """

    def __init__(self, spec: EnvSpec, seed: int, group: int, size: int) -> None:
        self.spec, self.seed, self.group, self.size = spec, seed, group, size
        self.rng = numpy_stream(seed, "acting", group)
        self.observation = np.zeros((size, *spec.obs_shape), spec.obs_dtype)
        self.ended = np.zeros(size, bool)
        self.episode = np.zeros(size, np.int64)
        self.steps_taken = 0
        self.running_return = np.zeros(size)
        self.running_length = np.zeros(size, np.int64)

    def step(
        self,
        action: np.ndarray,
        observation: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """One vector step; the results are written into the four arrays (N, ...)."""
        raise NotImplementedError

    def collect(self, steps: int, policy: Policy, settings: Mapping[str, Any]) -> Rollout:
        """Act for `steps` vector steps."""
        n, spec = self.size, self.spec
        observation = np.empty((steps + 1, n, *spec.obs_shape), spec.obs_dtype)
        action: np.ndarray = np.empty((steps, n, *spec.action_shape), spec.action_dtype)
        reward = np.empty((steps, n), np.float32)
        terminated, truncated = np.empty((steps, n), bool), np.empty((steps, n), bool)
        noted: list[dict[str, np.ndarray]] = []
        fresh = self.ended.copy()
        observation[0] = self.observation
        for t in range(steps):
            chosen, extras = policy.act(observation[t], self.rng, settings)
            action[t] = chosen
            noted.append(extras)
            self.step(action[t], observation[t + 1], reward[t], terminated[t], truncated[t])
        self.observation = observation[steps].copy()
        self.steps_taken += steps
        ended = terminated | truncated
        valid = np.concatenate([~fresh[None], ~ended[:-1]])
        reward[~valid] = 0.0
        returns, lengths = self._account(reward, ended, valid)
        keys = noted[0] if noted else {}
        return Rollout(
            self.group,
            observation,
            action,
            reward,
            terminated,
            truncated,
            valid,
            {key: np.stack([row[key] for row in noted]) for key in keys},
            returns,
            lengths,
        )

    def _account(
        self, reward: np.ndarray, ended: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths of the episodes that ended, ordered by time, then slot."""
        total = self.running_return + reward.cumsum(0, dtype=np.float64)
        length = self.running_length + valid.cumsum(0)
        rows, slots = np.nonzero(ended)
        returns, lengths = np.empty(len(rows)), np.empty(len(rows), np.int64)
        last_total, last_length = np.zeros(self.size), np.zeros(self.size, np.int64)
        for i, (t, slot) in enumerate(zip(rows, slots, strict=True)):
            returns[i] = total[t, slot] - last_total[slot]
            lengths[i] = length[t, slot] - last_length[slot]
            last_total[slot], last_length[slot] = total[t, slot], length[t, slot]
        self.running_return = total[-1] - last_total
        self.running_length = length[-1] - last_length
        return returns, lengths

    def state_dict(self) -> State:
        """Everything that decides the group's future; copies."""
        return {
            "observation": self.observation.copy(),
            "ended": self.ended.copy(),
            "episode": self.episode.copy(),
            "running_return": self.running_return.copy(),
            "running_length": self.running_length.copy(),
            "steps_taken": self.steps_taken,
            "rng": env_state.get_random(self.rng),
        }

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        self.observation = np.array(state["observation"], self.spec.obs_dtype)
        self.ended = np.array(state["ended"], bool)
        self.episode = np.array(state["episode"], np.int64)
        self.running_return = np.array(state["running_return"], np.float64)
        self.running_length = np.array(state["running_length"], np.int64)
        self.steps_taken = int(state["steps_taken"])
        env_state.set_random(self.rng, state["rng"])

    def close(self) -> None:
        """Free the environments."""


class VectorGroup(Group):
    """A natively vectorised environment; its one random stream is the group's."""

    def __init__(self, config: EnvConfig, spec: EnvSpec, seed: int, group: int, size: int) -> None:
        super().__init__(spec, seed, group, size)
        self.env = make_vector_env(config, size)
        self.adapter = cast(env_state.Adapter, env_state.find_adapter(self.env.unwrapped))
        first, _ = self.env.reset(seed=stream_seed(seed, "env", group))
        spec.encode(first, self.observation)

    def step(
        self,
        action: np.ndarray,
        observation: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """One vector step."""
        seen, gain, end, cut, _ = self.env.step(self.spec.to_env(action))
        self.spec.encode(seen, observation)
        reward[...], terminated[...], truncated[...] = gain, end, cut
        self.episode += self.ended
        self.ended = terminated | truncated

    def state_dict(self) -> State:
        """The state."""
        return {**super().state_dict(), "env": self.adapter.get(self.env.unwrapped)}

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        super().load_state_dict(state)
        self.adapter.set(self.env.unwrapped, state["env"])

    def close(self) -> None:
        """Free the environment."""
        self.env.close()


class LoopGroup(Group):
    """Single environments stepped one after the other, in process.

    Every episode starts from its own seed, derived from (seed, group, slot, episode). Environments
    without an adapter are restored by replaying the actions of the current episode.
    """

    def __init__(self, config: EnvConfig, spec: EnvSpec, seed: int, group: int, size: int) -> None:
        super().__init__(spec, seed, group, size)
        self.envs = [make_env(config) for _ in range(size)]
        self.adapter = env_state.find_adapter(self.envs[0])
        self.actions: list[list[np.ndarray]] = [[] for _ in range(size)]
        self._plain = spec.action_kind == "discrete"
        for slot in range(size):
            self._reset(slot, self.observation[slot])

    def _reset(self, slot: int, observation: np.ndarray) -> None:
        seed = stream_seed(self.seed, "env", self.group, slot, int(self.episode[slot]))
        seen, _ = self.envs[slot].reset(seed=seed)
        self.spec.encode(seen, observation)
        self.actions[slot] = []

    def _apply(self, slot: int, action: np.ndarray | np.int64) -> tuple[Any, Any, bool, bool]:
        chosen = int(action) + self.spec.action_start if self._plain else np.array(action)
        seen, gain, end, cut, _ = self.envs[slot].step(chosen)
        if self.adapter is None:
            self.actions[slot].append(np.array(action))
        return seen, gain, end, cut

    def step(
        self,
        action: np.ndarray,
        observation: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """One vector step."""
        for slot in range(self.size):
            if self.ended[slot]:
                self.episode[slot] += 1
                self._reset(slot, observation[slot])
                reward[slot], terminated[slot], truncated[slot] = 0.0, False, False
                self.ended[slot] = False
                continue
            seen, gain, end, cut = self._apply(slot, action[slot])
            self.spec.encode(seen, observation[slot])
            reward[slot], terminated[slot], truncated[slot] = gain, end, cut
            self.ended[slot] = end or cut

    def state_dict(self) -> State:
        """The state; with an adapter the inner states, else the current episodes' actions."""
        state = super().state_dict()
        if self.adapter is not None:
            state["envs"] = {
                str(slot): env_state.get_env(env, self.adapter)
                for slot, env in enumerate(self.envs)
            }
            return state
        shape, kind = self.spec.action_shape, self.spec.action_dtype
        state["actions"] = {
            str(slot): np.array(taken, kind).reshape(len(taken), *shape)
            for slot, taken in enumerate(self.actions)
        }
        return state

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        super().load_state_dict(state)
        for slot, env in enumerate(self.envs):
            if self.adapter is not None:
                env_state.set_env(env, self.adapter, state["envs"][str(slot)])
            else:
                self._replay(slot, state["actions"][str(slot)])

    def _replay(self, slot: int, actions: np.ndarray) -> None:
        """Live through the current episode again; if it comes out different, end it here."""
        seen = np.empty(self.spec.obs_shape, self.spec.obs_dtype)
        self._reset(slot, seen)
        over = False
        for action in actions:
            if over:
                break
            raw, _, end, cut = self._apply(slot, action)
            self.spec.encode(raw, seen)
            over = bool(end or cut)
        same = over == bool(self.ended[slot]) and np.array_equal(seen, self.observation[slot])
        if same and len(self.actions[slot]) == len(actions):
            return
        self.ended[slot] = True  # the next step resets; the learner sees a cut stream
        self.running_return[slot], self.running_length[slot] = 0.0, 0
        _warn_nondeterministic(self.spec.name)

    def close(self) -> None:
        """Free the environments."""
        for env in self.envs:
            env.close()


_told: set[str] = set()


def _warn_nondeterministic(name: str) -> None:
    """Say once per process and environment that a resume cannot be exact."""
    if name not in _told:
        _told.add(name)
        _log.warning(
            "%s is not deterministic: replaying an episode gave other observations. Its current "
            "episodes start afresh, and a resumed run is not bit-equal.",
            name,
        )


def make_group(config: EnvConfig, spec: EnvSpec, *, seed: int, group: int, size: int) -> Group:
    """A group of `size` environments: natively vectorised where that exists and can be saved.

    The choice depends on the environment and the size alone, so it is the same in every process.
    """
    if size >= _VECTOR_FROM and has_vector_form(config):
        made = VectorGroup(config, spec, seed, group, size)
        if made.adapter is not None and made.env.metadata.get("autoreset_mode") is not None:
            from gymnasium.vector import AutoresetMode

            if made.env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP:
                return made
        made.close()
    return LoopGroup(config, spec, seed, group, size)


def group_sizes(num_envs: int, group_size: int) -> list[int]:
    """Sizes of the groups: all `group_size`, the last one may be smaller."""
    full, rest = divmod(num_envs, group_size)
    return [group_size] * full + ([rest] if rest else [])
