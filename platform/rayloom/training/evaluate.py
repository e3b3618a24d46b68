"""Metrics on a whole split, with standard errors, equal on any number of workers.

Whole batches are shared out over the workers, each keeps a row of float64 sums per batch, and the
rows are combined in batch order: so N workers give the very bits that one gives.

Dimension key: B examples of a batch, M metrics, S = 6 sums per metric.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.failpoints import hit
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    BatchSource,
    Carry,
    Collective,
    Done,
    Player,
    Rows,
    Sum,
    Turn,
)
from rayloom.metrics.evaluation import EvaluationMetric
from rayloom.training.precision import as_doubles, to

SUMS = 6  # rows, sum, count, and the sums of s^2, s c and c^2 (c = 1 for plain values: mean, M2)
KEPT_SUMS = 1 << 22  # numbers that are kept batch by batch: equal bits on any number of workers
KEPT_BYTES = 256 << 20  # of one name's `Rows`
JACKKNIFE = 100  # batches at most
Values = dict[str, Any]  # name: (B,), a pair (sums (B,), counts (B,)), a Sum or Rows
Summarise = Callable[[Done], Mapping[str, Any]]


def _sums(name: str, value: Any) -> Tensor:
    """(S,) float64 sums of one metric on one batch, a masked pair or values."""
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
    return torch.stack(sums)


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
    model: Any, extras: Sequence[EvaluationMetric], players: Sequence[Player], step: int
) -> Callable[[Batch, Noise], Values]:
    """What scores a batch: the model's `evaluate_batch`, else the loss parts of every player.

    Args:
        model: A `core.protocols.Model`.
        extras: Metrics of `evaluation.metrics`.
        players: Its players.
        step: The grad_step, which a loss may depend on.
    """

    def by_model(batch: Batch, rng: Noise) -> Values:
        with torch.no_grad():
            return more(dict(model.evaluate_batch(batch, rng=rng)), batch, rng)

    def more(values: Values, batch: Batch, rng: Noise) -> Values:
        with torch.no_grad():
            for metric in extras:
                values |= metric.evaluate_batch(model, batch, rng=rng)
        return values

    def by_loss(batch: Batch, rng: Noise) -> Values:
        """Gradients stay on, for losses that need some inside."""
        values: Values = {}
        for player in players:
            turn = Turn(grad_step=step, player=player.name)
            parts = (player.loss or model.loss)(batch, rng=rng, turn=turn)
            for name, value in parts.items():
                if isinstance(value, Sum | Carry | Rows):
                    continue
                key = name if len(players) == 1 else f"{player.name}_{name}"
                if isinstance(value, tuple | list):
                    values[key] = tuple(v.detach() for v in value)
                else:
                    values[key] = value.detach()
        return more(values, batch, rng)

    return by_model if hasattr(model, "evaluate_batch") else by_loss


def summariser(model: Any, extras: Sequence[EvaluationMetric]) -> Summarise | None:
    """What makes metrics of a whole split: the model's own and those of `evaluation.metrics`."""
    own = getattr(model, "summarise", None)
    made = [*([] if own is None else [own]), *(metric.summarise for metric in extras)]
    if not made:
        return None

    def summarise(done: Done) -> dict[str, Any]:
        return {name: value for one in made for name, value in one(done).items()}

    return summarise


class _Gathered:
    """What one rank's batches gave, and what all ranks' batches give together.

    Args:
        source: The split.
        collective: The workers.
    """

    def __init__(self, source: BatchSource, collective: Collective) -> None:
        self.source, self.collective = source, collective
        self.mine = list(range(collective.rank, source.batches_per_epoch, collective.world))
        self.kinds: dict[str, str] = {}
        self.rows: list[Tensor] = []  # (M, S) a batch
        self.sums: dict[str, list[Tensor]] = {}
        self.kept: dict[str, list[Tensor]] = {}

    def add(self, values: Values) -> None:
        """Take in a batch.

        Raises:
            ValueError: It gave other metrics than the one before.
        """
        kinds = {name: _kind(value) for name, value in values.items()}
        if self.kinds and kinds != self.kinds:
            raise ValueError(f"evaluation metrics changed from {self.kinds} to {kinds}")
        self.kinds = kinds
        means = [_sums(n, v) for n, v in values.items() if kinds[n] in ("mean", "pair")]
        self.rows.append(torch.stack(means) if means else torch.zeros(0, SUMS))
        for name, value in values.items():
            if kinds[name] == "sum":
                self.sums.setdefault(name, []).append(value.value.detach().double().cpu())
            elif kinds[name] == "rows":
                self.kept.setdefault(name, []).append(value.value.detach().cpu())

    def share(self) -> None:
        """Bring the ranks together; rank 0 always has a batch."""
        shapes = {n: list(v[0].shape) for n, v in self.sums.items()}
        kept = {n: [list(v[0].shape[1:]), str(v[0].dtype)] for n, v in self.kept.items()}
        told = self.collective.broadcast_json([self.kinds, shapes, kept])
        self.kinds, shapes, kept = told
        self.names = [n for n, kind in self.kinds.items() if kind in ("mean", "pair")]
        self.paired = [self.kinds[n] == "pair" for n in self.names]
        batches = self.source.batches_per_epoch
        table = torch.zeros(batches, len(self.names), SUMS, dtype=torch.float64)
        if self.rows and self.names:
            table[self.mine] = torch.stack(self.rows).cpu()
        self.collective.all_reduce(table)
        self.table = table.numpy()
        self.by_batch = {n: self._per_batch(n, tuple(shape)) for n, shape in shapes.items()}
        self.whole_rows = {n: self._all_rows(n, tuple(s), d) for n, (s, d) in kept.items()}

    def _per_batch(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """(batches, *shape), or (1, *shape) where that would be large."""
        batches = self.source.batches_per_epoch
        few = batches * max(1, math.prod(shape)) <= KEPT_SUMS
        table = torch.zeros(batches if few else 1, *shape, dtype=torch.float64)
        for number, value in zip(self.mine, self.sums.get(name, ()), strict=False):
            table[number if few else 0] += value
        return self.collective.all_reduce(table)

    def _all_rows(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """(n, *shape) in the order of the split.

        Raises:
            UserError: They are more than fits.
        """
        kind = getattr(torch, dtype.removeprefix("torch."))
        total = self.source.num_examples
        size = total * math.prod(shape) * torch.empty(0, dtype=kind).element_size()
        if size > KEPT_BYTES:
            raise UserError(
                f"evaluate_batch keeps Rows {name!r} of {size / 2**20:.0f} MiB for summarise, at "
                f"most {KEPT_BYTES >> 20}: reduce them to a Sum, or keep less of each example"
            )
        whole = torch.zeros(total, *shape, dtype=kind)
        for number, value in zip(self.mine, self.kept.get(name, ()), strict=False):
            start = number * self.source.batch_size
            whole[start : start + len(value)] = value
        if self.collective.world > 1:  # bytes added to zeros: no bit changes
            self.collective.all_reduce(whole.view(-1).view(torch.uint8))
        return whole

    def sums_without(self, batch: int | None) -> dict[str, Tensor]:
        """The `Sum`s of the split, or of all its batches but one."""
        if batch is None:
            return {name: table.sum(0) for name, table in self.by_batch.items()}
        keep = torch.arange(self.source.batches_per_epoch) != batch
        return {name: table[keep].sum(0) for name, table in self.by_batch.items()}


def _kind(value: Any) -> str:
    if isinstance(value, Sum):
        return "sum"
    if isinstance(value, Rows):
        return "rows"
    return "pair" if isinstance(value, tuple | list) else "mean"


def evaluate_split(
    score: Callable[[Batch, Noise], Values],
    source: BatchSource,
    *,
    seed: int,
    collective: Collective,
    device: torch.device,
    dtype: torch.dtype,
    summarise: Summarise | None = None,
    turn: Turn = Turn(),  # noqa: B008 - a tuple
) -> dict[str, float]:
    """Mean and standard error of every metric over the whole split.

    Args:
        score: Metrics of one batch: per example, `Sum`s and `Rows`.
        source: The evaluation split; one pass over it.
        seed: Seed of the evaluation noise; batch b draws from (seed, b) whoever evaluates it.
        collective: The workers.
        device: Where the model lives.
        dtype: Floating type of the noise.
        summarise: Metrics of the whole split from all of these, once; see `core.protocols`.
        turn: When this evaluation is.

    Returns:
        `eval/<name>` and `eval/<name>_se`: over examples, and for what `summarise` gives by the
        jackknife over batches (Efron and Stein, 1981, doi:10.1214/aos/1176345462). A standard
        error that is NaN is left out.
    """
    gathered = _Gathered(source, collective)
    double = dtype == torch.float64
    for place, number in enumerate(gathered.mine):
        local = source.batch(number)
        fields = as_doubles(local.fields, device) if double else to(local.fields, device)
        rng = Noise(seed, step=number, total=local.total, device=device, dtype=dtype)
        gathered.add(score(fields, rng))
        if place == len(gathered.mine) // 2:
            hit("evaluation.middle")
    gathered.share()
    metrics = _metrics(gathered.names, gathered.paired, gathered.table)
    if summarise is not None:
        rng = Noise(seed, total=source.num_examples, device=device, dtype=dtype)
        metrics |= collective.broadcast_json(_summary(gathered, summarise, turn, rng))
    return metrics


def summary_metrics(
    summarise: Summarise,
    turn: Turn,
    means: Mapping[str, float],
    sums: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    rng: Noise,
) -> dict[str, float]:
    """What `summarise` makes of an evaluation, by metric key."""
    tensors = {
        key.removeprefix("eval/"): torch.tensor(value, dtype=torch.float64)
        for key, value in means.items()
    }
    done = Done(turn, means=lambda: tensors, sums=sums, rows=rows, rng=lambda: rng)
    with torch.no_grad():
        return {key_of(name): float(value) for name, value in summarise(done).items()}


def _summary(gathered: _Gathered, summarise: Summarise, turn: Turn, rng: Noise) -> dict[str, float]:
    """Metrics of the whole split with jackknife standard errors, where all batches are at hand."""

    def of(batch: int | None) -> dict[str, float]:
        table = gathered.table if batch is None else np.delete(gathered.table, batch, 0)
        means = _metrics(gathered.names, gathered.paired, table)
        sums = gathered.sums_without(batch)
        return summary_metrics(summarise, turn, means, sums, gathered.whole_rows, rng)

    whole, batches = of(None), gathered.source.batches_per_epoch
    at_hand = all(len(table) == batches for table in gathered.by_batch.values())
    if gathered.whole_rows or not at_hand or not 2 <= batches <= JACKKNIFE:
        return whole
    without = [of(batch) for batch in range(batches)]
    for key in list(whole):
        values = np.array([one[key] for one in without])
        error = math.sqrt((batches - 1) * float(values.var()))
        if math.isfinite(error):
            whole[f"{key}_se"] = error
    return whole


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
