"""`rayloom bench engine`: what the engine costs over a bare PyTorch loop, and beside peers.

The same VAE (same modules, same start), the same uint8 images, batch, AdamW, gradient clipping,
moving average and logging on every side; data order shuffled per epoch. The bare loop is written by
hand with torch's own fused optimizer and foreach operations: what a careful person would write. The
sides take turns in short blocks, and figures are medians over blocks, so that a noisy machine hits
all of them alike.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from rayloom.config.sections import DataConfig
from rayloom.data import Dataset, open_dataset
from rayloom_pipelines.benchmarks.engine_peers import compare_peers
from rayloom_pipelines.benchmarks.engine_sides import (
    CASES,
    BareSide,
    EngineSide,
    Side,
    take_turns,
)
from rayloom_pipelines.benchmarks.engine_workers import compare_workers

BAR_RATIO, BAR_MICROSECONDS = 1.05, 30.0


def compare(name: str, case: dict[str, Any], dataset: Dataset, *, rounds: int) -> dict[str, Any]:
    """Engine and bare loop on one case."""
    engine, bare = EngineSide(case, dataset), BareSide(case, dataset)
    mine, theirs = take_turns([engine, bare], block=case["block"], rounds=rounds)
    return _row(name, engine, bare, mine, theirs) | {"batch_size": case["batch_size"]}


def _row(
    name: str, engine: Side, bare: Side, mine: list[float], theirs: list[float]
) -> dict[str, Any]:
    """Medians, the median of the paired ratios, and both losses."""
    pairs = list(zip(mine, theirs, strict=True))
    return {
        "case": name,
        "rayloom_ms": statistics.median(mine) * 1e3,
        "bare_ms": statistics.median(theirs) * 1e3,
        "ratio": statistics.median(m / t for m, t in pairs),
        "overhead_us": statistics.median(m - t for m, t in pairs) * 1e6,
        "rounds": len(pairs),
        "rayloom_loss": engine.loss(),
        "bare_loss": bare.loss(),
    }


def run(
    json: bool = False,
    *,
    rounds: int = 21,
    peers: bool = True,
    workers: bool = True,
    data: DataConfig | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure, and say a table.

    Args:
        json: Say nothing; the caller prints the returned dict.
        rounds: Blocks per side.
        peers: Also PyTorch Lightning and pythae, as far as they are installed.
        workers: Also two gloo processes beside a bare loop with the same all-reduce.
        data: Section `data` of the conv case; None: Fashion-MNIST in the user's data folder.
        say: Told one line at a time.

    Returns:
        `threads`, `rows` (engine against the bare loop), `peers`, `workers`, `bars`.
    """
    tell = (lambda line: None) if json else say
    fashion = open_dataset(data or DataConfig(name="fashion-mnist"))
    datasets = {"fashion-mnist": fashion, "digits": open_dataset(DataConfig(name="digits"))}
    tell(f"engine against a bare loop, {torch.get_num_threads()} thread(s), {rounds} blocks each")
    rows = []
    for name, case in CASES.items():
        rows.append(compare(name, case, datasets[case["data"]], rounds=rounds))
        tell(_line(rows[-1]))
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "rows": rows}
    result["bars"] = {
        "conv": rows[0]["ratio"] <= BAR_RATIO and rows[0]["bare_ms"] >= 5,
        "tiny": rows[1]["overhead_us"] <= BAR_MICROSECONDS,
    }
    if peers:
        result["peers"] = compare_peers(fashion, say=tell)
    if workers:
        result["workers"] = compare_workers(fashion, datasets["digits"], say=tell)
    return result


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['case']:<14} rayloom {row['rayloom_ms']:8.3f} ms/step   bare {row['bare_ms']:8.3f} "
        f"ms/step   ratio {row['ratio']:.3f}   overhead {row['overhead_us']:+7.1f} us   "
        f"loss {row['rayloom_loss']:.2f} / {row['bare_loss']:.2f}"
    )
