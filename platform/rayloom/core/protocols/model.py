"""A model, and the players that it consists of: what the engine trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from rayloom.core.noise import Noise
from rayloom.core.protocols.data import Batch


@dataclass
class Player:
    """One optimised part of a model. A VAE has one, a GAN two.

    Attributes:
        name: Key of its optimizer section and of its loss parts.
        parameters: The parameters it owns; players are disjoint.
        every: Acts on one of so many grad_steps (rounds).
        repeats: Steps within a round, each on a fresh batch (n_critic of WGAN).
    """

    name: str
    parameters: Sequence[nn.Parameter]
    every: int = 1
    repeats: int = 1


@runtime_checkable
class Model(Protocol):
    """A module that owns its objective. See docs/architecture.md, 'Model'.

    Constructed as `cls(config, spec)` with `config_class` naming the config's type; as
    `cls(config, spec, stages=stages)` where that has fields of type `RunReference`: the frozen
    models of those runs, by field. Knows nothing of devices, Ray, MLflow, YAML or files. Optional
    methods, found by name: `evaluate_batch`, `log_prob`, `elbo`, `encode`, `decode`, `after_step`,
    `show(batch, *, rng) -> {name: Media}` (see `rayloom.media`), `exports() -> {name: Export}`, and
    operations such as `sample` (see `protocols.operation`).
    """

    config_class: ClassVar[type]

    @property
    def players(self) -> tuple[Player, ...]:
        """The optimised parts, in the order in which they act in a round."""
        ...

    def loss(self, batch: Batch, *, player: str, rng: Noise, step: int) -> dict[str, Tensor]:
        """`{"loss": (B,), named parts: (B,)}`; the engine divides by the global count.

        A masked part is a pair (sums (B,), counts (B,)) and is divided by the global count sum.
        """
        ...
