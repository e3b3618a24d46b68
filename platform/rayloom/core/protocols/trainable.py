"""What the driver drives, its state, where its results go, and what workers share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

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


# What a trainable may have beside the above, found by name, and what stands for it if it has not.
OPTIONAL: dict[str, str] = {
    "default_metrics": "core.declared.USUAL: what best means, the first that an evaluation has",
    "metrics": "the shared table alone gives directions",
    "show_at": "evaluation: it is shown at every one (end: once, when the run is over)",
    "decide() -> str | None": "nothing is left to measuring",
    "close()": "nothing to free",
}


def parameters_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in name order."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
