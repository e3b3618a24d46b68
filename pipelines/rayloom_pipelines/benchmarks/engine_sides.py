"""The two programs that `rayloom bench engine` compares, and how they take turns.

Both train the same VAE on the same batches. The bare loop is what a careful person writes by hand:
torch's own fused optimizer and foreach operations.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rayloom.config.sections import (
    AdamWConfig,
    EMAConfig,
    RunConfig,
    TrainConfig,
)
from rayloom.core.protocols import DataSpec, slice_of
from rayloom.data import Dataset, make_source
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink

LR, CLIP, DECAY, LOG_EVERY = 1e-3, 1.0, 0.999, 50

CASES: dict[str, dict[str, Any]] = {
    "conv": {
        "model": {"network": "conv", "latent_dim": 16},
        "data": "fashion-mnist",
        "batch_size": 128,
        "block": 25,
    },
    "tiny": {
        "model": {"network": "mlp", "widths": (32,), "latent_dim": 4},
        "data": "digits",
        "batch_size": 32,
        "block": 400,
    },
}


class Side(Protocol):
    """One of the programs that are compared."""

    def block(self, steps: int) -> float:
        """Take so many training steps; returns the seconds they took."""
        ...

    def loss(self) -> float:
        """Mean loss over the last log interval, to see that all sides learn alike."""
        ...


def make_model(spec: DataSpec, settings: dict[str, Any]) -> VAE:
    """The VAE of a case; the same weights at every call."""
    config = VAEConfig(
        likelihood={"name": "bernoulli", "binarise": "threshold"},  # type: ignore[arg-type]
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(config, spec)


class EngineSide:
    """rayloom's engine."""

    name = "rayloom"

    def __init__(self, case: dict[str, Any], dataset: Dataset, collective: Any = None) -> None:
        train = TrainConfig(
            grad_steps=10**7,
            clip_norm=CLIP,
            ema=EMAConfig(decay=DECAY, warmup=False),
            log_every=LOG_EVERY,
        )
        config = RunConfig(optimizer=AdamWConfig(lr=LR), train=train)
        source = make_source(dataset, "train", batch_size=case["batch_size"], seed=0, shuffle=True)
        model = make_model(dataset.spec, case["model"])
        self.engine = Engine(model, config, source, None, collective=collective)
        self.sink = MemorySink()

    def block(self, steps: int) -> float:
        """Take so many steps."""
        start = time.perf_counter()
        until = self.engine.position() + steps
        self.engine.advance(until, sink=self.sink, interrupted=_never)
        return time.perf_counter() - start

    def loss(self) -> float:
        """Of the last log point."""
        return self.sink.history("loss/total")[-1][1]


def _never() -> bool:
    return False


def elbo_terms(model: VAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL per image, written out by hand; (B,) each, nats."""
    x = (pixels > 127).float()
    mean, log_std = model.posterior.linear(model.encoder(x)).chunk(2, dim=1)
    log_std = log_std.clamp(-7.0, 2.0)
    z = mean + log_std.exp() * torch.randn_like(mean)
    logits = model.decoder(z)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1.0) - log_std
    return reconstruction.flatten(1).sum(1), kl.sum(1)


class BareSide:
    """The loop that a careful person writes: no framework, fused AdamW, foreach everywhere.

    Args:
        case: Settings.
        dataset: Where the images come from; they are held as one uint8 tensor.
        reduce: Sums a flat gradient over the workers, in place; None: one process.
        rank: Of this worker.
        world: Workers; each takes its slice of the global batch.
    """

    name = "bare loop"

    def __init__(
        self,
        case: dict[str, Any],
        dataset: Dataset,
        reduce: Callable[[Tensor], Any] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        split = dataset.split("train")
        self.images = split.take(torch.arange(len(split)))["image"].clone()
        self.model = make_model(dataset.spec, case["model"])
        self.batch_size, self.reduce, self.rank, self.world = (
            case["batch_size"],
            reduce,
            rank,
            world,
        )
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LR, weight_decay=0.0, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.order = torch.zeros(0, dtype=torch.int64)
        self.place, self.step = 0, 0
        self.sums = torch.zeros(3)
        self.logged: list[list[float]] = []

    def block(self, steps: int) -> float:
        """Take so many steps."""
        start = time.perf_counter()
        images, size, optimizer = self.images, self.batch_size, self.optimizer
        for _ in range(steps):
            if self.place >= len(self.order):
                self.order, self.place = torch.randperm(len(images)), 0
            index = self.order[self.place : self.place + size]
            self.place += size
            total = len(index)
            if self.world > 1:
                first, last = slice_of(total, self.rank, self.world)
                index = index[first:last]
            reconstruction, kl = elbo_terms(self.model, images[index])
            loss = (reconstruction.sum() + kl.sum()) / total
            optimizer.zero_grad()
            loss.backward()
            if self.reduce is not None:
                self._reduce()
            norm = nn.utils.clip_grad_norm_(self.parameters, CLIP)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - DECAY)
                parts = (reconstruction.detach().mean(), kl.detach().mean(), norm)
                self.sums.add_(torch.stack(parts))
            self.step += 1
            if self.step % LOG_EVERY == 0:
                self.logged.append((self.sums / LOG_EVERY).tolist())
                self.sums.zero_()
        return time.perf_counter() - start

    def _reduce(self) -> None:
        """One flat all-reduce, as torch's own utilities do it."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch._utils._flatten_dense_tensors(grads)
        assert self.reduce is not None
        self.reduce(flat)
        torch._foreach_copy_(grads, torch._utils._unflatten_dense_tensors(flat, grads))

    def loss(self) -> float:
        """Of the last log point."""
        reconstruction, kl, _ = self.logged[-1]
        return reconstruction + kl


def take_turns(sides: list[Side], *, block: int, rounds: int) -> list[list[float]]:
    """Seconds per step of every side in every round; the order within a round alternates."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side.block(max(block, LOG_EVERY))  # warm-up, and a first log point
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            times[place].append(sides[place].block(block) / block)
    return times
