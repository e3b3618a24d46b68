"""What the rest of `rl` needs to know of an environment's spaces.

Observations reach policies as arrays of one shape and dtype: float32, or uint8 for pictures (which
stay uint8 in rollouts and replay; networks scale them). Discrete observations become one-hot.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces

from rayloom.core.errors import UserError


@dataclass(frozen=True)
class EnvSpec:
    """Shapes and kinds of one environment, JSON-able by `to_dict`.

    Attributes:
        name: Id of the environment.
        obs_shape: Shape of an encoded observation.
        obs_dtype: `float32` or `uint8`.
        obs_kind: `box` (as it is) or `discrete` and `multi` (one-hot).
        obs_counts: Values per component for `discrete` and `multi`.
        obs_start: Smallest value per component.
        action_kind: `discrete` (int64 scalars from 0) or `box` (float32 arrays).
        num_actions: A, for `discrete`.
        action_start: What action 0 is called in the environment.
        action_shape: Shape of one action; () for `discrete`.
        action_low: Lower bounds, flat; empty for `discrete`.
        action_high: Upper bounds, flat; empty for `discrete`.
    """

    name: str
    obs_shape: tuple[int, ...]
    obs_dtype: Literal["float32", "uint8"] = "float32"
    obs_kind: Literal["box", "discrete", "multi"] = "box"
    obs_counts: tuple[int, ...] = ()
    obs_start: tuple[int, ...] = ()
    action_kind: Literal["discrete", "box"] = "discrete"
    num_actions: int = 0
    action_start: int = 0
    action_shape: tuple[int, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()

    @property
    def obs_dim(self) -> int:
        """Numbers in one encoded observation."""
        return int(np.prod(self.obs_shape))

    @property
    def action_dtype(self) -> type:
        """NumPy type of actions in rollouts."""
        return np.int64 if self.action_kind == "discrete" else np.float32

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `run.json` and messages."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def encode(self, observation: Any, out: np.ndarray) -> None:
        """Write one observation (`out` of shape obs_shape) or N of them (N, *obs_shape)."""
        if self.obs_kind == "box":
            out[...] = observation
            return
        value = np.asarray(observation, np.int64)
        batch = out.shape[: out.ndim - 1]
        value = value.reshape(*batch, len(self.obs_counts)) - np.array(self.obs_start)
        offset = np.concatenate([[0], np.cumsum(self.obs_counts)[:-1]])
        out[...] = 0.0
        np.put_along_axis(out, value + offset, 1.0, axis=-1)

    def to_env(self, action: np.ndarray) -> Any:
        """An action of a policy in the environment's own terms (a scalar slot or a batch)."""
        if self.action_kind == "discrete":
            return action + self.action_start if self.action_start else action
        return action


def make_spec(name: str, observation: Space, action: Space) -> EnvSpec:
    """Read the spaces.

    Raises:
        UserError: A space that no policy of this package can take; says which wrapper helps.
    """
    return EnvSpec(name=name, **_observation(name, observation), **_action(name, action))


def _observation(name: str, space: Space) -> dict[str, Any]:
    if isinstance(space, spaces.Box):
        dtype = "uint8" if space.dtype == np.uint8 else "float32"
        return {"obs_shape": tuple(space.shape) or (1,), "obs_dtype": dtype}
    if isinstance(space, spaces.Discrete):
        n = int(space.n)
        told = {"obs_counts": (n,), "obs_start": (int(space.start),)}
        return {"obs_shape": (n,), "obs_kind": "discrete", **told}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        counts = tuple(int(n) for n in space.nvec)
        start = tuple(int(s) for s in space.start)
        shape = (sum(counts),)
        return {"obs_shape": shape, "obs_kind": "multi", "obs_counts": counts, "obs_start": start}
    if isinstance(space, spaces.MultiBinary):
        shape = (space.n,) if isinstance(space.n, int | np.integer) else tuple(space.n)
        return {"obs_shape": tuple(int(n) for n in shape)}
    hint = ""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        hint = "; the wrapper FlattenObservation makes one vector of it (env.wrappers)"
    raise UserError(
        f"env.name: {name} has observations of the kind {type(space).__name__}; supported: Box, "
        f"Discrete, MultiDiscrete, MultiBinary{hint}"
    )


def _action(name: str, space: Space) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"num_actions": int(space.n), "action_start": int(space.start)}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return {
            "action_kind": "box",
            "action_shape": tuple(space.shape),
            "action_low": tuple(float(v) for v in space.low.reshape(-1)),
            "action_high": tuple(float(v) for v in space.high.reshape(-1)),
        }
    raise UserError(
        f"env.name: {name} has actions of the kind {type(space).__name__}; supported: Discrete and "
        "Box of floats"
    )
