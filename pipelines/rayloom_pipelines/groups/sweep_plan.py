"""What a sweep's section means once every null is decided, and its table for whoever watches."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rayloom.config.resolved import Resolved
from rayloom.core import interrupt
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.groups.sweep_checks import judged_by

if TYPE_CHECKING:
    from rayloom.distributed.sweep import SweepResult, SweepSpec


def settle(resolved: Resolved) -> "SweepSpec":
    """The sweep's section with everything that is null decided.

    Raises:
        UserError: Neither the config nor the method says what trials are judged by.
    """
    from rayloom.distributed.sweep import SweepSpec
    from rayloom.training.plan import EVALUATIONS

    config = resolved.config
    wanted = config.sweep
    metric, mode = judged_by(config)
    amount, every = config.train.length[1], config.evaluation.every
    return SweepSpec(
        spaces=resolved.spaces,
        metric=metric,
        mode=mode,
        trials=wanted.trials,
        searcher=wanted.searcher,
        scheduler=wanted.scheduler,
        grace=wanted.grace,
        reduction=wanted.reduction,
        evaluations=max(1, math.ceil(amount / every)) if every else EVALUATIONS,
        max_concurrent=wanted.max_concurrent,
        seed=wanted.seed,
    )


def ending(result: "SweepResult", spec: "SweepSpec") -> dict[str, Any]:
    """How a sweep ended, for its `run.json`.

    Its clock is the number of trials that are over: the best one depends on them alone, so the
    point that an interrupted sweep wrote stays true when it goes on.
    """
    over = sum(row["status"] != "running" for row in result.trials)
    end: dict[str, Any] = {
        "exit_code": 128 + result.signal if result.signal else 0,
        "reason": (
            interrupt.name_of(result.signal)
            if result.signal
            else f"{len(result.trials)} trials are done"
        ),
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
