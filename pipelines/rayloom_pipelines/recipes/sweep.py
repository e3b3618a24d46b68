"""Sweeps: a group of trials, each a run of its own; Ray Tune says which and when."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.core.config import Resolved, resolve
from rayloom.core.errors import RayloomError, UserError
from rayloom.core.sections import RunConfig
from rayloom_pipelines.console import RunObserver, Silent
from rayloom_pipelines.facade import Run
from rayloom_pipelines.recipes import run
from rayloom_pipelines.recipes.group import child_options, children_of, open_group, promote
from rayloom_pipelines.recipes.smoke import shorten

if TYPE_CHECKING:
    import pandas as pd

TRIAL = "rayloom_pipelines.recipes.sweep:train_trial"
EVALUATIONS = 20  # of a trial whose `evaluation.every` is null, as in rayloom.training
STOPPED = {2: "Ctrl-C", 15: "SIGTERM"}


class Sweep(Run):
    """A sweep on disk, finished or not."""

    def table(self) -> "pd.DataFrame":
        """One row per trial: status, score, values, run."""
        import pandas as pd

        return pd.read_csv(self.path / "trials.csv", dtype={"trial": str})


def start_sweep(
    resolved: Resolved,
    *,
    seeds: int,
    smoke: bool,
    track: bool,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]],
) -> Sweep:
    """Make the sweep's folder and run its trials.

    Raises:
        UserError: There is nothing to search, or no trial fits on the cluster.
    """
    if not resolved.spaces:
        raise UserError(
            "there is nothing to search: give a key a space, such as "
            "optimizer.lr=loguniform(1e-5,1e-2), or {search: loguniform, low: 1e-5, high: 1e-2}"
        )
    options = run.Options(smoke=smoke, track=track)
    folder = run.make_folder(
        resolved.config,
        resolved.name or "sweep",
        options,
        tree=resolved.to_dict(),
        plugins=plugins,
        say=observer.on_message,
        facts={"kind": "sweep", "sweep_seeds": seeds},
    )
    _go_on(folder, resolved, options, observer)
    return Sweep(folder.path)


def resume_sweep(
    path: Path, overrides: Sequence[str], *, plugins: Sequence[str], observer: RunObserver
) -> None:
    """Go on with a sweep from its ledger.

    Raises:
        UserError: Something else than resources or the number of trials was to change.
    """
    from rayloom.core.config import load_config
    from rayloom.core.plugins import require_plugins
    from rayloom.records import RunFolder

    folder = RunFolder.open(path, say=observer.on_message)
    about = folder.read()
    require_plugins(about.get("plugins", []), plugins)
    allowed = ("resources.", "tracking.", "sweep.trials=", "sweep.max_concurrent=")
    wrong = [word for word in overrides if not word.startswith(allowed)]
    if wrong:
        raise UserError(f"{wrong[0]} may not change on resume; only {', '.join(allowed)} may")
    if about["status"] == "finished" and not overrides:
        observer.on_message(f"{folder.run_id} is finished; nothing to do")
        return
    resolved = load_config(path / "config.yaml", overrides, search=True, site=None)
    _go_on(folder, resolved, run.Options(**about["options"]), observer)


def _go_on(folder: Any, resolved: Resolved, options: run.Options, observer: RunObserver) -> None:
    """Run what is left of a sweep and write down how it ended."""
    from rayloom.distributed.sweep import run_sweep

    config, about = resolved.config, folder.read()
    spec = _spec(resolved)
    plugins = [plugin["path"] for plugin in about.get("plugins", [])]
    payload = {
        "tree": resolved.to_dict() | {"storage": str(folder.path.parent)},
        "name": about["name"],
        "sweep": folder.run_id,
        "metric": spec.metric,
        "seeds": about.get("sweep_seeds", 1),
        "options": asdict(
            replace(child_options(options, folder.run_id), searched=list(resolved.spaces))
        ),
        "plugins": plugins,
        "plugin_facts": about.get("plugins", []),
        "tracking_uri": (about.get("tracking") or {}).get("uri"),
    }
    with open_group(folder, config, options, observer) as end:
        observer.on_start(
            {
                "run": folder.run_id,
                "path": str(folder.path),
                "name": f"{', '.join(resolved.spaces)} of {about['name']}",
                "verb": "sweeping",
                "workers": config.resources.workers,
                "resumed": "resumed" in about,
            }
        )
        board = Board(observer, spec)
        result = run_sweep(
            spec,
            TRIAL,
            payload,
            folder=folder.path,
            resources=config.resources,
            task=config.task,
            address=config.resources.address,
            on_event=board.hear,
            plugins=plugins,
        )
        best = result.best
        end |= {
            "exit_code": 128 + result.signal if result.signal else 0,
            "reason": STOPPED.get(result.signal) or f"{len(result.trials)} trials are done",
            "step": len(result.trials),
            "concurrent": result.concurrent,
            "failed_trials": result.failed,
        }
        if best is not None:
            end["metrics"] = {"sweep/best": float(best.score or math.nan)}
            end["best"] = {"metric": spec.metric, "value": best.score, "step": int(best.trial)}
            end["best_run"], end["best_values"] = best.outcome.get("run_id"), best.values
        elif not result.signal:
            end |= {"exit_code": 1, "reason": "every trial failed"}
        _promote(folder, options, observer, end)
    observer.on_end(
        {
            "run": folder.run_id,
            "status": folder.read()["status"],
            "reason": f"{end['reason']}; table in {folder.path / 'trials.csv'}",
            "best": end["best"],
            "best_run": end.get("best_run"),
            "values": end.get("best_values"),
            "metrics": {},
        }
    )


def _promote(folder: Any, options: run.Options, observer: RunObserver, end: dict[str, Any]) -> None:
    """Register the best trial's model once the sweep is complete."""
    run_id = end.get("best_run")
    complete = end["exit_code"] == 0 and options.register and not options.smoke
    if run_id and complete and (folder.path.parent / run_id).is_dir():
        end["model"] = promote(folder, folder.path.parent / run_id, observer)


def _spec(resolved: Resolved) -> Any:
    """The sweep's section with everything that is null decided."""
    from rayloom.distributed.sweep import SweepSpec
    from rayloom.training.plan import metric_direction

    config = resolved.config
    wanted = config.sweep
    metric = wanted.metric or config.checkpoint.metric or _default_metric(config)
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


def _default_metric(config: RunConfig) -> str:
    if config.task == "rl":
        return "eval/return_mean"
    from rayloom.core import catalogue

    assert config.model is not None
    model_class = catalogue.load("models", config.model.name)  # type: ignore[attr-defined]
    return "eval/elbo_nats" if hasattr(model_class, "elbo") else "eval/loss"


class Board:
    """Turns a sweep's events into a table for whoever watches.

    Args:
        observer: Who watches.
        spec: The sweep.
    """

    def __init__(self, observer: RunObserver, spec: Any) -> None:
        self.observer, self.spec = observer, spec
        self.rows: dict[str, dict[str, Any]] = {}

    def hear(self, event: Mapping[str, Any]) -> None:
        """One event of `run_sweep`; others are ignored."""
        if "row" not in event:
            return
        row = dict(event["row"])
        self.rows[row["trial"]] = row
        self.observer.on_table(
            {
                "kind": event["event"],
                "row": row,
                "rows": [self.rows[trial] for trial in sorted(self.rows)],
                "metric": self.spec.metric,
                "trials": self.spec.trials,
            }
        )


# ----------------------------------------------------------------------------------------- trial


class _Reporter(Silent):
    """Hands a trial's evaluations to the sweep, and knows when it is told to stop."""

    def __init__(self, report: Callable[..., bool]) -> None:
        self.report, self.told = report, False

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """Report, and remember the verdict."""
        self.told = bool(self.report(event["metrics"], event["position"])) or self.told

    def should_stop(self) -> int:
        """SIGTERM's number once the sweep says stop, else what the driver process was sent."""
        from rayloom.distributed.train import stop_signal

        return stop_signal() or (15 if self.told else 0)


def train_trial(
    payload: Mapping[str, Any], values: Mapping[str, Any], trial: str, report: Callable[..., bool]
) -> dict[str, Any]:
    """What Tune runs for one trial, in a process of its own.

    Args:
        payload: Made by `start_sweep`, JSON-able.
        values: What the search chose, by dotted path.
        trial: Its number as text.
        report: `report(metrics, step)` after each evaluation; True: stop.
    """
    from rayloom.core.plugins import load_plugins
    from rayloom.distributed.train import stop_signal

    load_plugins(payload["plugins"])
    resolved = resolve(payload["tree"], search=True, name=payload["name"])
    config = resolved.apply(values)
    options = run.Options(**payload["options"])
    if options.smoke:
        config = shorten(config)
    tracking = config.tracking.model_copy(update={"uri": payload["tracking_uri"]})
    config = config.model_copy(update={"tracking": tracking})
    scores, first = [], None
    for number in range(payload["seeds"]):
        own = config.model_copy(update={"seed": config.seed + number})
        reporter = _Reporter(report if number == 0 else _never)
        done = _one(own, payload, trial, options, reporter)
        about = done.read()
        if stop_signal():
            return {"interrupted": True}
        if about["status"] == "failed":
            raise RayloomError(about.get("reason", "the run failed"))
        first = first or done.run_id
        scores.append((about["summary"].get("best") or {}).get("value"))
        if reporter.told:
            break
    ended: dict[str, Any] = {"run_id": first}
    if len(scores) > 1 and None not in scores:
        ended["score"] = sum(scores) / len(scores)
    return ended


def _never(metrics: Mapping[str, float], step: int) -> bool:
    return False


def _one(
    config: RunConfig,
    payload: Mapping[str, Any],
    trial: str,
    options: run.Options,
    reporter: _Reporter,
) -> Any:
    """Start the run of a trial and seed, or go on with it."""
    from rayloom.records import RunFolder

    storage = Path(payload["tree"]["storage"])
    group = RunFolder(storage / payload["sweep"])
    for child in children_of(group):
        if child.about.get("trial") == trial and child.seed == config.seed:
            return run.resume(
                child.path, observer=reporter, plugins=payload["plugins"],
                should_stop=reporter.should_stop,
            )  # fmt: skip
    return run.start(
        config,
        payload["name"],
        options,
        observer=reporter,
        plugins=payload["plugin_facts"],
        should_stop=reporter.should_stop,
        trial=trial,
    )
