"""The contract of every distribution here.

Dimension key: `*batch` batch axes, then the event axes (all of them summed in `log_prob`).
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from rayloom.core.noise import Noise


@runtime_checkable
class Distribution(Protocol):
    """A distribution over one example, batched.

    Unlike torch's own: no argument validation on the hot path, noise from `core.noise.Noise`
    instead of a global generator, and `log_prob` always sums all event axes.
    """

    @property
    def mean(self) -> Tensor:
        """E[x], shape (*batch, *event)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats per example, shape (*batch,); x may lack leading batch axes."""
        ...

    def sample(self, rng: Noise, name: str) -> Tensor:
        """A draw, shape (*batch, *event), for one batch axis whose rows are those of `rng`."""
        ...
