"""What an algorithm is: a config, a policy that acts, and a learner that updates.

The loop (`rl.loop`) knows nothing of the method. It collects a round with the settings that the
config names, hands the rollouts to the learner and asks it for new weights. On-policy and
off-policy methods differ inside `update` only. To add one: a config class derived from
`AlgorithmConfig`, a class with the methods of `Learner`, and a catalogue entry (or a plugin).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import AdamWConfig, Config, PositiveInt, ScheduleConfig
from rayloom.core.protocols import State
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.policies import Policy
from rayloom.rl.rollout import Rollout


class AlgorithmConfig(Config):
    """Base of every algorithm's section."""

    round_env_steps: PositiveInt = Field(
        256, description="environment steps per round: collected with one set of weights"
    )

    def acting(self, env_step: int) -> dict[str, Any]:
        """Settings of the policy for a round that starts at `env_step`, such as epsilon.

        The loop calls it, not the actors, so that all groups act alike.
        """
        return {}

    def grad_steps(self, env_step: int) -> int:
        """Gradient steps after so many environment steps, for schedules and budgets; 0: unknown."""
        return 0


@dataclass(frozen=True)
class LearnerContext:
    """All that a learner is built from.

    Attributes:
        config: The `algorithm` section, of the learner's `config_class`.
        spec: The environment's spaces.
        seed: Seed of the run; derive streams from it by name (`core.seeding`).
        optimizer: Section `optimizer`.
        schedule: Section `train.schedule`.
        clip_norm: `train.clip_norm`.
        horizon_env_steps: Budget fixed at the first start: where schedules end.
        device: Where the networks live.
    """

    config: Any
    spec: EnvSpec
    seed: int = 0
    optimizer: Config = field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_norm: float | None = None
    horizon_env_steps: int = 100_000
    device: str = "cpu"


@runtime_checkable
class Learner(Protocol):
    """Owns parameters, optimizer, loss, update and, off-policy, the replay. Pure torch."""

    config_class: ClassVar[type[AlgorithmConfig]]
    grad_step: int

    def __init__(self, context: LearnerContext) -> None: ...

    @staticmethod
    def make_policy(config: Any, spec: EnvSpec) -> Policy:
        """The acting side, without weights; collectors call this in their own process."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """What `Policy.load` takes; views, not copies."""
        ...

    def update(self, rollouts: Sequence[Rollout], *, env_step: int) -> dict[str, float]:
        """Use one round (rollouts in the order of their groups).

        Args:
            rollouts: Experience of every group.
            env_step: The clock after this round.

        Returns:
            Metrics of the round, such as `loss/td`; deterministic ones.
        """
        ...

    def parameters(self) -> Mapping[str, Tensor]:
        """All parameters and buffers by name, target networks included: what is hashed."""
        ...

    def export_module(self) -> nn.Module:
        """Observation (B, *obs_shape) to action values or logits (B, A): what is registered."""
        ...

    def state_dict(self) -> State:
        """Everything: parameters, optimizer, replay, random streams, counters."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Back to a state; the run goes on bit-equal."""
        ...
