"""What `rayloom runs show` prints of a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayloom.core.text import one_line
from rayloom.records.attempts import why_killed
from rayloom.records.record import Record
from rayloom_pipelines.facade import Run

CONSOLE_LINES, LOG_LINES = 12, 12
_UNFINISHED = ("failed", "killed", "interrupted", "time_limit")


def page_of(found: Run) -> list[str]:
    """The lines, each fit for a terminal."""
    record = found.record
    head = one_line(f"{found.id}  {found.status}: {record.reason or ''}".rstrip(": "))
    lines = [head]
    for name, value in _facts(found, record):
        lines.append(one_line(f"  {name:<18} {value}"))
    for child in found.children:
        told = number((child.best or {}).get("value", "")) or child.record.cause or ""
        lines.append(one_line(f"  {child.id}  {child.status}  {told}".rstrip()))
    lines += _logs(found)
    if found.status in _UNFINISHED:
        lines.append(one_line(f"  go on with: rayloom resume {found.id}"))
    return lines


def _facts(found: Run, record: Record) -> Iterator[tuple[str, Any]]:
    for key in ("name", "created", "ended", "command", "seed", "parameters_sha256"):
        if (told := getattr(record, key)) is not None:
            yield key, told
    if record.cause:
        if record.cause != record.reason:
            yield "cause", record.cause
        yield "traceback", found.folder.log_path
    elif found.status == "killed":
        yield "cause", why_killed(record)
    if record.data:
        yield "data", f"{record.data.name} {record.data.fingerprint[:12]}"
    for field, stage in record.stages.items():
        yield field, f"{stage.run} at step {stage.step:,}"
    for line in attempt_lines(found.attempts):
        yield "attempt", line
    git, job = record.git, record.job
    if git and git.commit:
        yield "git", f"{git.commit[:12]}{' with changes' if git.dirty else ''}"
    if job:
        yield "job", f"{job.id} on {job.host}, Ray {job.ray}"
    best = found.best or {}
    if {"metric", "value", "step"} <= best.keys():
        yield "best", f"{best['metric']} {number(best['value'])} at step {best['step']:,}"
    for key, value in sorted(found.metrics.items()):
        yield key, number(value)
    if found.model_uri:
        yield "model", found.model_uri
    for key, files in sorted(found.pictures().items()):
        yield key, files[-1]


def attempt_lines(attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each start of a run, where there was more than one: when, how it ended, how far it came."""
    if len(attempts) < 2:
        return []
    return [
        f"{one.get('number')}: {one.get('began')} on {one.get('host', 'unknown')}, "
        f"{one.get('status')}"
        + (f" at step {one['position']:,}" if isinstance(one.get("position"), int) else "")
        + (f" ({one['reason']})" if one.get("reason") else "")
        for one in attempts
    ]


def _logs(found: Run) -> Iterator[str]:
    """The end of a job's console log; of a run that did not end well also that of its log."""
    from rayloom.records.console import CONSOLE, end_of

    wanted = [(found.path / CONSOLE, CONSOLE_LINES)]
    if found.status in _UNFINISHED:
        wanted.append((found.folder.log_path, LOG_LINES))
    for path, count in wanted:
        last = end_of(path, count)
        if last:
            yield one_line(f"  the end of {path}:")
            yield from (f"    {line}" for line in last)


def number(value: Any) -> str:
    """A metric's value as a person reads it."""
    return f"{value:.5g}" if isinstance(value, int | float) else str(value)
