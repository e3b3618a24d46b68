"""`fit`: train any model on arrays in memory, with neither MLflow, YAML, Ray nor files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from rayloom.config.sections import (
    Config,
    EvaluationConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.protocols import BatchSource, Scalars
from rayloom.data import Dataset, from_arrays, make_source
from rayloom.training.driver import Observer, Outcome, drive
from rayloom.training.engine import Engine
from rayloom.training.plan import Plan
from rayloom.training.preflight import evaluation_names, rule_problems

Data: TypeAlias = Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray] | Dataset | BatchSource


@dataclass
class MemorySink:
    """A sink that keeps everything: points as (step, values), the newest picture of each key."""

    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    images: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict)
    files: list[tuple[int, str, Path]] = field(default_factory=list)

    def scalars(self, step: int, values: Scalars) -> None:
        """Metric points at a clock step."""
        self.points.append((step, dict(values)))

    def image(self, step: int, key: str, pixels: np.ndarray) -> None:
        """One picture: uint8 (H, W, 3) or (H, W)."""
        self.images[key] = (step, pixels)

    def file(self, step: int, key: str, path: Path) -> None:
        """A file that belongs to the run at this step."""
        self.files.append((step, key, path))

    def history(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric."""
        return [(step, values[key]) for step, values in self.points if key in values]


@dataclass
class FitResult:
    """What `fit` returns.

    Attributes:
        model: The model, trained in place, in evaluation mode. With EMA its own parameters are
            the raw ones; `averaged` holds the others.
        metrics: Of the last evaluation (or log point, without evaluation data).
        points: (grad_step, values) of every log point and evaluation.
        images: Newest pictures by key: (grad_step, uint8 (H, W, 3)).
        outcome: How the run ended.
        averaged: The state dict that evaluation used.
        engine: To go on with: `engine.advance(...)`, `engine.state_dict()`.
    """

    model: nn.Module
    metrics: dict[str, float]
    points: list[tuple[int, dict[str, float]]]
    images: dict[str, tuple[int, np.ndarray]]
    outcome: Outcome
    averaged: dict[str, Tensor]
    engine: Engine

    def history(self, key: str) -> list[tuple[int, float]]:
        """(grad_step, value) of one metric."""
        return [(step, values[key]) for step, values in self.points if key in values]


def fit(
    model: nn.Module,
    data: Data,
    *,
    evaluation: Data | None = None,
    train: TrainConfig | None = None,
    optimizer: OptimizerConfig | dict[str, Any] | None = None,
    evaluate: EvaluationConfig | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
    should_stop: Callable[[], int] | None = None,
) -> FitResult:
    """Train a model of the contract (`core.protocols.Model`) in this process.

    Args:
        model: The model. Its construction, initial weights included, is the caller's.
        data: Training examples: one array of images, a dict of arrays by field name (first axis
            the examples), a `Dataset` (its split `train`), or a `BatchSource`.
        evaluation: The evaluation split in the same forms (a `Dataset`: its split `test`). None:
            that of a `Dataset`, else no evaluation.
        train: Section `train`: length, clipping, EMA, schedule, stop rules; None: one epoch.
        optimizer: Section `optimizer`; a dict by player name for several players. None: AdamW.
        evaluate: Section `evaluation`.
        batch_size: Examples per batch.
        seed: Of data order and noise.
        device: Where to train.
        observer: Told of progress; see `driver.Observer`.
        should_stop: A signal number to stop with, or 0; polled at every step.

    Raises:
        UserError: Data, config and model do not fit together.
        NonFiniteError: A loss became NaN.
    """
    sections: dict[str, Any] = {"seed": seed, "train": train or TrainConfig()}
    if optimizer is not None:
        sections["optimizer"] = optimizer
    if evaluate is not None:
        sections["evaluation"] = evaluate
    config = RunConfig(**sections)
    if evaluation is None and isinstance(data, Dataset) and "test" in data.splits:
        evaluation = data
    source = _source(data, "train", batch_size, seed, shuffle=True)
    held_out = None
    if evaluation is not None:
        held_out = _source(evaluation, "test", max(batch_size, 500), seed, shuffle=False)
    engine = Engine(model, config, source, held_out, device=device)
    if held_out is not None:
        few = {name: value[:2] for name, value in held_out.batch(0).fields.items()}
        names = evaluation_names(model, config, few, source.spec)
        problems = rule_problems(config, names, engine.default_metrics, engine.metrics)
        if problems:
            raise ConfigError(problems)
    sink = MemorySink()
    outcome = drive(
        engine,
        Plan.from_config(config),
        folder=None,
        sink=sink,
        observer=observer,
        should_stop=should_stop,
    )
    model.eval()
    metrics = outcome.metrics or (sink.points[-1][1] if sink.points else {})
    averaged = engine.evaluation_state()
    return FitResult(model, metrics, sink.points, sink.images, outcome, averaged, engine)


def _source(data: Data, split: str, batch_size: int, seed: int, *, shuffle: bool) -> BatchSource:
    """Batches of whatever was given."""
    if isinstance(data, Tensor | np.ndarray):
        data = {"image": data}
    if isinstance(data, Mapping):
        if not data:
            raise UserError("fit got a dict without arrays")
        data = from_arrays("memory", {split: dict(data)})
    if isinstance(data, Dataset):
        return make_source(data, split, batch_size=batch_size, seed=seed, shuffle=shuffle)
    if not isinstance(data, Config) and hasattr(data, "batches_per_epoch"):
        return data
    raise UserError(
        f"fit cannot train on {type(data).__name__}: give an array, a dict of arrays, a Dataset "
        "or a BatchSource"
    )
