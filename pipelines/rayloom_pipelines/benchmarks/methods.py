"""`rayloom bench methods`: every method of the catalogue through everything that it must do.

Each cell is tried as a user would and gets a verdict with its figure or its reason; a cell that
fails stays in the table. What is done is kept in `matrix-out/` of the clone under the state of its
code, so that a run that was stopped goes on where it was; a cell of another state is tried again.

    rayloom bench methods            all that is missing, then docs/methods.md
    rayloom bench methods vae        one method
"""

import contextlib
import datetime
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom import catalogue
from rayloom.core.errors import RayloomError, UserError, did_you_mean
from rayloom.core.files import write_atomic
from rayloom.records.files import to_json
from rayloom_pipelines.benchmarks import methods_cells as cells
from rayloom_pipelines.benchmarks.methods_table import page

ROOT = Path(__file__).resolve().parents[3]
KEPT = "matrix-out"
QUICK = ("config", "page", "laws", "result")  # tried each time: seconds
CELLS: dict[str, Callable[[cells.Trial], str]] = {
    "config": cells.config,
    "page": cells.page,
    "laws": cells.laws,
    "trains": cells.trains,
    "2 workers": cells.workers,
    "resume": cells.resume,
    "sweep": cells.sweep,
    "registered": cells.registered,
    "result": cells.result,
}


@dataclass(frozen=True)
class Verdict:
    """What became of a cell.

    Attributes:
        passed: Whether it holds.
        said: A figure, or why it does not.
        seconds: How long it took.
        date: When, as YYYY-MM-DD.
        code: `fingerprint` of the code.
    """

    passed: bool
    said: str
    seconds: float
    date: str
    code: str


def run(*, names: Sequence[str] = (), say: Callable[[str], None] = print) -> dict[str, Any]:
    """Try what is missing and write `docs/methods.md`.

    Args:
        names: Methods; none: all of rayloom's own.
        say: Hears each verdict.

    Returns:
        {method: {cell: {"passed", "said", "seconds", "date", "code"}}}.

    Raises:
        UserError: This is no clone, or a name is none of a method.
    """
    methods = own_methods()
    for name in names:
        if name not in methods:
            hint = did_you_mean(name, methods)
            raise UserError(f"no method is called {name!r}{hint} Known: {', '.join(methods)}")
    if not (ROOT / "docs").is_dir() or not (ROOT / "tests").is_dir():
        raise UserError("bench methods needs a clone of rayloom: its pages, tests and configs")
    code = fingerprint(ROOT)
    with contextlib.ExitStack() as stack:
        ray = _SharedRay(stack)
        for name in names or methods:
            _try_method(name, methods[name], code, ray, say)
    table = {name: read(name) for name in methods}
    write_atomic(ROOT / "docs" / "methods.md", page(methods, table, list(CELLS)).encode())
    return {name: table[name] for name in names or methods}


def own_methods() -> dict[str, catalogue.Entry]:
    """Models and algorithms that rayloom ships, by name."""
    kinds = ("models", "algorithms")
    found = [entry for kind in kinds for entry in catalogue.entries(kind).values()]  # type: ignore[arg-type]
    return {entry.name: entry for entry in found if entry.source == "rayloom"}


def table(result: dict[str, Any]) -> str:
    """How many cells hold, and the ones that do not."""
    lines = []
    for name, row in result.items():
        failed = [f"{cell}: {one['said']}" for cell, one in row.items() if not one["passed"]]
        held = len(row) - len(failed)
        lines += [f"{name}: {held} of {len(CELLS)} cells hold", *(f"  {line}" for line in failed)]
    return "\n".join(lines)


def read(name: str) -> dict[str, Any]:
    """What is known of a method's cells, of whatever state of the code."""
    try:
        known = json.loads((ROOT / KEPT / f"{name}.json").read_bytes())
    except FileNotFoundError:
        return {}
    return {cell: known[cell] for cell in CELLS if cell in known}


def fingerprint(root: Path) -> str:
    """The state of what decides a verdict of training: code and configs."""
    digest = hashlib.sha256()
    for folder in ("platform", "envs", "pipelines", "configs"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _try_method(
    name: str,
    entry: catalogue.Entry,
    code: str,
    ray: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    known = read(name)
    due = [cell for cell in CELLS if cell in QUICK or known.get(cell, {}).get("code") != code]
    with tempfile.TemporaryDirectory(prefix="rayloom-methods-") as scratch:
        trial = cells.Trial(entry, ROOT, Path(scratch), ray)
        for cell in due:
            verdict = _verdict(CELLS[cell], trial, code)
            known[cell] = vars(verdict)
            say(f"{name}: {cell}: {'' if verdict.passed else 'FAILS: '}{verdict.said}")
            path = ROOT / KEPT / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, to_json(known, indent=1))


def _verdict(cell: Callable[[cells.Trial], str], trial: cells.Trial, code: str) -> Verdict:
    began = time.perf_counter()
    try:
        passed, said = True, cell(trial)
    except Exception as error:  # whatever a method does wrong is its cell's, not the table's end
        passed, said = False, " ".join(str(error).split())
        if not isinstance(error, cells.Missing | RayloomError):
            said = f"{type(error).__name__}: {said}"
    seconds = round(time.perf_counter() - began, 1)
    return Verdict(passed, said[:300], seconds, datetime.date.today().isoformat(), code)


class _SharedRay:
    """One local Ray for all cells, started when the first of them needs it.

    Args:
        stack: Ends it.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack, self._started = stack, False

    def __call__(self) -> None:
        if not self._started:
            from rayloom.distributed.cluster import start_ray

            self._stack.enter_context(start_ray("local", cpus=2))
            self._started = True
