"""Metrics on a whole split, with standard errors, equal on any number of workers.

Whole batches are shared out over the workers, each keeps a row of float64 sums per batch, and the
rows are combined in batch order: so N workers give the very bits that one gives.

Dimension key: B examples of a batch, M metrics, S = 6 sums per metric.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.sections import EvaluationConfig
from rayloom.core.failpoints import hit
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, BatchSource, Carry, Collective, Player, Sum, Turn

SUMS = 6  # rows, sum, count, and the sums of s^2, s c and c^2 (c = 1 for plain values: mean, M2)
Values = dict[str, Any]  # name: (B,) or a pair (sums (B,), counts (B,))


def _sums(name: str, value: Any) -> tuple[Tensor, bool]:
    """(S,) float64 sums of one metric on one batch, and whether it is a masked pair."""
    paired = isinstance(value, tuple | list)
    s = (value[0] if paired else value).detach()
    if s.ndim != 1:
        raise ValueError(f"metric {name!r} has shape {tuple(s.shape)}, expected one per example")
    s = s.double()
    rows = torch.full((), float(len(s)), dtype=torch.float64, device=s.device)
    if paired:
        c = value[1].detach().double()
        sums = (rows, s.sum(), c.sum(), s.square().sum(), (s * c).sum(), c.square().sum())
    else:
        mean = s.mean()
        sums = (rows, mean, (s - mean).square().sum(), *(torch.zeros_like(rows),) * 3)
    return torch.stack(sums), paired


def _combine_plain(table: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error from (batches, S) rows of (n, mean, M2) (Chan et al., 1983)."""
    n = mean = m2 = 0.0
    for rows, batch_mean, batch_m2 in table[:, :3]:
        delta, new = batch_mean - mean, n + rows
        mean += delta * rows / new
        m2 += batch_m2 + delta * delta * n * rows / new
        n = new
    return float(mean), math.sqrt(max(0.0, m2) / (n * (n - 1))) if n > 1 else float("nan")


def _combine_paired(table: np.ndarray) -> tuple[float, float]:
    """Ratio of sums and its standard error by the delta method."""
    n, s, c, ss, sc, cc = (float(v) for v in table.sum(axis=0))
    if c == 0:
        return float("nan"), float("nan")
    ratio = s / c
    residual = max(0.0, ss - 2 * ratio * sc + ratio * ratio * cc)
    return ratio, math.sqrt(residual * n / (n - 1)) / c if n > 1 else float("nan")


def scorer(
    model: Any, wanted: EvaluationConfig, players: Sequence[Player], step: int
) -> Callable[[Batch, Noise], Values]:
    """What scores a batch: the model's `evaluate_batch`, else the loss parts of every player.

    Args:
        model: A `core.protocols.Model`.
        wanted: Extra metrics.
        players: Its players.
        step: The grad_step, which a loss may depend on.
    """

    def by_model(batch: Batch, rng: Noise) -> Values:
        with torch.no_grad():
            values = dict(model.evaluate_batch(batch, rng=rng))
            if "nll" in wanted.metrics:
                samples = wanted.importance_samples
                values["nll_nats"] = model.nll(batch, num_samples=samples, rng=rng)
        return values

    def by_loss(batch: Batch, rng: Noise) -> Values:
        """Gradients stay on, for losses that need some inside."""
        values: Values = {}
        for player in players:
            turn = Turn(grad_step=step, player=player.name)
            parts = (player.loss or model.loss)(batch, rng=rng, turn=turn)
            for name, value in parts.items():
                if isinstance(value, Sum | Carry):
                    continue
                key = name if len(players) == 1 else f"{player.name}_{name}"
                pair = isinstance(value, tuple | list)
                values[key] = tuple(v.detach() for v in value) if pair else value.detach()
        return values

    return by_model if hasattr(model, "evaluate_batch") else by_loss


def evaluate_split(
    score: Callable[[Batch, Noise], Values],
    source: BatchSource,
    *,
    seed: int,
    collective: Collective,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Mean and standard error of every metric over the whole split.

    Args:
        score: Metrics per example of one batch.
        source: The evaluation split; one pass over it.
        seed: Seed of the evaluation noise; batch b draws from (seed, b) whoever evaluates it.
        collective: The workers.
        device: Where the model lives.
        dtype: Floating type of the noise.

    Returns:
        `eval/<name>` and `eval/<name>_se` (over examples; NaN is left out).
    """
    batches = source.batches_per_epoch
    mine = range(collective.rank, batches, collective.world)
    names: list[str] = []
    paired: list[bool] = []
    rows: list[Tensor] = []
    for place, number in enumerate(mine):
        local = source.batch(number)
        fields = {name: value.to(device) for name, value in local.fields.items()}
        values = score(
            fields, Noise(seed, step=number, total=local.total, device=device, dtype=dtype)
        )
        if not names:
            names = list(values)
        elif names != list(values):
            raise ValueError(f"evaluation metrics changed from {names} to {list(values)}")
        sums = [_sums(name, value) for name, value in values.items()]
        paired = [pair for _, pair in sums]
        rows.append(torch.stack([row for row, _ in sums]))  # (M, S)
        if place == len(mine) // 2:
            hit("evaluation.middle")
    names, paired = collective.broadcast_json([names, paired])
    table = torch.zeros(batches, len(names), SUMS, dtype=torch.float64)
    if rows:
        table[list(mine)] = torch.stack(rows).cpu()
    collective.all_reduce(table)
    return _metrics(names, paired, table.numpy())


def key_of(name: str) -> str:
    """The key under which a model's metric is written."""
    return name if name.startswith("eval/") else f"eval/{name}"


def _metrics(names: list[str], paired: list[bool], table: np.ndarray) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for column, (name, pair) in enumerate(zip(names, paired, strict=True)):
        key = key_of(name)
        value, error = (_combine_paired if pair else _combine_plain)(table[:, column])
        metrics[key] = value
        if math.isfinite(error):
            metrics[f"{key}_se"] = error
    return metrics
