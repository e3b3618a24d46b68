"""A model, the players that it consists of, and what passes between it and the engine.

Dimension key: B examples of a slice, N examples of the global batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from rayloom.core.noise import Noise
from rayloom.core.protocols.data import Batch


class Turn(NamedTuple):
    """Where a run stands when a player acts. Python values: reading them waits for nothing.

    Attributes:
        grad_step: Number of the round, from 0.
        player_step: Number of this player's step, from 0: what schedules of its own count.
        repeat: Which of its steps within the round, from 0.
        player: Name of the player.
        epoch: Passes over the training split that are complete, before this batch.
        epoch_ends: Whether this batch is the last one of its epoch.
        horizon: grad_steps of the budget at the first start.
    """

    grad_step: int = 0
    player_step: int = 0
    repeat: int = 0
    player: str = "model"
    epoch: int = 0
    epoch_ends: bool = False
    horizon: int = 1


class Sum:
    """A part of a loss or of an evaluation that is added up: over chunks, over ranks.

    In training it is read after the backward pass, so that it may hold what hooks gathered from
    gradients; `done.sums[name]` is the sum over the global batch, float64. In an evaluation it is
    added over the batches of the split as well.

    Args:
        value: Of any shape, the same at every step.
    """

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Carry:
    """Memory of the rows: comes back with the next batch as `batch["memory.<name>"]`.

    Args:
        value: (B, ...), of the shape that the model's `memory` gives.
    """

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Rows:
    """A part of an evaluation that is kept example by example, for `summarise`.

    Args:
        value: (B, ...).
    """

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


Part = Tensor | tuple[Tensor, Tensor] | Sum | Carry | Rows
Parts = Mapping[str, Part]


Move = Callable[[Tensor, Tensor, tuple[nn.Parameter, ...]], None]


class Done:
    """What a finished step tells `after_step`, and a finished evaluation `summarise`.

    Nothing is computed before it is asked for.

    Args:
        turn: Which step it was.
        means: Makes `means`.
        sums: The `Sum`s by part, float64, equal on every rank.
        rng: Makes `rng`.
        rows: The `Rows` of an evaluation by part, (n, ...) each in the order of the split.
        move: Reorders rows of parameters; None: nothing here has any.
    """

    def __init__(
        self,
        turn: Turn,
        *,
        means: Callable[[], Mapping[str, Tensor]],
        sums: Mapping[str, Tensor],
        rng: Callable[[], Noise],
        rows: Mapping[str, Tensor] | None = None,
        move: Move | None = None,
    ) -> None:
        self.turn = turn
        self.sums: Mapping[str, Tensor] = sums
        self.rows: Mapping[str, Tensor] = rows or {}
        self._means, self._rng, self._move = means, rng, move

    @cached_property
    def means(self) -> Mapping[str, Tensor]:
        """Mean of each part over the global batch (or the split), scalar tensors."""
        return self._means()

    @cached_property
    def rng(self) -> Noise:
        """Noise of the whole global batch, of its own names: its draws are equal on every rank."""
        return self._rng()

    def move_rows(self, source: Tensor, fresh: Tensor, *parameters: nn.Parameter) -> None:
        """Reorder rows of parameters in place; the optimizer's moments and the averages follow.

        Args:
            source: int64 (capacity,), the row that each row takes its values from.
            fresh: bool (capacity,), rows that begin anew: with zero moments, and with an average
                that is their value when `after_step` returns.
            parameters: (capacity, ...) each, of the player that has just stepped.

        Raises:
            ValueError: They are not its, or nothing has stepped.
        """
        if self._move is None:
            raise ValueError("move_rows belongs to after_step of a player with parameters")
        self._move(source, fresh, parameters)


@dataclass(frozen=True)
class Group:
    """Some parameters of a player with a rate and a count of steps of their own.

    Attributes:
        parameters: Which; groups of a player are disjoint.
        active: Whether they take part in a step; None: always. Asleep they are untouched, bit for
            bit, and their first step is a first step, whenever it comes.
    """

    parameters: Sequence[nn.Parameter]
    active: Callable[[Turn], bool] | None = None


@dataclass
class Player:
    """One part of a model that acts on its own. A VAE has one, a GAN two.

    Attributes:
        name: Key of its optimizer section and of its loss parts.
        parameters: The parameters that its optimizer moves; players are disjoint. None at all:
            nothing is differentiated, and `after_step` is the update (counting, closed forms).
        loss: Its own loss, a bound method; None: the model's `loss`.
        groups: Subsets of `parameters` by name.
        every: Acts on one of so many grad_steps (rounds).
        repeats: Steps within a round, each on a fresh batch (n_critic of WGAN).
        fresh: Whether it takes new batches; False: the batch and the noise of the player before.
    """

    name: str
    parameters: Sequence[nn.Parameter] = ()
    loss: Callable[..., dict[str, Part]] | None = None
    groups: Mapping[str, Group] = field(default_factory=dict)
    every: int = 1
    repeats: int = 1
    fresh: bool = True


@runtime_checkable
class Model(Protocol):
    """A module that owns its objective. See docs/architecture.md, 'Model'.

    Constructed as `cls(config, spec)` with `config_class` naming the config's type; as
    `cls(config, spec, stages=stages)` where that has fields of type `RunReference`: the frozen
    models of those runs, by field. Knows nothing of devices, Ray, MLflow, YAML or files. What else
    it may have is listed in `OPTIONAL`.
    """

    config_class: ClassVar[type]

    @property
    def players(self) -> tuple[Player, ...]:
        """The parts that act, in the order in which they act in a round."""
        ...

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """`{"loss": (B,), named parts: (B,)}`; the engine divides by the global count.

        A masked part is a pair (sums (B,), counts (B,)) and is divided by the global count sum.
        `Sum` and `Carry` are there for what is no mean over examples.
        """
        ...


# What a model may have beside the above, found by name, and what stands for it where it is absent.
OPTIONAL: dict[str, str] = {
    "task": "generative (on the class; a word of core.tasks)",
    "metrics": "nothing but the shared keys has a direction (on the class; core.declared)",
    "default_metric": "what is usual for its task; None keeps the last checkpoint",
    "example() -> (config, arrays)": "checks need settings and data from elsewhere",
    "capabilities": "those of the methods that it has (catalogue.described)",
    "after_step(done)": "nothing follows a step",
    "reads": "batches hold every field (on the class)",
    "memory(num) -> Batch": "rows carry nothing from batch to batch",
    "initialise(batch, *, rng)": "the first weights are those of the constructor",
    "evaluate_batch(batch, *, rng) -> parts": "the loss is the metric (one player, no memory)",
    "summarise(done) -> {metric: value}": "metrics are means over examples",
    "nll(batch, *, num_samples, rng) -> (B,)": "evaluation.metrics has no nll",
    "show(batch, *, rng) -> {name: Media}": "nothing to see",
    "exports() -> {name: Export}": "nothing is registered beside the weights",
    "operations such as sample; see protocols.operation": "nothing to do with it",
    "protocol": "nats are not qualified",
    "double_backward": "False: networks may be compiled",
}
