"""Two gloo processes: the engine beside a bare loop with the same flat all-reduce."""

import socket
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from rayloom.data import Dataset
from rayloom_pipelines.benchmarks.engine_sides import CASES, BareSide, EngineSide, take_turns

WORKERS = 2


def _worker(
    rank: int, port: int, case: dict[str, Any], dataset: Dataset, rounds: int, queue: Any
) -> None:
    """Both programs in turns, in step with the other rank."""
    from rayloom.training.collective import TorchCollective

    torch.set_num_threads(1)
    torch.manual_seed(0)  # the bare loop's order of data must agree over the ranks
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORKERS)
    engine = EngineSide(case, dataset, TorchCollective())
    bare = BareSide(case, dataset, dist.all_reduce, rank, WORKERS)
    times = take_turns([engine, bare], block=case["block"], rounds=rounds)
    if rank == 0:
        queue.put(times)
    dist.barrier()
    dist.destroy_process_group()


def compare_workers(
    fashion: Dataset, digits: Dataset, *, rounds: int = 11, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Median milliseconds per step and the median of the paired ratios, per case."""
    datasets = {"fashion-mnist": fashion, "digits": digits}
    rows = []
    for name, case in CASES.items():
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        arguments = (_free_port(), case, datasets[case["data"]], rounds, queue)
        running = multiprocessing.spawn(_worker, args=arguments, nprocs=WORKERS, join=False)
        while not running.join(timeout=1.0):
            pass
        mine, theirs = queue.get()
        row = {
            "case": name,
            "workers": WORKERS,
            "rayloom_ms": statistics.median(mine) * 1e3,
            "bare_ms": statistics.median(theirs) * 1e3,
            "ratio": statistics.median(m / t for m, t in zip(mine, theirs, strict=True)),
        }
        rows.append(row)
        say(
            f"{name:<8} {WORKERS} workers   rayloom {row['rayloom_ms']:8.3f} ms/step   "
            f"bare {row['bare_ms']:8.3f} ms/step   ratio {row['ratio']:.3f}"
        )
    return rows


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
