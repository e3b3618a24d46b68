"""Drawing samples on Ray workers: the same ones as in one process."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.catalogue.plugins import load_plugins, paths_of
from rayloom.records.record import plain
from rayloom_pipelines.facade import Run
from rayloom_pipelines.load.sample import CHUNK, draw, write


def sample_worker(payload: dict[str, Any], collective: Any) -> dict[str, Any]:
    """What each worker of `rayloom sample --workers N` runs: its blocks, to a file of its own."""
    load_plugins(payload["plugins"], remember=False)
    model = Run(payload["run"])._model(payload["which"])
    blocks = -(-payload["num"] // CHUNK)
    base, extra = divmod(blocks, collective.world)
    first = collective.rank * base + min(collective.rank, extra)
    last = first + base + (collective.rank < extra)
    start, stop = first * CHUNK, min(last * CHUNK, payload["num"])
    if stop > start:
        part = draw(model, stop - start, seed=payload["seed"], start=start)
        write(part, Path(payload["parts"]) / f"{collective.rank:06d}.npy")
    collective.barrier()
    return {}


def draw_on_workers(run: Any, num: int, *, seed: int, which: Any, workers: int) -> torch.Tensor:
    """The same samples as `draw`, from N Ray workers; the run must lie on shared storage."""
    from rayloom.distributed.train import run_workers

    with tempfile.TemporaryDirectory(prefix=".sampling-", dir=run.path) as parts:
        payload = {
            "run": str(run.path),
            "num": num,
            "seed": seed,
            "which": which,
            "parts": parts,
            "plugins": paths_of(plain(run.record.plugins)),
        }
        entry = "rayloom_pipelines.load.sample_workers:sample_worker"
        run_workers(entry, payload, workers=workers)
        files = sorted(Path(parts).glob("*.npy"))
        return torch.from_numpy(np.concatenate([np.load(file) for file in files]))
