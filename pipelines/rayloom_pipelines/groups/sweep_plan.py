"""What a sweep's section means once every null is decided, and its table for whoever watches."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayloom.config.resolved import Resolved
from rayloom.config.sections import RunConfig
from rayloom_pipelines.console import RunObserver

if TYPE_CHECKING:
    from rayloom.distributed.sweep import SweepResult, SweepSpec

EVALUATIONS = 20  # of a trial whose `evaluation.every` is null, as in rayloom.training
NAMES = ("model.name", "data.name", "data.eval_split", "algorithm.name", "env.name")
STOPPED = {2: "Ctrl-C", 15: "SIGTERM"}


def settle(resolved: Resolved) -> "SweepSpec":
    """The sweep's section with everything that is null decided."""
    from rayloom.distributed.sweep import SweepSpec
    from rayloom.training.plan import metric_direction

    config = resolved.config
    wanted = config.sweep
    metric = wanted.metric or config.checkpoint.metric or default_metric(config)
    amount, every = config.train.length[1], config.evaluation.every
    return SweepSpec(
        spaces=resolved.spaces,
        metric=metric,
        mode=wanted.mode or metric_direction(metric, "sweep.metric"),
        trials=wanted.trials,
        searcher=wanted.searcher,
        scheduler=wanted.scheduler,
        grace=wanted.grace,
        reduction=wanted.reduction,
        evaluations=max(1, math.ceil(amount / every)) if every else EVALUATIONS,
        max_concurrent=wanted.max_concurrent,
        seed=wanted.seed,
    )


def checked_plan(resolved: Resolved, options: Any) -> Resolved:
    """A sweep's config with its metric settled, once a trial of each kind could be prepared.

    What is built differs by the names that are searched: each of them is tried, on the CPU, with
    the first end of every other space.

    Raises:
        UserError: A trial would be refused, or no evaluation gives the metric.
    """
    from rayloom.core.errors import ConfigError
    from rayloom.training.plan import DEFAULT_METRICS
    from rayloom.training.preflight import absent
    from rayloom_pipelines.run.checked import checked

    start = {path: space.ends[0] for path, space in resolved.spaces.items()}
    kinds = [start]
    for path in NAMES:
        space = resolved.spaces.get(path)
        kinds += [start | {path: value} for value in space.ends[1:]] if space is not None else []
    wanted = resolved.config.sweep.metric or resolved.config.checkpoint.metric
    for values in kinds:
        config = resolved.apply(values)
        alone = config.resources.model_copy(update={"device": "cpu", "workers": 0})
        made = checked(config.model_copy(update={"resources": alone}), options)
        usual = [made.default_metric, *DEFAULT_METRICS]
        wanted = wanted or next((one for one in usual if one in made.metrics), None)
        problem = absent("sweep.metric", wanted or DEFAULT_METRICS[-1], made.metrics)
        if problem is not None:
            raise ConfigError([problem])
    sweep = resolved.config.sweep.model_copy(update={"metric": wanted})
    return replace(resolved, config=resolved.config.model_copy(update={"sweep": sweep}))


def default_metric(config: RunConfig) -> str:
    """What the kind of run is judged by where the config does not say."""
    if config.task == "rl":
        return "eval/return_mean"
    from rayloom import catalogue

    assert config.model is not None
    model_class = catalogue.load("models", config.model.name)  # type: ignore[attr-defined]
    return "eval/elbo_nats" if hasattr(model_class, "elbo") else "eval/loss"


def ending(result: "SweepResult", spec: "SweepSpec") -> dict[str, Any]:
    """How a sweep ended, for its `run.json`.

    Its clock is the number of trials that are over: the best one depends on them alone, so the
    point that an interrupted sweep wrote stays true when it goes on.
    """
    over = sum(row["status"] != "running" for row in result.trials)
    end: dict[str, Any] = {
        "exit_code": 128 + result.signal if result.signal else 0,
        "reason": STOPPED.get(result.signal) or f"{len(result.trials)} trials are done",
        "step": over,
        "concurrent": result.concurrent,
        "failed_trials": result.failed,
    }
    best = result.best
    if best is not None:
        score = math.nan if best.score is None else float(best.score)
        end["metrics"] = {"sweep/best": score}
        end["best"] = {"metric": spec.metric, "value": best.score, "step": int(best.trial)}
        end["best_run"], end["best_values"] = best.outcome.get("run_id"), best.values
    elif not result.signal:
        end |= {"exit_code": 1, "reason": "every trial failed"}
        first = next((row for row in result.trials if row["error"]), None)
        if first is not None:
            end["cause"] = f"every trial failed, trial {first['trial']} by: {first['error']}"
    return end


class Board:
    """Turns a sweep's events into a table for whoever watches.

    Args:
        observer: Who watches.
        spec: The sweep.
        journal: Of the sweep: gets the score of each trial, a curve over trials.
    """

    def __init__(self, observer: RunObserver, spec: Any, journal: Any) -> None:
        self.observer, self.spec, self.journal = observer, spec, journal
        self.rows: dict[str, dict[str, Any]] = {}

    def hear(self, event: Mapping[str, Any]) -> None:
        """One event of `run_sweep`; others are ignored."""
        if "row" not in event:
            return
        row = dict(event["row"])
        self.rows[row["trial"]] = row
        score = row.get("score")
        if row.get("status") in ("done", "stopped") and isinstance(score, int | float):
            self.journal.scalars(int(row["trial"]), {"sweep/score": float(score)})
            self.journal.flush()
        self.observer.on_table(
            {
                "kind": event["event"],
                "row": row,
                "rows": [self.rows[trial] for trial in sorted(self.rows)],
                "metric": self.spec.metric,
                "trials": self.spec.trials,
            }
        )
