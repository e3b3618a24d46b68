"""Finding runs fast: one small file per run is read, and at most the end of its journal."""

import contextlib
import datetime
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.core.errors import ConfigError, UserError, did_you_mean
from rayloom.core.scores import best_index
from rayloom.records.about import read_about
from rayloom.records.attempts import best_so_far, needs_a_writer
from rayloom.records.files import Say, is_disk_error, silent
from rayloom.records.inside import is_plain_file
from rayloom.records.journal_reader import tail
from rayloom.records.lock import LOCK_NAME, holder
from rayloom.records.record import RUN_JSON, Best, Record, Summary

_STAMP = re.compile(r"-(\d{8}-\d{6})-[^-]+$")
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class RunSummary:
    """One line of `rayloom runs list`.

    Attributes:
        run_id: Id, also the folder's name.
        path: Run folder.
        name: Config name.
        kind: `run`, `sweep`, ... as its maker says.
        status: As `run.json` says; `killed` if it says running but nobody writes it.
        created: ISO time.
        step: Clock step of the last known point.
        metrics: Last known metrics.
        best: What the run calls its best result, if it does.
        parent: Id of the run that groups it with others.
        smoke: A run of seconds, hidden from lists.
        seed: Seed; None if unknown.
        record: The whole `run.json`.
    """

    run_id: str
    path: Path
    name: str
    kind: str
    status: str
    created: str
    step: int
    metrics: Mapping[str, float]
    best: Any
    parent: str | None
    smoke: bool
    seed: int | None
    record: Record = field(repr=False)

    @property
    def about(self) -> Mapping[str, Any]:
        """The same as a dict."""
        return self.record.to_dict()


def _folders(storage: Path) -> list[Path]:
    """Run folders by age, oldest first, told by their names alone."""
    try:
        with os.scandir(storage) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise UserError(f"cannot read {storage}: {error.strerror}") from error
    return [storage / name for name in sorted(names, key=lambda name: (_second(name), name))]


def _read(path: Path) -> Record | None:
    """`run.json`, or None where there is none that can be read."""
    with contextlib.suppress(UserError):
        return read_about(path).record
    return None


def _from_tail(path: Path) -> tuple[int, dict[str, float]]:
    """(step, metrics) of the last journal lines: what a killed run has not summed up."""
    step, metrics = 0, {}
    for line in tail(path / "journal.jsonl", max_bytes=_TAIL_BYTES):
        if line["type"] == "scalars":
            step = max(step, line["step"])
            metrics.update({key: float(value) for key, value in line["values"].items()})
    return step, metrics


def summarise(path: Path) -> RunSummary:
    """The summary of one run folder.

    Raises:
        UserError: It is none, or is damaged; says why.
    """
    record = read_about(path).record
    told, status = record.summary, record.status
    step, metrics, best = _of_summary(told) if told else (0, {}, None)
    if told is None or status in ("running", "created"):
        step, metrics = _from_tail(path)
    if needs_a_writer(record) and not is_locked(path):
        status = "killed"
    if status in ("running", "killed"):
        best = best_so_far(record)  # its earlier attempts' points still stand
    return RunSummary(
        run_id=path.name,
        path=path,
        name=record.name,
        kind=record.kind,
        status=status,
        created=record.created,
        step=step,
        metrics=metrics,
        best=best.to_dict() if best else None,
        parent=record.parent,
        smoke=record.smoke,
        seed=record.seed,
        record=record,
    )


def _of_summary(summary: Summary) -> tuple[int, dict[str, float], Best | None]:
    """(step, metrics, best) of a run's summary."""
    metrics = {k: float(value) for k, value in (summary.metrics or {}).items() if value is not None}
    return summary.step or 0, metrics, summary.best


def list_runs(
    storage: str | Path, *, smoke: bool = False, parent: str | None = None, say: Say = silent
) -> list[RunSummary]:
    """The runs below a storage folder, oldest first; an empty list where there is none.

    Args:
        storage: Where run folders live.
        smoke: Also list the runs of seconds that `--smoke` made.
        parent: Only the children of this run.
        say: Hears which run folders are left out, and what is wrong with their `run.json`.

    Raises:
        UserError: The folder cannot be read.
    """
    folders = _folders(Path(storage).expanduser())
    with ThreadPoolExecutor(4) as pool:
        summaries = list(pool.map(_summary_or_reason, folders))
    found = []
    for path, summary in zip(folders, summaries, strict=True):
        if isinstance(summary, RunSummary):
            found.append(summary)
        elif os.path.lexists(path / RUN_JSON):
            say(f"left out: {summary}")
    found = [s for s in found if (smoke or not s.smoke) and parent in (None, s.parent)]
    return sorted(found, key=lambda s: (_instant(s.created), s.run_id))


def _summary_or_reason(path: Path) -> RunSummary | str:
    try:
        return summarise(path)
    except UserError as error:
        return str(error)


def _instant(created: str) -> float:
    """Seconds since 1970 of a run's ISO time; 0 for one that is none."""
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


def resolve_run(ref: str | Path, storage: str | Path) -> Path:
    """The folder of a run.

    Args:
        ref: A path, an id, a unique prefix of one, or `latest` (the newest run that is neither a
            smoke run nor the child of another).
        storage: Where run folders live.

    Raises:
        UserError: None fits, or several do; names the candidates or the nearest id.
    """
    text, storage = str(ref), Path(storage).expanduser().absolute()
    direct = Path(text).expanduser()
    if _holds_run(direct):
        return direct.absolute()
    if not text or (os.sep in text and not _holds_run(storage / text)):
        raise UserError(f"{text!r} is not a run folder (no run.json in it)")
    if _holds_run(storage / text):
        return storage / text
    known = {path.name: path for path in _folders(storage)}
    if text == "latest":
        return _latest(list(known.values()), storage)
    fits = [name for name in known if name.startswith(text) and _holds_run(known[name])]
    if len(fits) == 1:
        return known[fits[0]]
    if fits:
        shown = "\n".join(f"  {name}" for name in fits[-10:])
        raise UserError(f"{text!r} fits {len(fits)} runs in {storage}, such as\n{shown}")
    otherwise = "" if known else " (there are no runs there)"
    hint = did_you_mean(text, known, otherwise=otherwise)
    raise UserError(f"no run in {storage} is called {text!r}{hint}")


def _holds_run(path: Path) -> bool:
    """Whether a `run.json` stands there, whole or damaged."""
    try:
        return os.path.lexists(path / RUN_JSON)
    except ValueError:  # no path at all
        return False


def _latest(folders: list[Path], storage: Path) -> Path:
    fallback: list[tuple[float, Path]] = []
    newest: list[tuple[float, Path]] = []
    stamp = None
    for path in reversed(folders):
        if newest and _second(path.name) != stamp:
            break
        record = _read(path)
        if record is None:
            continue
        fits = not record.smoke and not record.parent
        (newest if fits else fallback).append((_instant(record.created), path))
        if fits:
            stamp = _second(path.name)
    if not newest and not fallback:
        raise UserError(f"there are no runs in {storage}")
    return max(newest or fallback)[1]


def _second(name: str) -> str:
    """The date and time in a run's name, which end at seconds: several runs may share one."""
    stamp = _STAMP.search(name)
    return stamp[1] if stamp else ""


def config_of(path: Path) -> dict[str, str]:
    """A run's resolved config as dotted keys with text values; empty if it cannot be read."""
    from rayloom.config.resolved import leaves
    from rayloom.config.yaml_text import read

    if not is_plain_file(path, "config.yaml"):
        return {}
    try:
        tree = read(path / "config.yaml")
    except ConfigError:
        return {}
    if not isinstance(tree, Mapping):
        return {}
    return {path: "null" if value is None else str(value) for path, value in leaves(tree).items()}


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: Their summaries, in the order asked for.
        differences: Config key to one text per run (None: the run has no such key), only where
            they differ.
        metrics: Metric key to (last, best, step of the best) per run; None where it lacks it. Best
            follows the metric's direction; it is the last where there is none.
    """

    runs: list[RunSummary]
    differences: dict[str, list[str | None]]
    metrics: dict[str, list[tuple[float, float, int] | None]]


def compare(paths: Iterable[Path], *, say: Say | None = None) -> Comparison:
    """Compare runs by config and by deterministic metrics (whole journals are read).

    Args:
        paths: Run folders.
        say: Hears which cannot be read and are left out, and why; None: none may be.

    Raises:
        UserError: One of them (with `say`, each of them) cannot be read.
    """
    from rayloom.core.metric_table import direction, is_deterministic
    from rayloom.records.journal_reader import history
    from rayloom.records.told_metrics import told_metrics

    runs: list[RunSummary] = []
    curves, reason = [], ""
    for path in paths:
        try:
            summary, curve = summarise(path), history(path)
        except UserError as error:
            if say is None:
                raise
            reason = str(error)
            say(f"left out: {reason}")
            continue
        runs.append(summary)
        curves.append(curve)
    if not runs:
        raise UserError(reason or "there is no run to compare")
    configs = [config_of(run.path) for run in runs]
    keys = sorted(set().union(*configs)) if configs else []
    rows = {key: [config.get(key) for config in configs] for key in keys}
    own = {key: one for run in runs for key, one in told_metrics(run.record).items()}
    metrics: dict[str, list[tuple[float, float, int] | None]] = {}
    for key in sorted(set().union(*curves)) if curves else []:
        if not is_deterministic(key):
            continue
        metrics[key] = [None] * len(runs)
        for i, curve in enumerate(curves):
            if key in curve:
                metrics[key][i] = _ends(*curve[key][:2], direction(key, own))
    return Comparison(runs, {k: row for k, row in rows.items() if len(set(row)) > 1}, metrics)


def _ends(steps: Any, values: Any, way: str) -> tuple[float, float, int]:
    last = float(values[-1])
    place = None if way == "none" else best_index(values, way)
    if place is None:
        return last, last, int(steps[-1])
    return last, float(values[place]), int(steps[place])


def is_locked(path: Path) -> bool:
    """Whether a living process writes to the run folder."""
    with contextlib.suppress(OSError):
        now = holder(path) if (path / LOCK_NAME).exists() else None
        return now is not None and now.alive
    return False
