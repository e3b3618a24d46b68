"""Ranks as threads of this process: the laws of data parallelism without the start of workers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rayloom.config.sections import AdamConfig, EvaluationConfig, RunConfig, TrainConfig
from rayloom.data import make_source
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink


class ThreadCollective:
    """A rank among threads that meet at a barrier."""

    def __init__(self, rank, world, shared):
        self.rank, self.world, self._shared = rank, world, shared

    def _exchange(self, value):
        slots, gate = self._shared
        slots[self.rank] = value
        gate.wait(60)
        everyone = list(slots)
        gate.wait(60)
        return everyone

    def all_reduce(self, tensor):
        everyone = self._exchange(tensor.clone())
        return tensor.copy_(torch.stack(everyone).sum(0))

    def broadcast(self, tensor, source=0):
        return tensor.copy_(self._exchange(tensor.clone())[source])

    def broadcast_json(self, value, source=0):
        return self._exchange(value)[source]

    def barrier(self):
        self._exchange(None)


def on_ranks(world, run):
    """`run(rank, collective)` on every rank; their results in order.

    Build models before: torch's global generator, which draws weights, is shared by threads.
    """
    shared = ([None] * world, threading.Barrier(world))
    with ThreadPoolExecutor(world) as pool:
        jobs = [pool.submit(run, r, ThreadCollective(r, world, shared)) for r in range(world)]
        return [job.result() for job in jobs]


def engine_of(model, dataset, *, batch_size, collective=None, accumulate=1, metrics=()):
    """An engine with Adam on the split `train`, evaluated there too."""
    run = RunConfig(
        optimizer=AdamConfig(lr=1e-2),
        train=TrainConfig(grad_steps=5, log_every=1, accumulate=accumulate),
        evaluation=EvaluationConfig(metrics=list(metrics), importance_samples=3),
    )
    return Engine(
        model,
        run,
        make_source(dataset, "train", batch_size=batch_size, seed=0, shuffle=True),
        make_source(dataset, "train", batch_size=16, seed=0, shuffle=False),
        collective=collective,
    )


def trained(model, dataset, **about):
    """State and metrics after five steps; see `engine_of`."""
    engine = engine_of(model, dataset, **about)
    engine.advance(5, sink=MemorySink(), interrupted=lambda: False)
    return model.state_dict(), engine.evaluate()


def same_after_resume(build, *, batch_size=7):
    """Assert that five steps with a state in between end in the bits of five steps at once.

    Args:
        build: Gives a model and its data set, equal each time.
        batch_size: Of the batches.
    """
    whole, broken, resumed = (engine_of(*build(), batch_size=batch_size) for _ in range(3))
    whole.advance(5, sink=MemorySink(), interrupted=lambda: False)
    broken.advance(2, sink=MemorySink(), interrupted=lambda: False)
    resumed.load_state_dict(broken.state_dict())
    resumed.advance(5, sink=MemorySink(), interrupted=lambda: False)
    theirs = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(theirs[name], value), name
    assert resumed.evaluate() == whole.evaluate()


def same_on_ranks(build, *, batch_size, ranks=2, accumulate=1, metrics=()):
    """Assert that so many ranks train what one process does, in double precision to 1e-9.

    Args:
        build: Gives a model in double precision and its data set, equal each time.
        batch_size: Of the global batch; 1 leaves all ranks but one without an example.
        ranks: How many.
        accumulate: Chunks on the ranks; the one process takes the batch at once.
        metrics: `evaluation.metrics`.
    """
    alone, found = trained(*build(), batch_size=batch_size, metrics=metrics)
    built = [build() for _ in range(ranks)]

    def run(rank, collective):
        return trained(
            *built[rank],
            batch_size=batch_size,
            collective=collective,
            accumulate=accumulate,
            metrics=metrics,
        )

    for state, values in on_ranks(ranks, run):
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert values == pytest.approx(found, rel=1e-9)
