"""A rollout: what one environment group lived through in a round, as a struct of arrays.

Dimension key: T vector steps, N environments of the group.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Rollout:
    """Experience of one group; NumPy arrays, time first.

    Where `valid` is False the environment spent the step on resetting itself (Gymnasium's
    next-step autoreset): such a step is not counted and not learnt from. Hence the observation
    after *every* valid step t, the last one of an episode included, is `observation[t + 1]`.

    Attributes:
        group: Number of the group.
        observation: (T + 1, N, *obs_shape), float32 or uint8.
        action: (T, N, *action_shape).
        reward: (T, N) float32; 0 where invalid.
        terminated: (T, N) bool: the episode ended for good.
        truncated: (T, N) bool: a time limit cut it.
        valid: (T, N) bool.
        extras: What the policy noted for the learner, (T, N, ...), such as `log_prob`.
        episode_return: Undiscounted returns of the episodes that ended here, float64 (E,).
        episode_length: Their lengths in environment steps, int64 (E,).
    """

    group: int
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    episode_return: np.ndarray = field(default_factory=lambda: np.zeros(0))
    episode_length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def env_steps(self) -> int:
        """Environment steps in it: valid ones only."""
        return int(np.count_nonzero(self.valid))

    @property
    def ended(self) -> np.ndarray:
        """(T, N) bool: the last step of an episode, for either reason."""
        return self.terminated | self.truncated
