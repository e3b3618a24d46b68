"""A run that groups others: K seeds, or the trials of a sweep. It has a folder and curves too."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.config.sections import RunConfig
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.run.attempt import start_follower
from rayloom_pipelines.run.beginning import open_attempt
from rayloom_pipelines.run.ending import (
    CAUSE_TAG,
    CLOSE_S,
    conclude,
    give_up,
    mlflow_status,
)
from rayloom_pipelines.run.folder import Options
from rayloom_pipelines.run.quiet import quiet

_STATUS = {0: "finished", 130: "interrupted", 143: "interrupted"}


def child_options(options: Options, parent: str) -> Options:
    """Options of a run inside a group: the group promotes the best one, not each its own."""
    return replace(options, parent=parent, register=False)


def children_of(folder: RunFolder) -> list[Any]:
    """Summaries of a group's runs, oldest first."""
    from rayloom.records import list_runs

    return list(list_runs(folder.path.parent, smoke=True, parent=folder.run_id))


@contextmanager
def open_group(
    folder: RunFolder, config: RunConfig, options: Options, observer: RunObserver
) -> Iterator[dict[str, Any]]:
    """Hold a group's lock and tracking; the block fills in how it ended.

    Yields a dict whose keys the block sets: `exit_code`, `reason`, `metrics` (of the group), `step`
    and `best` (as in an outcome); further keys go to `run.json`.
    """
    with folder.lock(), quiet(folder.log_path):
        record = folder.record
        if record.status == "created":
            folder.journal().tags({"rayloom.kind": record.kind})
            folder.journal().flush()
        mark, follower = open_attempt(folder, {}), None
        end: dict[str, Any] = {"exit_code": 1, "reason": "", "metrics": {}, "step": 0, "best": None}
        try:
            follower = start_follower(folder, config, options, observer)
            yield end
        except BaseException as error:
            give_up(folder, error, follower, observer, mark=mark)
            raise
        _close(folder, end, _STATUS.get(end["exit_code"], "failed"), follower)


def _close(folder: RunFolder, end: Mapping[str, Any], status: str, follower: Any | None) -> None:
    journal = folder.journal()
    if end["metrics"]:
        journal.scalars(end["step"], end["metrics"])
    if end.get("cause"):
        folder.log(f"failed: {end['cause']}; the tracebacks are in the runs' own log.txt")
        journal.tags({CAUSE_TAG: end["cause"]})
    summary = {key: end[key] for key in ("step", "metrics", "best")}
    facts = {key: value for key, value in end.items() if key not in summary}
    conclude(folder, status, facts | {"summary": summary})
    if follower is not None:
        follower.close(mlflow_status(status), CLOSE_S)


def promote(child: Path, observer: RunObserver) -> dict[str, Any] | None:
    """Register the model of a group's best run; gives what `run.json` notes of it."""
    from rayloom_pipelines.load.weights import config_of_folder
    from rayloom_pipelines.run.publish import publish

    best = RunFolder.open(child)
    if not best.record.tracking.uri:
        return None
    with best.lock():
        return publish(best, config_of_folder(child), observer)
