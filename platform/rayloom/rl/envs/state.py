"""Saving and restoring environments exactly, where that is possible.

An adapter knows how to read and write the inner state of one family of environments, the random
stream and the time limit included. Where none fits, `groups` replays the current episode instead
(the Arcade Learning Environment among them: its restored states draw other pictures at first).
States hold only what a checkpoint can: arrays, numbers, text and nested dicts of these.
"""

import json
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from rayloom.core.protocols import State

_STATELESS = (
    "ClipAction",
    "ClipReward",
    "DtypeObservation",
    "FlattenObservation",
    "GrayscaleObservation",
    "RescaleAction",
    "RescaleObservation",
    "ReshapeObservation",
    "ResizeObservation",
)


@runtime_checkable
class Adapter(Protocol):
    """Reads and writes the inner state of one family of (unwrapped) environments."""

    def get(self, env: Any) -> State:
        """The state."""
        ...

    def set(self, env: Any, state: State) -> None:
        """Back to a state."""
        ...


def get_random(generator: np.random.Generator) -> str:
    """The state of a NumPy generator as JSON text (its integers have 128 bits)."""
    return json.dumps(generator.bit_generator.state, default=_array_to_list)


def set_random(generator: np.random.Generator, text: str) -> None:
    """Back to what `get_random` returned."""
    generator.bit_generator.state = json.loads(text)


def _array_to_list(value: Any) -> Any:
    return value.tolist()


class OwnState:
    """Environments that offer `get_state` and `set_state` themselves."""

    def get(self, env: Any) -> State:
        """The state, its `random` part as text."""
        state = dict(env.get_state())
        if isinstance(state.get("random"), dict):
            state["random"] = json.dumps(state["random"], default=_array_to_list)
        return state

    def set(self, env: Any, state: State) -> None:
        """Back to a state."""
        if isinstance(state.get("random"), str):
            state = {**state, "random": json.loads(state["random"])}
        env.set_state(state)


class Attributes:
    """Environments whose state is a handful of attributes and the generator `np_random`."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def get(self, env: Any) -> State:
        """Numeric attributes as arrays; those that are missing or None are left out."""
        state: State = {"random": get_random(env.np_random)}
        for name in self.names:
            value = getattr(env, name, None)
            if value is not None:
                state[name] = np.array(value)
        return state

    def set(self, env: Any, state: State) -> None:
        """Back to a state; scalars become Python numbers again."""
        set_random(env.np_random, state["random"])
        for name in self.names:
            if name in state:
                value = np.array(state[name])
                setattr(env, name, value.item() if value.ndim == 0 else value)
            elif hasattr(env, name):
                setattr(env, name, None)


class Mujoco:
    """Gymnasium's MuJoCo tasks: the integration state, warm start and controls included."""

    def get(self, env: Any) -> State:
        """The full integration state as one vector."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        values = np.empty(mujoco.mj_stateSize(env.model, kind))
        mujoco.mj_getState(env.model, env.data, values, kind)
        return {"integration": values, "random": get_random(env.np_random)}

    def set(self, env: Any, state: State) -> None:
        """Back to a state; derived quantities are computed again."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        values = np.ascontiguousarray(state["integration"], np.float64)
        mujoco.mj_setState(env.model, env.data, values, kind)
        mujoco.mj_forward(env.model, env.data)
        mujoco.mj_setState(env.model, env.data, values, kind)  # forward touched the warm start
        set_random(env.np_random, state["random"])


_CLASSIC = Attributes("state", "steps_beyond_terminated", "last_u")
_TOY_TEXT = Attributes("s", "lastaction", "fickle_step")
_VECTOR_CARTPOLE = Attributes("state", "steps", "prev_done")


def find_adapter(env: gym.Env | gym.vector.VectorEnv) -> Adapter | None:
    """The adapter of an environment, or None if its episode must be replayed."""
    if isinstance(env, gym.vector.VectorEnv):
        if isinstance(env, CartPoleVectorEnv):
            return _VECTOR_CARTPOLE
        return OwnState() if _offers_state(env) else None
    inner = env
    while isinstance(inner, gym.Wrapper):
        known = isinstance(inner, TimeLimit | OrderEnforcing | PassiveEnvChecker)
        if not known and type(inner).__name__ not in _STATELESS:
            return None
        inner = inner.env
    module = type(inner).__module__
    if _offers_state(inner):
        return OwnState()
    if module.startswith("gymnasium.envs.classic_control."):
        return _CLASSIC
    toy = ("frozen_lake", "cliffwalking", "taxi")
    if module in {f"gymnasium.envs.toy_text.{name}" for name in toy}:
        return _TOY_TEXT
    if module.startswith("gymnasium.envs.mujoco.") and module.endswith("_v5"):
        # Tasks whose observations hold contact forces keep numbers from inside the last step.
        return Mujoco() if module.split(".")[-1] in _MUJOCO_EXACT else None
    return None


_MUJOCO_EXACT = {
    "half_cheetah_v5",
    "hopper_v5",
    "inverted_pendulum_v5",
    "swimmer_v5",
    "walker2d_v5",
}


def _offers_state(env: Any) -> bool:
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))


def get_env(env: gym.Env, adapter: Adapter) -> State:
    """State of a wrapped environment: the inner state and the time limit's counter."""
    state = adapter.get(env.unwrapped)
    elapsed = _time_limit(env)
    return {"inner": state, "elapsed": -1 if elapsed is None else int(elapsed._elapsed_steps or 0)}


def set_env(env: gym.Env, adapter: Adapter, state: State) -> None:
    """Back to a state. The environment is reset first, so that its wrappers are in order."""
    env.reset(seed=0)
    adapter.set(env.unwrapped, state["inner"])
    elapsed = _time_limit(env)
    if elapsed is not None:
        elapsed._elapsed_steps = int(state["elapsed"])  # type: ignore[assignment]


def _time_limit(env: gym.Env) -> TimeLimit | None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None
