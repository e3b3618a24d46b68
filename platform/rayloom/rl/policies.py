"""Policies: the acting side of an algorithm, in NumPy and without gradients.

Dimension key: N environments of a group, A actions.

A learner trains torch modules; collectors, evaluation and videos act through a `Policy`, which
reads the same weights as NumPy views. For the small perceptrons of control tasks this is several
times faster than calling torch once per environment step.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from rayloom.rl.envs.spaces import EnvSpec

Extras = dict[str, np.ndarray]


@runtime_checkable
class Policy(Protocol):
    """Observation to action. One object serves one group at a time; it keeps no memory."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the learner's behaviour weights (they may be views that change later)."""
        ...

    def act(
        self, observation: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
    ) -> tuple[np.ndarray, Extras]:
        """Behaviour actions (N, ...) and what the learner wants to keep, each (N, ...).

        Args:
            observation: Encoded observations (N, *obs_shape).
            rng: The group's random stream.
            settings: What the algorithm's config says for this round, such as `epsilon`.
        """
        ...

    def best(self, observation: np.ndarray) -> np.ndarray:
        """Greedy actions (N, ...)."""
        ...


class NumpyMLP:
    """Forward pass of an `nn.MLP` with relu or tanh, float32.

    Args:
        prefix: Prefix of the layers' names in the weights, such as `body.`.
        activation: `relu` or `tanh`.
    """

    def __init__(self, prefix: str, activation: str) -> None:
        self.prefix, self.activation = prefix, activation
        self.layers: list[tuple[np.ndarray, np.ndarray]] = []

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Read `{prefix}{i}.weight` (out, in) and `.bias` in the order of their numbers."""
        start = len(self.prefix)
        numbers = sorted(
            int(name[start:].split(".")[0])
            for name in weights
            if name.startswith(self.prefix) and name.endswith(".weight")
        )
        self.layers = [
            (
                weights[f"{self.prefix}{i}.weight"].detach().cpu().numpy().T,
                weights[f"{self.prefix}{i}.bias"].detach().cpu().numpy(),
            )
            for i in numbers
        ]

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """(N, *obs_shape) to (N, out_dim); uint8 is scaled to [0, 1]."""
        h = observation.reshape(len(observation), -1)
        if h.dtype == np.uint8:
            h = h.astype(np.float32) / np.float32(255.0)
        last = len(self.layers) - 1
        for i, (weight, bias) in enumerate(self.layers):
            h = h @ weight
            h += bias
            if i < last:
                if self.activation == "relu":
                    np.maximum(h, 0.0, out=h)
                else:
                    np.tanh(h, out=h)
        return h


class EpsilonGreedy:
    """A random action with probability epsilon, else the action of the largest value.

    Args:
        values: Observation (N, *obs_shape) to action values (N, A); has `load`.
        num_actions: A.
    """

    def __init__(self, values: "ActionValues", num_actions: int) -> None:
        self.values, self.num_actions = values, num_actions

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights."""
        self.values.load(weights)

    def act(
        self, observation: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
    ) -> tuple[np.ndarray, Extras]:
        """Two uniform numbers per environment: whether to explore, and with which action."""
        u = rng.random((2, len(observation)))
        random_action = (u[1] * self.num_actions).astype(np.int64)
        explore = u[0] < settings["epsilon"]
        if explore.all():
            return random_action, {}
        return np.where(explore, random_action, self.best(observation)), {}

    def best(self, observation: np.ndarray) -> np.ndarray:
        """argmax_a Q; the lowest number wins a tie."""
        return self.values(observation).argmax(-1)


@runtime_checkable
class ActionValues(Protocol):
    """What `EpsilonGreedy` needs."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights."""
        ...

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """(N, *obs_shape) to (N, A)."""
        ...


class Categorical:
    """Samples from softmax(logits) and notes `log_prob`; for policy-gradient learners.

    Args:
        logits: Observation to unnormalised log probabilities (N, A); has `load`.
    """

    def __init__(self, logits: ActionValues) -> None:
        self.logits = logits

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights."""
        self.logits.load(weights)

    def act(
        self, observation: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
    ) -> tuple[np.ndarray, Extras]:
        """Inversion of the cumulative probabilities with one uniform number per environment."""
        z = self.logits(observation).astype(np.float64)
        z -= z.max(-1, keepdims=True)
        log_prob = z - np.log(np.exp(z).sum(-1, keepdims=True))
        cumulative = np.exp(log_prob).cumsum(-1)
        u = rng.random((len(z), 1)) * cumulative[:, -1:]
        action = np.minimum((cumulative <= u).sum(-1), z.shape[-1] - 1)
        taken = np.take_along_axis(log_prob, action[:, None], 1)[:, 0]
        return action, {"log_prob": taken.astype(np.float32)}

    def best(self, observation: np.ndarray) -> np.ndarray:
        """The most probable action."""
        return self.logits(observation).argmax(-1)


class RandomPolicy:
    """Uniform actions; what learners are compared with.

    Args:
        spec: The environment; boxes must be bounded.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Nothing to take."""

    def act(
        self, observation: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
    ) -> tuple[np.ndarray, Extras]:
        """Uniform over the action space."""
        n = len(observation)
        if self.spec.action_kind == "discrete":
            return rng.integers(0, self.spec.num_actions, n), {}
        low, high = np.array(self.spec.action_low), np.array(self.spec.action_high)
        flat = rng.uniform(low, high, (n, len(low))).astype(np.float32)
        return flat.reshape(n, *self.spec.action_shape), {}

    def best(self, observation: np.ndarray) -> np.ndarray:
        """It has no best action.

        Raises:
            ValueError: Always; evaluate it with `greedy=False`.
        """
        raise ValueError("a random policy has no greedy action; evaluate it with greedy=False")
