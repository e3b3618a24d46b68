"""How an attempt on a run folder begins: the last one's end is put aside, its origin is noted."""

import datetime
import socket
from collections.abc import Mapping
from typing import Any

from rayloom.config.resolved import to_dict
from rayloom.config.sections import RunConfig
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.run.ending import CAUSE_TAG


def begin(
    folder: RunFolder, config: RunConfig, *, resume: bool, carried: Mapping[str, Any] | None = None
) -> Any:
    """Write down that an attempt on a run begins; gives what `attempts.withdraw` needs.

    Args:
        folder: The run folder, locked.
        config: What holds now.
        resume: Whether there was an attempt before.
        carried: Of `records.origin.carry`, in a trial.
    """
    from rayloom.records import attempts

    record, now = folder.record, to_dict(config)
    noted: dict[str, Any] = {"config_now": now}
    if resume:
        entry: dict[str, Any] = {"time": _now()}
        if record.config_now not in (None, now):
            entry["train"] = now["train"]
        noted["resumed"] = [*record.resumed, entry][-attempts.MOST :]
    return open_attempt(folder, noted, carried)


def open_attempt(
    folder: RunFolder, noted: Mapping[str, Any], carried: Mapping[str, Any] | None = None
) -> Any:
    """Write down that an attempt begins, in `run.json` and for MLflow; a job's output is copied.

    Args:
        folder: The run folder, locked.
        noted: Further fields of `run.json`.
        carried: Of `records.origin.carry`, in a trial.
    """
    from rayloom.records import attempts, origin
    from rayloom.records.console import follow_output

    record = folder.record
    facts: dict[str, Any] = {}
    diffs: dict[str, str] = {}
    if record.status != "created":  # else run.json itself says it
        facts, diffs = origin.brief(origin.describe_run(carried))
    if record.cause:
        folder.journal().tags({CAUSE_TAG: ""})
        folder.journal().flush()
    mark = attempts.begin(folder, facts=facts, diffs=diffs, **noted)
    begun = folder.record
    job = (begun.attempt and begun.attempt.job) or begun.job
    number = begun.attempt.number if begun.attempt else 1
    title = f"job {job and job.id}, attempt {number}, {_now()}, on {socket.gethostname()}"
    follow_output(folder.path, title=title)
    return mark


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
