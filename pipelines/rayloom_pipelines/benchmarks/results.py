"""Measured results: one small file a run in `docs/results/METHOD/`, from which pages are made.

    python -m rayloom_pipelines.benchmarks.results RUN ...     note finished runs

Only what cannot be found out again is kept: config, seed, commit, figure, machine.
"""

import datetime
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayloom.core.errors import UserError
from rayloom.core.files import write_atomic
from rayloom.records.files import to_json
from rayloom.records.record import Machine, Record

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "results"
BEGIN, END = "<!-- results of {} -->", "<!-- end of results -->"


def add(ref: str, folder: Path = FOLDER) -> Path:
    """Note the result of a finished run.

    Args:
        ref: The run (see `api.load`).
        folder: Where results lie.

    Raises:
        UserError: The run is not finished, or it has no commit to name.
    """
    from rayloom_pipelines import api

    run = api.load(ref)
    record, config = run.record, run.config
    if run.status != "finished":
        raise UserError(f"run {run.id} is {run.status}: only a finished run has a result")
    if not run.best:
        raise UserError(f"run {run.id} is judged by nothing: give it a checkpoint.metric")
    git = record.library_git or record.git
    if git is None or not git.commit:
        raise UserError(f"run {run.id} names no commit of rayloom: train it from a clone")
    section = config.model or config.algorithm
    method = str(getattr(section, "name", ""))
    found = {
        "method": method,
        "config": record.name,
        "seed": config.seed,
        "metric": run.best["metric"],
        "best": run.best["value"],
        "best_step": run.best["step"],
        "last": record.evaluated,
        "steps": record.position,
        "seconds": _seconds(record),
        "commit": git.commit[:7] + ("+" if git.dirty else ""),
        "date": (record.ended or "")[:10],
        "machine": _machine(record),
        "torch": (record.packages or {}).get("torch"),
        "workers": config.resources.workers,
        "parameters_sha256": record.parameters_sha256,
    }
    target = folder / method / f"{run.id}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, to_json(found, indent=1) + b"\n")
    return target


def _seconds(record: Record) -> float | None:
    if record.ended is None:
        return None
    began, ended = map(datetime.datetime.fromisoformat, (record.created, record.ended))
    return max(0.0, round((ended - began).total_seconds(), 1))


def _machine(record: Record) -> str:
    found = record.machine or Machine()
    return f"{found.cpus or '?'} x {found.cpu or 'unknown CPU'}"


def of_method(folder: Path, method: str) -> list[dict[str, Any]]:
    """All results of a method, oldest first.

    Args:
        folder: Where results lie.
        method: Its name.
    """
    found = [json.loads(path.read_bytes()) for path in (folder / method).glob("*.json")]
    return sorted(found, key=lambda one: (one["date"], one["config"], one["seed"]))


def newest(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each config the results of its newest commit, one a seed."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in found:  # oldest first: a later one takes the place of its seed
        group = groups.setdefault(one["config"], [])
        if group and group[0]["commit"] != one["commit"]:
            group.clear()
        group[:] = [other for other in group if other["seed"] != one["seed"]] + [one]
    return groups


def figure(group: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds."""
    values = [float(one["best"]) for one in group]
    mean = statistics.fmean(values)
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean:.5g}{spread}"


def headline(found: Sequence[dict[str, Any]]) -> str:
    """One line for the table of methods: the config with the most seeds."""
    group = max(newest(found).values(), key=lambda one: (len(one), one[-1]["date"]))
    last = group[-1]
    seeds = f"{len(group)} seed{'s' * (len(group) > 1)}"
    return f"{last['metric']} {figure(group)} ({seeds}, {last['commit']}, {last['date']})"


def table(method: str, folder: Path = FOLDER) -> str:
    """The table of a page: a row a config."""
    rows = ["| config | metric | best, mean ± sd | seeds | seconds | commit | date | machine |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for config, group in sorted(newest(of_method(folder, method)).items()):
        last = group[-1]
        seconds = statistics.median(one["seconds"] or 0 for one in group)
        seeds = ", ".join(str(one["seed"]) for one in sorted(group, key=lambda one: one["seed"]))
        cells = [f"`{config}`", f"`{last['metric']}`", figure(group), seeds, f"{seconds:.0f}"]
        rows.append(
            "| " + " | ".join([*cells, last["commit"], last["date"], last["machine"]]) + " |"
        )
    return "\n".join(rows)


def fill(text: str, folder: Path = FOLDER) -> str:
    """A page with its tables made anew, between the two marks."""
    pattern = re.escape(BEGIN).replace(r"\{\}", r"([\w-]+)") + r".*?" + re.escape(END)

    def made(match: "re.Match[str]") -> str:
        name = match.group(1)
        return f"{BEGIN.format(name)}\n{table(name, folder)}\n{END}"

    return re.sub(pattern, made, text, flags=re.S)


def fill_pages(docs: Path = FOLDER.parent) -> list[Path]:
    """Make the tables of all pages anew; the pages that changed."""
    changed = []
    for path in sorted(docs.rglob("*.md")):
        text = path.read_text()
        new = fill(text, docs / "results")
        if new != text:
            path.write_text(new)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for word in sys.argv[1:]:
        print(add(word))
    for page in fill_pages():
        print(page)
