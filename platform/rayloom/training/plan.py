"""How long to train, when to look and when to stop: what a config's sections say to the driver."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rayloom.config.sections import EarlyStoppingConfig, RunConfig
from rayloom.core.declared import USUAL
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.metric_table import Metric, direction, judged
from rayloom.core.protocols import State, Trainable
from rayloom.core.scores import is_better, usable

EVALUATIONS = 20  # per budget, where `evaluation.every` is null


@dataclass(frozen=True)
class Plan:
    """What the driver needs to know.

    Attributes:
        unit: What `amount` and the cadences count: `epochs`, `grad_steps` or `env_steps`.
        amount: The budget.
        evaluate_every: In `unit`; None: a twentieth of the budget of the first start.
        checkpoint_every: In `unit`; None: at every evaluation.
        keep_last: Newest checkpoints to keep.
        keep_best: Best checkpoints to keep; with some, every new best is written.
        metric: What "best" means; None: the first of the trainable's `default_metrics` that an
            evaluation has.
        mode: Its direction; None: what the method declares or the metric table says.
        stop: Metric to threshold; one that is reached ends the run.
        early_stopping: Ends the run when a metric no longer improves.
        time_limit_s: Wall clock of this attempt, seconds.
    """

    unit: str
    amount: float
    evaluate_every: float | None = None
    checkpoint_every: float | None = None
    keep_last: int = 2
    keep_best: int = 1
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    stop: Mapping[str, float] = field(default_factory=dict)
    early_stopping: EarlyStoppingConfig | None = None
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise UserError(f"the budget must be positive, not {self.amount} {self.unit}")

    @classmethod
    def from_config(cls, config: RunConfig) -> "Plan":
        """The plan of a config: sections `train`, `evaluation` and `checkpoint`."""
        unit, amount = config.train.length
        return cls(
            unit=unit,
            amount=amount,
            evaluate_every=config.evaluation.every,
            checkpoint_every=config.checkpoint.every,
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            metric=config.checkpoint.metric,
            mode=config.checkpoint.mode,
            stop=dict(config.train.stop),
            early_stopping=config.train.early_stopping,
            time_limit_s=config.train.time_limit_s,
        )


def metric_direction(
    metric: str, where: str, own: Mapping[str, Metric] | None = None
) -> Literal["min", "max"]:
    """The direction that the method or the metric table gives a metric.

    Args:
        metric: Its key.
        where: The setting that names it, for the message.
        own: What the method declares.

    Raises:
        UserError: It has none; names the nearest metric that has one.
    """
    found = direction(metric, own)
    if found == "none":
        hint = did_you_mean(metric, judged(own))
        raise UserError(f"{where}: no direction is known for {metric!r}{hint.rstrip('.')}")
    return found


class Cadence:
    """Clock positions at multiples of an interval.

    Args:
        trainable: Turns the unit into clock ticks.
        unit: Of `every`.
        every: Interval.
    """

    def __init__(self, trainable: Trainable, unit: str, every: float) -> None:
        self._trainable, self._unit, self.every = trainable, unit, every
        self._dense = trainable.to_clock(unit, every) < 1

    def after(self, position: int) -> int:
        """The first point above `position`."""
        if self._dense:
            return position + 1
        tick = self._trainable.to_clock(self._unit, self.every)
        number = max(1, int(position / tick) - 1)  # at or before it, whatever the rounding
        while number > 1 and self._at(number) > position:
            number -= 1
        while self._at(number) <= position:
            number += 1
        return self._at(number)

    def _at(self, number: int) -> int:
        return self._trainable.to_clock(self._unit, self.every * number)


def required(metrics: Mapping[str, float], metric: str, where: str) -> float:
    """A metric of an evaluation.

    Raises:
        UserError: The evaluation has no such metric; lists those it has.
    """
    if metric not in metrics:
        hint = did_you_mean(metric, metrics).rstrip(".")
        have = ", ".join(sorted(metrics)) or "none"
        raise UserError(f"{where}: the evaluation has no {metric!r}{hint} It has: {have}")
    return metrics[metric]


class Judge:
    """Keeps the best score, the patience and the verdicts; all of it is part of a checkpoint.

    Args:
        plan: The rules.
        default_metrics: What "best" means if the plan does not say: the first of these that an
            evaluation has. None: no evaluation is the best, the last checkpoint is kept.
        own: What the method declares of its metrics, by key.

    Raises:
        UserError: A rule names a metric without a direction.
    """

    def __init__(
        self,
        plan: Plan,
        default_metrics: Sequence[str] = USUAL,
        own: Mapping[str, Metric] | None = None,
    ) -> None:
        self.plan, self.default_metrics, self.own = plan, default_metrics, own or {}
        for metric in plan.stop:
            self._direction(metric, "train.stop")
        if plan.early_stopping is not None:
            self._direction(plan.early_stopping.metric, "train.early_stopping.metric")
        if plan.metric is not None and plan.mode is None:
            self._direction(plan.metric, "checkpoint.metric")
        self.metric: str | None = plan.metric
        self.mode: Literal["min", "max"] = plan.mode or "max"
        self.best: dict[str, Any] | None = None  # metric, value, step
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self.early_best: float | None = None
        self.early_bad = 0

    def _direction(self, metric: str, where: str) -> Literal["min", "max"]:
        return metric_direction(metric, where, self.own)

    def hear(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take in an evaluation; returns whether it is the best so far.

        Raises:
            UserError: A rule names a metric that the evaluation does not have.
        """
        self.metrics = dict(metrics)
        for metric in self.plan.stop:
            required(metrics, metric, "train.stop")
        improved = self._hear_best(step, metrics)
        early = self.plan.early_stopping
        if early is not None:
            where = "train.early_stopping.metric"
            value = required(metrics, early.metric, where)
            mode = self._direction(early.metric, where)
            if is_better(value, self.early_best, mode, by=early.min_delta):
                self.early_best, self.early_bad = value, 0
            else:
                self.early_bad += 1
        return improved

    def _hear_best(self, step: int, metrics: Mapping[str, float]) -> bool:
        if not metrics:
            return False
        if self.metric is None:
            self.metric = next((m for m in self.default_metrics if m in metrics), None)
            if self.metric is None:
                return False
        if self.plan.mode is None:
            self.mode = self._direction(self.metric, "checkpoint.metric")
        value = required(metrics, self.metric, "checkpoint.metric")
        if not is_better(value, self.best["value"] if self.best else None, self.mode):
            return False
        self.best = {"metric": self.metric, "value": value, "step": step}
        return True

    @property
    def score(self) -> float | None:
        """The last evaluation's value of the metric."""
        return self.metrics.get(self.metric) if self.metric else None

    def verdict(self) -> str | None:
        """Why the run should end, or None."""
        for metric, threshold in self.plan.stop.items():
            value = usable(self.metrics.get(metric))
            if value is None:
                continue
            downwards = self._direction(metric, "train.stop") == "min"
            if value <= threshold if downwards else value >= threshold:
                return f"{metric} is {value:.6g} and reached train.stop {threshold:g}"
        early = self.plan.early_stopping
        if early is not None and self.early_bad >= early.patience:
            return f"{early.metric} has not improved for {self.early_bad} evaluations"
        return None

    def state_dict(self) -> State:
        """For the checkpoint."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "best": dict(self.best) if self.best else None,
            "metrics": dict(self.metrics),
            "early_metric": self._early_metric,
            "early_best": self.early_best,
            "early_bad": self.early_bad,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to a state; the rules themselves are the plan's."""
        self.metrics = dict(state["metrics"])
        if self.plan.metric in (None, state["metric"]):
            self.metric, self.mode = state["metric"], state["mode"]
            self.best = dict(state["best"]) if state["best"] else None
        if self._early_metric == state["early_metric"]:
            self.early_best, self.early_bad = state["early_best"], int(state["early_bad"])

    @property
    def _early_metric(self) -> str | None:
        early = self.plan.early_stopping
        return early.metric if early is not None else None
