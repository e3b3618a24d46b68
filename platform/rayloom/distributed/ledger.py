"""The ledger of a sweep: JSON lines, appended and synced, from which a sweep goes on.

Lines, in the order in which things happened:

    {"type": "suggested", "trial": "0003", "values": {"optimizer.lr": 0.001}}
    {"type": "result", "trial": "0003", "evaluation": 2, "step": 900, "score": -98.1, "metrics": {}}
    {"type": "decision", "trial": "0003", "evaluation": 2, "action": "stop", "score": -98.1}
    {"type": "ended", "trial": "0003", "status": "done", "score": -97.2, "outcome": {...}}

`score` is the metric as it is (not negated). `status` is `done`, `stopped` (by the scheduler) or
`failed`. A trial that was suggested and has not ended is resumed. A half-written last line, left by
a kill, is cut off.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rayloom.core.errors import UserError
from rayloom.core.scores import best_index
from rayloom.records.inside import is_bare, open_inside

TrialStatus = Literal["running", "done", "stopped", "failed"]
Values = dict[str, Any]


@dataclass
class TrialRecord:
    """What the ledger knows of one trial.

    Attributes:
        trial: Number as text, `0003`.
        values: Dotted config path to value.
        results: (clock step, score) of each evaluation, in order.
        metrics: All metrics of the last evaluation.
        status: `running` until it ended.
        score: The score that counts: the trial's own final word, else its best evaluation.
        outcome: What the trial returned, or `{"error": ...}`.
        stopped_at: Evaluation at which the scheduler stopped it, or None.
    """

    trial: str
    values: Values
    results: list[tuple[int, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    status: TrialStatus = "running"
    score: float | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    stopped_at: int | None = None

    def best_of(self, mode: str) -> float | None:
        """The final score, or the best finite evaluation so far."""
        if self.score is not None:
            return self.score
        scores = [score for _, score in self.results]
        place = best_index(scores, mode)
        return None if place is None else scores[place]


class Ledger:
    """Reads what is there, then appends.

    Args:
        folder: The sweep's folder; `ledger.jsonl` and `trials.csv` lie in it.
        mode: `min` or `max`: which score is better.

    Raises:
        UserError: A line in the middle of the ledger cannot be read.
    """

    def __init__(self, folder: Path, mode: str) -> None:
        self.path = folder / "ledger.jsonl"
        self.table_path = folder / "trials.csv"
        self.mode = mode
        self.trials: dict[str, TrialRecord] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for line in _whole_lines(self.path):
            self._apply(line)
        self._file = self.path.open("ab")

    def _apply(self, line: Mapping[str, Any]) -> None:
        kind, trial = line["type"], line["trial"]
        if kind == "suggested":
            self.trials[trial] = TrialRecord(trial, dict(line["values"]))
            return
        record = self.trials[trial]
        if kind == "result":
            record.results.append((line["step"], _number(line["score"])))
            record.metrics = dict(line["metrics"])
        elif kind == "decision" and line["action"] == "stop":
            record.stopped_at = line["evaluation"]
        elif kind == "ended":
            record.status = line["status"]
            record.score = None if line["score"] is None else _number(line["score"])
            record.outcome = dict(line["outcome"])

    def _append(self, line: dict[str, Any]) -> None:
        self._apply(line)
        self._file.write(json.dumps(line, allow_nan=True, sort_keys=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def suggested(self, trial: str, values: Values) -> None:
        """A trial has values and may start."""
        self._append({"type": "suggested", "trial": trial, "values": values})

    def result(self, trial: str, *, step: int, score: float, metrics: Mapping[str, float]) -> int:
        """An evaluation came; gives its number, from 1. A step that is known is not added again."""
        steps = [known for known, _ in self.trials[trial].results]
        if step in steps:
            return steps.index(step) + 1
        number = len(steps) + 1
        line = {"type": "result", "trial": trial, "evaluation": number, "step": step}
        self._append({**line, "score": score, "metrics": dict(metrics)})
        return number

    def decision(self, trial: str, *, evaluation: int, score: float) -> None:
        """The scheduler stopped the trial at this evaluation."""
        line = {"type": "decision", "trial": trial, "evaluation": evaluation}
        self._append({**line, "action": "stop", "score": score})

    def ended(self, trial: str, status: TrialStatus, outcome: Mapping[str, Any]) -> None:
        """The trial is over; the table is written anew."""
        score = outcome.get("score")
        record = self.trials[trial]
        if score is None:
            score = record.best_of(self.mode)
        line = {"type": "ended", "trial": trial, "status": status, "score": score}
        self._append({**line, "outcome": dict(outcome)})
        self.write_table()

    def best(self) -> TrialRecord | None:
        """The ended trial with the best score; the earlier one of two equals."""
        ended = [self.trials[trial] for trial in sorted(self.trials, key=int)]
        done = [record for record in ended if record.status in ("done", "stopped")]
        place = best_index([record.score for record in done], self.mode)
        return None if place is None else done[place]

    def table(self) -> list[dict[str, Any]]:
        """One row per trial, in the order of their numbers: for the console and the CSV."""
        rows = []
        for trial in sorted(self.trials):
            record = self.trials[trial]
            step = record.results[-1][0] if record.results else 0
            rows.append(
                {
                    "trial": trial,
                    "status": record.status,
                    "score": record.best_of(self.mode),
                    "evaluations": len(record.results),
                    "step": step,
                    **record.values,
                    "run": record.outcome.get("run_id", ""),
                    "error": record.outcome.get("error", ""),
                }
            )
        return rows

    def write_table(self) -> None:
        """`trials.csv`, replaced in one move."""
        rows = self.table()
        if not rows:
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        part = self.table_path.with_suffix(".csv.part")
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(self.table_path)

    def close(self) -> None:
        """Write the table and close the file."""
        self.write_table()
        self._file.close()


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger; a last one without its end is cut off the file.

    Raises:
        UserError: It is no plain file, or one of its lines is none of a ledger.
    """
    if not os.path.lexists(path):
        return
    try:
        handle = open_inside(path.parent, path.name, os.O_RDWR, append=True)
        with os.fdopen(handle, "r+b") as file:
            data = file.read()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                file.truncate(end)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    trials: set[str] = set()
    for number, text in enumerate(data[:end].splitlines(), start=1):
        try:
            line = _checked(json.loads(text), trials)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{path}:{number}: not a line of a sweep's ledger ({error}); restore the file, or"
                " start a new sweep"
            ) from error
        trials.add(line["trial"])
        yield line


def _checked(line: Any, trials: set[str]) -> dict[str, Any]:
    """A line that holds what its type promises; `trials` are those before it.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(line, dict) or not isinstance(line.get("trial"), str):
        raise ValueError("it tells of no trial")
    kind, trial = line.get("type"), line["trial"]
    if not (trial.isascii() and trial.isdigit() and len(trial) <= 12):
        raise ValueError(f"the trial {trial[:40]!r} is no number")
    if kind != "suggested" and trial not in trials:
        raise ValueError(f"the trial {trial} was not suggested before")
    wanted: dict[str, Any] = {
        "suggested": {"values": dict},
        "result": {"step": int, "score": (int, float, type(None)), "metrics": dict},
        "decision": {"action": str, "evaluation": int},
        "ended": {"status": str, "score": (int, float, type(None)), "outcome": dict},
    }
    if kind not in wanted:
        raise ValueError(f"the type {kind!r} is not known")
    for key, types in wanted[kind].items():
        if isinstance(line[key], bool) or not isinstance(line[key], types):
            raise ValueError(f"{key} is {line[key]!r:.60}")
    if kind in ("result", "ended"):
        _number(line["score"])
    if kind == "result" and not 0 <= line["step"] < 2**63:
        raise ValueError(f"step is {line['step']:.3g}")
    run_id = line["outcome"].get("run_id") if kind == "ended" else None
    if run_id is not None and not is_bare(run_id):
        raise ValueError(f"run_id {run_id!r:.60} is no bare name")
    return line
