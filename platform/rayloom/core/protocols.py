"""The protocols that upper rooms implement; code against these, never against a sibling room.

Dimension key: B examples of the local slice, N examples of the global batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from rayloom.core.errors import UserError
from rayloom.core.fields import IMAGE_RULE, image_fault
from rayloom.core.noise import Noise

Batch = dict[str, Tensor]  # named fields, uint8 stays uint8; `<field>_mask`, `<field>_length`
Scalars = Mapping[str, float]
Clock = Literal["grad_step", "env_step"]

# A state is a nested dict with string keys. Leaves: Tensor, numpy array, int, float, str, bool,
# None or a list of such; `Chunk` for large immutable arrays that checkpoints share. No pickle.
State = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Immutable arrays stored once and shared by checkpoints (a filled block of replay).

    Attributes:
        key: Content-independent unique name within the run, such as `replay-000012`. The same key
            always means the same bytes.
        arrays: Named arrays; None when it was read lazily and not loaded.
    """

    key: str
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FieldSpec:
    """One named field of a data set.

    Attributes:
        shape: Shape of one example; -1 where it varies (then `<name>_length` accompanies it).
        dtype: Numpy name of the stored type, such as `uint8`.
        kind: What it is: `image` (C, H, W), `label`, `vector`, `tokens`, `audio`, `points`, `mask`.
        num_classes: For labels and tokens: how many values; 0 if not categorical.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str = "vector"
    num_classes: int = 0


@dataclass(frozen=True)
class DataSpec:
    """What a model needs to know of its data to build itself."""

    fields: Mapping[str, FieldSpec]
    name: str = ""

    @property
    def image(self) -> FieldSpec:
        """The field called `image`, shape (C, H, W).

        Raises:
            UserError: The data set has no field of that name, or it holds no pictures.
        """
        field = self.fields.get("image")
        fault = "it has none" if field is None else image_fault(field.shape, field.dtype)
        if field is None or fault:
            have = ", ".join(f"{k} {v.dtype} {v.shape}" for k, v in self.fields.items())
            cure = "take another data.name or model"
            if any(len(v.shape) > 1 for v in self.fields.values()):
                cure = (
                    f"import it as such (`rayloom data import --help`: --kind, --layout), or {cure}"
                )
            raise UserError(
                f"data set {self.name!r} has no field 'image' of pictures ({fault}); it has: "
                f"{have}; {IMAGE_RULE}: {cure}"
            )
        return field


@runtime_checkable
class Collective(Protocol):
    """What N workers share. In process: `rayloom.core.collective.Solo`."""

    rank: int
    world: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place; returns the tensor."""
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """The source's tensor on every rank, in place; returns the tensor."""
        ...

    def broadcast_json(self, value: Any, source: int = 0) -> Any:
        """A JSON-able value of the source on every rank."""
        ...

    def barrier(self) -> None:
        """Wait for every rank."""
        ...


@runtime_checkable
class BatchSource(Protocol):
    """Batches by number: no hidden position, so that the cursor is one integer.

    Batch `b` belongs to epoch `b // batches_per_epoch`. Rank r of R receives the slice
    `slice_of(n, r, R)` of its index list.
    """

    spec: DataSpec
    num_examples: int
    batch_size: int
    batches_per_epoch: int

    def batch(self, number: int, *, rank: int = 0, world: int = 1) -> "LocalBatch":
        """The local slice of global batch `number`."""
        ...


@dataclass
class LocalBatch:
    """A rank's slice of one global batch.

    Attributes:
        fields: Named tensors, first axis B = stop - start; B may be 0.
        total: N, examples in the global batch.
        start: First global row of the slice.
        index: int64 (B,), rows of the data set (identity of the examples).
    """

    fields: Batch
    total: int
    start: int
    index: Tensor

    @property
    def stop(self) -> int:
        """One past the last global row of the slice."""
        return self.start + len(self.index)


def slice_of(total: int, rank: int, world: int) -> tuple[int, int]:
    """Rows of a global batch that belong to a rank: contiguous, sizes differ by at most one."""
    base, extra = divmod(total, world)
    start = rank * base + min(rank, extra)
    return start, start + base + (rank < extra)


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
    methods, found by name: `evaluate_batch`, `sample`, `log_prob`, `elbo`, `encode`, `decode`,
    `reconstruct`, `after_step`.
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

    def pictures(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor]:
        """Images for MLflow, each (K, C, H, W) in [0, 1]; the engine tiles them to a grid."""
        ...

    def export_module(self) -> nn.Module:
        """The tensor-to-tensor part that is registered."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Where results go: the run's journal, a list in tests, nothing on ranks above 0."""

    def scalars(self, step: int, values: Scalars) -> None:
        """Metric points at a clock step."""
        ...

    def image(self, step: int, key: str, pixels: np.ndarray) -> None:
        """One picture: uint8 (H, W, 3) or (H, W)."""
        ...

    def file(self, step: int, key: str, path: Path) -> None:
        """A file that belongs to the run at this step (a video)."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """What the driver drives: the engine, the RL loop, RLlib alike.

    Every rank of a data-parallel run holds one and calls the same methods in the same order.
    """

    clock: Clock

    def position(self) -> int:
        """Where the clock stands."""
        ...

    def progress(self) -> dict[str, int]:
        """All counters: `grad_step`, `env_step`, `epoch` (completed), `episode`, as they apply."""
        ...

    def to_clock(self, unit: str, amount: float) -> int:
        """Clock ticks in `amount` of `epochs`, `grad_steps` or `env_steps`.

        Raises:
            UserError: This trainable does not count that unit.
        """
        ...

    def advance(self, until: int, *, sink: Sink, interrupted: Callable[[], bool]) -> None:
        """Train until the clock reaches at least `until`, sending points to the sink.

        Returns early at a step boundary once `interrupted()` is true on any rank (all ranks
        agree on the step). Calling again goes on as if never interrupted.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Metrics of the current parameters (EMA where it is on); changes no training state."""
        ...

    def show(self, sink: Sink) -> None:
        """Pictures and videos of the current parameters, fixed seeds."""
        ...

    def state_dict(self) -> State:
        """All state; every rank may call it and rank 0's is the one that is kept."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Go back to a state; the run goes on bit-equal."""
        ...

    def parameters_sha256(self) -> str:
        """Hash of all parameters and buffers, in name order."""
        ...


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


def parameters_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in name order."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
