"""The attempts on one run: what belongs to one of them is cleared when the next begins.

`run.json` holds the facts of the run (`command`, `git`, `seed`, ...), those of the attempt that is
going on or was the last (`attempt`, `status`, and what `RESULTS` names once it ended), and what is
known of the ones before (`attempts`). All three change in one atomic write, so that a kill at any
moment leaves the end of one attempt or the beginning of the next, never a mixture.
"""

import contextlib
import datetime
import hashlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.records.about import About
from rayloom.records.files import sha256_file
from rayloom.records.record import Attempt, Best, Record

if TYPE_CHECKING:
    from rayloom.records.run_folder import RunFolder

RESULTS = (
    *("ended", "reason", "exit_code", "cause", "position", "progress", "summary"),
    *("parameters_sha256", "model"),
    *("best_run", "best_values", "seeds_table", "concurrent", "failed_trials"),  # of a group
)
_KEPT = (
    *("ended", "reason", "exit_code", "cause", "position"),
    *("parameters_sha256", "model", "best_run"),
)
_MADE_S = 60.0  # a folder this old was not made just now
MOST = 50  # attempts that are remembered: the first one and the last ones


@dataclass(frozen=True)
class Mark:
    """What an attempt found: its run's `run.json`, and how much had been written.

    Attributes:
        about: The content of `run.json` before the attempt began.
        written: Bytes of the journal and of a sweep's ledger, and the checkpoints by name.
        made: Files of this attempt alone.
    """

    about: About
    written: tuple[int, int, tuple[str, ...]]
    made: tuple[Path, ...] = ()


def begin(
    folder: "RunFolder",
    *,
    facts: Mapping[str, Any],
    diffs: Mapping[str, str] | None = None,
    **fields: Any,
) -> Mark:
    """Write down that an attempt begins; nothing of an earlier one's end stays in its place.

    Args:
        folder: The run folder, locked.
        facts: What is known of this attempt alone, such as the command.
        diffs: What is not committed now, by `git` or `library`; `git-2.diff` where it is another
            than before.
        fields: Further top-level fields of `run.json`.

    Raises:
        UserError: The disk refuses; then `run.json` is as it was.
    """
    before = folder.read()
    past = before.record.attempts
    if before.record.status != "created":
        past = [*past, _closed(folder.path, before.record)]
    if len(past) > MOST:
        past = [past[0], *past[-MOST + 1 :]]
    last = past[-1].number if past else 0
    number = 1 + (len(past) if last is None else last)
    attempt = {
        "number": number,
        "began": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "memory_kills": memory_kills(),
        **facts,
    }
    about = {key: value for key, value in before.items() if key not in RESULTS}
    about |= {"status": "running", "attempt": attempt, **fields}
    known = {_sha256_of(folder.path / f"{name}.diff") for name in diffs or ()}
    made = []
    for name, text in (diffs or {}).items():
        if hashlib.sha256(text.encode()).hexdigest() not in known:
            made.append(folder.path / f"{name}-{number}.diff")
            folder.put(made[-1], text.encode())
            made[-1].chmod(0o600)
    folder.replace(about | ({"attempts": past} if past else {}))
    return Mark(before, _written(folder.path), tuple(made))


def withdraw(folder: "RunFolder", mark: Mark) -> bool:
    """Put `run.json` back to what it was, if a resume has left nothing else behind.

    For one that was refused before its first step: that the user asked for too much does not change
    what the run is.

    Returns:
        Whether it was put back; a first attempt never is.
    """
    first = mark.about.record.status == "created"
    if first or folder.journal().waiting or _written(folder.path) != mark.written:
        return False
    folder.replace(mark.about)
    for path in mark.made:
        path.unlink(missing_ok=True)
    return True


def all_of(record: Record) -> list[Attempt]:
    """Every attempt that is known, oldest first; the one that `run.json` is about last."""
    if record.status == "created":
        return record.attempts
    return [*record.attempts, _entry(record)]


def needs_a_writer(record: Record) -> bool:
    """Whether a living process must hold the run's lock, or else it was killed.

    A folder that has just been made is locked a moment later.
    """
    if record.status != "created":
        return record.status == "running"
    made = datetime.datetime.fromisoformat(record.created).timestamp()
    return time.time() - made > _MADE_S


def best_so_far(record: Record) -> Best | None:
    """The best result of the newest attempt that has told one."""
    return next((one.best for one in reversed(all_of(record)) if one.best), None)


def _entry(record: Record) -> Attempt:
    own = record.attempt.to_dict() if record.attempt else {"number": 1, "began": record.created}
    told = record.to_dict()
    own |= {"status": record.status} | {key: told[key] for key in _KEPT if key in told}
    if record.best:
        own["best"] = record.best.to_dict()
    return Attempt.model_validate(own)


def _closed(folder: Path, record: Record) -> Attempt:
    """An attempt as it is remembered; one that never told its end was killed."""
    more: dict[str, Any] = {}
    if record.status == "running":
        more = {"status": "killed", "cause": why_killed(record)}
        with contextlib.suppress(OSError):
            files = [folder / "run.json", folder / "journal.jsonl"]
            newest = max(file.stat().st_mtime for file in files if file.exists())
            stamp = datetime.datetime.fromtimestamp(newest).astimezone()
            more["last_written"] = stamp.isoformat(timespec="seconds")
    told = _entry(record).to_dict()
    told.pop("memory_kills", None)
    return Attempt.model_validate(told | more)


def memory_kills() -> dict[str, Any]:
    """How many processes the kernel of this machine has killed for lack of memory since its start.

    Returns:
        `boot` (which start) and `count`; empty where the system does not tell.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (count,) = (int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, ValueError):
        return {}
    return {"boot": boot, "count": count}


def why_killed(record: Record) -> str:
    """What can be said of an attempt that never told its end: most likely, a lack of memory."""
    before = record.attempt.memory_kills if record.attempt else None
    text = "its process ended without a word (SIGKILL, a power cut, or too little memory)"
    now = memory_kills()
    if before is None or before.count is None or not now or before.boot != now["boot"]:
        return text
    killed = now["count"] - before.count
    if killed <= 0:
        return "its process was killed (SIGKILL); not by this machine's kernel for lack of memory"
    return (
        f"its process was killed; the kernel of this machine has killed {killed} for lack of memory"
        " since it began, most likely this one: take a smaller batch, model or buffer"
    )


def _written(folder: Path) -> tuple[int, int, tuple[str, ...]]:
    names: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        names = tuple(sorted(path.name for path in (folder / "checkpoints").glob("step-*")))
    return _size(folder / "journal.jsonl"), _size(folder / "ledger.jsonl"), names


def _sha256_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
