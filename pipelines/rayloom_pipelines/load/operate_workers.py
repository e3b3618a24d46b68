"""Running an operation on Ray workers: the same rows as in one process."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayloom.catalogue.plugins import load_plugins, paths_of
from rayloom.core.protocols import Batch
from rayloom.records.record import plain
from rayloom_pipelines.load.copies import model_of_run
from rayloom_pipelines.load.operate import find, operate


def operate_worker(payload: dict[str, Any], collective: Any) -> dict[str, Any]:
    """What each worker of `--workers N` runs: its batches, to a file of its own."""
    load_plugins(payload["plugins"], remember=False)
    model = model_of_run(Path(payload["run"]), payload["which"])
    operation = find(model, payload["operation"])
    room = Path(payload["room"])
    made = operate(
        model,
        operation,
        load_file(room / "fields.safetensors"),
        payload["num"],
        settings=operation.settings(**payload["settings"]) if operation.settings else None,
        seed=payload["seed"],
        batch_size=payload["batch_size"],
        part=(collective.rank, collective.world),
    )
    if made:
        save_file(_plain(made), room / f"part-{collective.rank:06d}.safetensors")
    collective.barrier()
    return {}


def on_workers(application: Any, workers: int) -> Batch:
    """The result of an `Application`, from N Ray workers; the run must lie on shared storage."""
    from rayloom.distributed.train import run_workers

    run = application.run
    with tempfile.TemporaryDirectory(prefix=".sampling-", dir=run.path) as room:
        save_file(_plain(application.fields), Path(room) / "fields.safetensors")
        settings = application.settings
        payload = {
            "run": str(run._member().path),
            "which": application.which,
            "operation": application.operation.name,
            "settings": settings.model_dump(mode="json") if settings else {},
            "num": application.num,
            "seed": application.seed,
            "batch_size": application.batch_size,
            "room": room,
            "plugins": paths_of(plain(run.record.plugins)),
        }
        entry = "rayloom_pipelines.load.operate_workers:operate_worker"
        run_workers(entry, payload, workers=workers)
        parts = [load_file(file) for file in sorted(Path(room).glob("part-*.safetensors"))]
    return {name: torch.cat([part[name] for part in parts]) for name in _names(application, parts)}


def _names(application: Any, parts: list[Batch]) -> list[str]:
    """The fields, the main one first: a file keeps no order."""
    first = next(name for name in application.operation.gives or parts[0] if name in parts[0])
    return [first, *(name for name in parts[0] if name != first)]


def _plain(batch: Batch) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in batch.items()}
