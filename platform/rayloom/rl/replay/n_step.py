"""From rollouts to n-step transitions, across the borders of rounds.

Dimension key: T vector steps, N environments of the group, M transitions.
"""

import numpy as np
import torch

from rayloom.core.protocols import State
from rayloom.functional.rl import n_step_transitions
from rayloom.rl.replay.buffer import Transitions
from rayloom.rl.rollout import Rollout

_FIELDS = ("action", "reward", "terminated", "truncated", "valid")


class NStepStream:
    """The transitions of one group, each handed out once, when its window is complete.

    The last n - 1 steps of a round wait for the next round.

    Args:
        n: Window.
        gamma: Discount per environment step.
    """

    def __init__(self, n: int, gamma: float) -> None:
        self.n, self.gamma = n, gamma
        self._tail: dict[str, np.ndarray] | None = None  # n - 1 steps or fewer, no observation[-1]

    def push(self, rollout: Rollout) -> Transitions:
        """The transitions that this rollout completes, by time, then slot; leading axis M."""
        rows = {name: getattr(rollout, name) for name in _FIELDS}
        observation = rollout.observation  # (T + 1, N, ...)
        if self._tail is not None:
            rows = {name: np.concatenate([self._tail[name], rows[name]]) for name in _FIELDS}
            observation = np.concatenate([self._tail["observation"], observation])
        steps = len(rows["reward"])
        starts = max(0, steps - self.n + 1)
        if self.n > 1:
            waiting = slice(starts, steps)
            self._tail = {name: rows[name][waiting].copy() for name in _FIELDS}
            self._tail["observation"] = observation[waiting].copy()
        if starts == 0:
            none = np.zeros((0, *observation.shape[2:]), observation.dtype)
            empty = np.zeros(0, np.float32)
            action = rows["action"]
            return Transitions(none, none, action[:0].reshape(0, *action.shape[2:]), empty, empty)
        result = n_step_transitions(
            torch.from_numpy(rows["reward"]),
            torch.from_numpy(rows["terminated"]),
            torch.from_numpy(rows["truncated"]),
            torch.from_numpy(rows["valid"]),
            gamma=self.gamma,
            n=self.n,
        )
        valid = rows["valid"][:starts]
        t, slot = np.nonzero(valid)
        later = t + result.span.numpy()[valid]
        return Transitions(
            observation[t, slot],
            observation[later, slot],
            rows["action"][t, slot],
            result.reward.numpy()[valid],
            result.discount.numpy()[valid],
        )

    def state_dict(self) -> State:
        """The waiting steps."""
        return {} if self._tail is None else {name: a.copy() for name, a in self._tail.items()}

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        self._tail = {name: np.array(a) for name, a in state.items()} if state else None
