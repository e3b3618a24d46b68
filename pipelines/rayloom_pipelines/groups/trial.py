"""One trial of a sweep: a run of its own (one per seed), in a process of its own."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rayloom.catalogue.plugins import load_plugins, paths_of
from rayloom.config.resolved import Resolved, resolve
from rayloom.config.sections import RunConfig
from rayloom.core.errors import RayloomError
from rayloom.core.scores import best_index, mean
from rayloom.core.secrets import mask_urls
from rayloom.records.origin import carry
from rayloom.records.record import plain
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.console import Silent
from rayloom_pipelines.groups.group import child_options, children_of
from rayloom_pipelines.run import start as run
from rayloom_pipelines.run.folder import Options
from rayloom_pipelines.run.server import named_mlflow
from rayloom_pipelines.run.smoke import shorten


def payload_of(
    folder: RunFolder, resolved: Resolved, options: Options, spec: Any
) -> dict[str, Any]:
    """What `train_trial` needs to know of a sweep (folder, config, options, settled section)."""
    record = folder.record
    uri = named_mlflow(record, resolved.config)
    own, keys = child_options(options, folder.run_id), list(resolved.spaces)
    inside = replace(own, searched=keys, track=uri is not None)
    plugins = plain(record.plugins)
    return {
        "tree": resolved.to_dict() | {"storage": str(folder.path.parent)},
        "name": record.name,
        "sweep": folder.run_id,
        "metric": spec.metric,
        "mode": spec.mode,
        "seeds": record.sweep_seeds,
        "options": asdict(inside),
        "plugins": paths_of(plugins),
        "plugin_facts": plugins,
        "carried": carry(),
        "tracking_uri": uri,
    }


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
        payload: Of `payload_of`.
        values: What the search chose, by dotted path.
        trial: Its number as text.
        report: `report(metrics, step)` after each evaluation; True: stop.
    """
    from rayloom.distributed.train import stop_signal
    from rayloom.tracking import name_server

    name_server(payload["tracking_uri"], remember=False)
    load_plugins(payload["plugins"], remember=False)
    resolved = resolve(payload["tree"], search=True, name=payload["name"], new=False)
    config = resolved.apply(values)
    options = Options(**payload["options"])
    if options.smoke:
        config = shorten(config)
    uri = payload["tracking_uri"]
    if uri and mask_urls(uri) != uri:  # the password stays in this process's environment
        os.environ["MLFLOW_TRACKING_URI"] = uri
    tracking = config.tracking.model_copy(update={"uri": uri and mask_urls(uri)})
    config = config.model_copy(update={"tracking": tracking})
    scores, first = [], None
    for number in range(payload["seeds"]):
        own = config.model_copy(update={"seed": config.seed + number})
        reporter = _Reporter(report if number == 0 else _never)
        done = _one(own, payload, trial, options, reporter)
        record = done.record
        if stop_signal():
            return {"interrupted": True}
        if record.status == "failed":
            raise RayloomError(record.reason or "the run failed")
        first = first or done.run_id
        scores.append(_best(done.path, payload["metric"], payload["mode"]))
        if reporter.told:
            break
    ended: dict[str, Any] = {"run_id": first}
    if len(scores) > 1:
        ended["score"] = mean(scores)
    return ended


def _best(path: Path, metric: str, mode: str) -> float | None:
    """The best value of the sweep's metric in a run; None if none is finite."""
    from rayloom.records import history

    _, values, _ = history(path).get(metric, ((), (), ()))
    place = best_index(values, mode)
    return None if place is None else float(values[place])


def _never(*_: Any) -> bool:
    return False


def _one(
    config: RunConfig,
    payload: Mapping[str, Any],
    trial: str,
    options: Options,
    reporter: _Reporter,
) -> Any:
    """Start the run of a trial and seed, or go on with it."""
    storage = Path(payload["tree"]["storage"])
    group = RunFolder(storage / payload["sweep"])
    for child in children_of(group):
        if child.record.trial == trial and child.seed == config.seed:
            more = {"should_stop": reporter.should_stop, "carried": payload["carried"]}
            return run.resume(child.path, observer=reporter, **more)
    return run.start(
        config,
        payload["name"],
        options,
        observer=reporter,
        plugins=payload["plugin_facts"],
        should_stop=reporter.should_stop,
        trial=trial,
        carried=payload["carried"],
    )
