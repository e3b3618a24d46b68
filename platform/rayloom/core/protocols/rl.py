"""What an RL loop is made of: who collects groups of environments, who updates the learner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rayloom.core.protocols.trainable import State


@dataclass
class GroupTask:
    """One environment group's share of a round."""

    group: int
    steps: int  # vector steps to take
    state: State  # environments, random stream, episode accounting
    weights_version: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # such as epsilon, known to the driver


@runtime_checkable
class Collector(Protocol):
    """Collects rounds of experience, in process or on actors that own whole groups."""

    def collect(self, weights: Mapping[str, Tensor], tasks: Sequence[GroupTask]) -> list[Any]:
        """One (rollout, new group state) per task, in the tasks' order, whatever the order of work.

        A group whose actor died is collected again from the same state.
        """
        ...

    def close(self) -> None:
        """Free the actors."""
        ...


@runtime_checkable
class Updater(Protocol):
    """Owns the learner, in process or in a learner actor."""

    def update(self, rollouts: Sequence[Any]) -> dict[str, float]:
        """Use one round; returns its metrics (deterministic ones)."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """Behaviour weights for collectors."""
        ...

    def state_dict(self) -> State:
        """The learner's whole state, replay included."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        ...

    def close(self) -> None:
        """Free the actor."""
        ...


# What an updater may have beside the above, found by name, and what stands for it if it has not.
OPTIONAL: dict[str, str] = {
    "grad_step() -> int": "the algorithm's own count (AlgorithmConfig.grad_steps)",
    "parameters() -> {name: Tensor}": "the weights that collectors get",
}
