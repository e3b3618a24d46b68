"""Action-value networks: perceptrons, plain or dueling, in torch and in NumPy.

Dimension key: B observations, D numbers per observation, A actions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rayloom.functional.rl import dueling_q
from rayloom.nn.mlp import MLP
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.policies import NumpyMLP


class QNetwork(nn.Module):
    """Observation (B, *obs_shape) to action values (B, A).

    The dueling form has a linear value head and a linear advantage head on the shared body (Wang
    et al., 2016, give each stream a hidden layer of its own).

    Args:
        spec: The environment's spaces.
        widths: Hidden widths.
        activation: `relu` or `tanh`.
        dueling: Q = V + (A - mean A).
        seed: Of the initial weights; the caller's random state is left alone.
    """

    def __init__(
        self,
        spec: EnvSpec,
        widths: Sequence[int],
        *,
        activation: str = "relu",
        dueling: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dueling = dueling
        out_dim = spec.num_actions + (1 if dueling else 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = MLP(spec.obs_dim, widths, out_dim, activation=activation)

    def forward(self, observation: Shaped[Tensor, "B *obs"]) -> Float[Tensor, "B A"]:
        """Action values; uint8 observations are scaled to [0, 1]."""
        x = observation.flatten(1)
        if x.dtype == torch.uint8:
            x = x.float() / 255.0
        return self.head(self.body(x))

    def head(self, out: Float[Tensor, "B out"]) -> Float[Tensor, "B A"]:
        """Action values from the last layer's output."""
        return dueling_q(out[:, :1], out[:, 1:]) if self.dueling else out

    def linears(self) -> list[nn.Linear]:
        """The linear layers in order."""
        return [layer for layer in self.body if isinstance(layer, nn.Linear)]


class NumpyQ:
    """The same network in NumPy, for acting; float32.

    Args:
        activation: As in `QNetwork`.
        dueling: As in `QNetwork`.
    """

    def __init__(self, *, activation: str, dueling: bool) -> None:
        self.mlp, self.dueling = NumpyMLP("body.", activation), dueling

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights named as in `QNetwork`; views, not copies."""
        self.mlp.load(weights)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """(N, *obs_shape) to (N, A)."""
        out = self.mlp(observation)
        if self.dueling:
            advantage = out[:, 1:]
            return out[:, :1] + advantage - advantage.mean(-1, keepdims=True)
        return out
