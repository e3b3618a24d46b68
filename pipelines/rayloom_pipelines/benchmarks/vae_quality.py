"""Test ELBO and importance-weighted NLL beside pythae: same network, start, data and budget.

Protocol: Fashion-MNIST, grey values binarised at one half (fixed: pythae trains on fixed arrays),
60,000 training and 10,000 test images; MLP 784-512-16-512-784, ReLU; Adam, equal learning rate,
batch and epochs, no schedule; both start from the same weights. Both trained models are scored by
the same code on the same noise: one-sample ELBO, and NLL with K importance samples, nats per image.
As a check on the scoring, pythae's own `get_nll` is run on some images too.
"""

import time
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

import torch

from rayloom.config.sections import AdamConfig, DataConfig, EvaluationConfig, TrainConfig
from rayloom.core.collective import Solo
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch
from rayloom.data import make_source, open_dataset
from rayloom.models.autoencoders.vae import VAE
from rayloom.training import fit
from rayloom.training.evaluate import evaluate_split
from rayloom_pipelines.benchmarks import pythae_bridge as bridge


def run(
    *,
    data: DataConfig | None = None,
    epochs: int = 10,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 128,
    lr: float = 1e-3,
    importance_samples: int = 200,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train both, score both.

    Args:
        data: Section `data`; None: Fashion-MNIST from the user's data folder.
        epochs: Passes over the training split, each side.
        seeds: One pair of trainings for each.
        batch_size: Examples per step.
        lr: Adam's learning rate.
        importance_samples: K.
        say: Told one line per finished training.

    Returns:
        `protocol`, and `rows`: side, seed, metrics, CPU seconds of training (a busy
        machine does not change those much).
    """
    dataset = open_dataset(data or DataConfig(name="fashion-mnist"))
    train, test = dataset.split("train"), dataset.split("test")
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        ours = bridge.make_ours(dataset.spec, seed)
        theirs = bridge.make_theirs(dataset.spec)
        bridge.to_theirs(ours, theirs)
        bridge.assert_equal(ours, theirs, test.take(torch.arange(100))["image"])

        started = time.process_time()
        fit(
            ours,
            make_source(dataset, "train", batch_size=batch_size, seed=seed, shuffle=True),
            train=TrainConfig(epochs=epochs),
            optimizer=AdamConfig(lr=lr),
            evaluate=EvaluationConfig(every=epochs),
            seed=seed,
        )
        rows.append(_row("rayloom", seed, time.process_time() - started))
        rows[-1] |= _score(ours, dataset, importance_samples)
        say(_line(rows[-1]))

        x = ours.observe(train.take(torch.arange(len(train)))["image"], None)
        started = time.process_time()
        best = bridge.train_theirs(
            theirs, x, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
        )
        rows.append(_row("pythae", seed, time.process_time() - started))
        copy = bridge.make_ours(dataset.spec, seed)
        bridge.to_ours(best.eval(), copy)
        bridge.assert_equal(copy, best, test.take(torch.arange(100))["image"])
        rows[-1] |= _score(copy, dataset, importance_samples)
        say(_line(rows[-1]))
    return {
        "protocol": {
            "data": dataset.spec.name,
            "likelihood": ours.protocol,
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "importance_samples": importance_samples,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "rows": rows,
    }


def _row(side: str, seed: int, seconds: float) -> dict[str, Any]:
    return {"side": side, "seed": seed, "train_cpu_s": seconds}


def _score(model: VAE, dataset: Any, importance_samples: int) -> dict[str, float]:
    """Metrics of the test split, one fixed noise for every model."""

    def score(batch: Batch, rng: Noise) -> dict[str, Any]:
        values = model.evaluate_batch(batch, rng=rng)
        values["nll_nats"] = model.nll(batch, num_samples=importance_samples, rng=rng)
        return values

    metrics = evaluate_split(
        score,
        make_source(dataset, "test", batch_size=500, seed=0, shuffle=False),
        seed=12345,
        collective=Solo(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return metrics


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['side']:8} seed {row['seed']}  ELBO {row['eval/elbo_nats']:.3f}  "
        f"NLL {row['eval/nll_nats']:.3f}  KL {row['eval/kl_nats']:.2f}  "
        f"{row['train_cpu_s']:.0f} s of CPU"
    )


def table(result: dict[str, Any]) -> str:
    """Mean and spread over the seeds as a Markdown table."""
    lines = [
        "| side | seeds | test ELBO, nats | test NLL, nats | KL, nats | training, s of CPU |",
        "|---|---|---|---|---|---|",
    ]
    for side in ("rayloom", "pythae"):
        rows = [row for row in result["rows"] if row["side"] == side]
        cells = [side, str(len(rows))]
        for key in ("eval/elbo_nats", "eval/nll_nats", "eval/kl_nats", "train_cpu_s"):
            values = [row[key] for row in rows]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.2f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
