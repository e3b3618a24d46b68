"""Taking runs away: copies for others, and disk space back. A run that is being written is left."""

import contextlib
import csv
import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayloom.core.errors import RunLockedError, UserError
from rayloom.records.files import folder_size, is_disk_error, remove_tree, to_json, write_atomic
from rayloom.records.index import is_locked, summarise
from rayloom.records.journal_reader import history
from rayloom.records.lock import RunLock
from rayloom.records.run_folder import RunFolder

Format = Literal["folder", "zip", "csv", "json"]
_NOT_EXPORTED = {"lock.json", ".lock.guard", "tracking.json"}
_ORPHAN_AGE_S = 3600.0  # a folder half made by a living process is younger


def export_run(
    path: Path, target: Path, kind: Format, *, checkpoints: Literal["best", "all", "none"] = "best"
) -> Path:
    """Write a run to a folder, a zip, its curves as CSV, or everything but files as JSON.

    CSV columns: `step`, `key`, `value`, `time_ms`, one line a point, in the order of key and step.

    Args:
        path: Run folder.
        target: What to write; must not exist.
        kind: Which form.
        checkpoints: Which checkpoints a folder or zip holds (`best`: the best one, or the newest).

    Returns:
        The target.

    Raises:
        UserError: The target exists or cannot be written, or `path` is no run.
    """
    summary = summarise(path)
    if summary is None:
        raise UserError(f"{path} is not a run folder")
    if target.exists():
        raise UserError(f"{target} exists already")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            write_atomic(target, _csv(path).encode())
        elif kind == "json":
            write_atomic(target, _json(path))
        else:
            names = sorted(_files(path, checkpoints))
            _copy(path, target, names) if kind == "folder" else _zip(path, target, names)
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return target


def _csv(path: Path) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "key", "value", "time_ms"])
    for key, (steps, values, times) in sorted(history(path).items()):
        for step, value, at in zip(steps, values, times, strict=True):
            writer.writerow([int(step), key, repr(float(value)), int(at)])
    return text.getvalue()


def _json(path: Path) -> bytes:
    curves = {
        key: {
            "step": steps.tolist(),
            "value": [v if abs(v) < float("inf") else repr(v) for v in values.tolist()],
            "time_ms": times.tolist(),
        }
        for key, (steps, values, times) in sorted(history(path).items())
    }
    about = json.loads((path / "run.json").read_bytes())
    config = (path / "config.yaml").read_text(encoding="utf-8")
    return to_json({"run": about, "config_yaml": config, "metrics": curves}, indent=1) + b"\n"


def _files(path: Path, checkpoints: str) -> Iterator[str]:
    """Names, relative to the run folder, of what a copy holds."""
    from rayloom.records.checkpoints import Checkpoints

    store = Checkpoints(path / "checkpoints", read_only=True)
    chosen = []
    if checkpoints == "best":
        best = store.best() or store.latest()
        chosen = [best] if best is not None else []
    elif checkpoints == "all":
        chosen = store.complete()
    kept = {f"checkpoints/{info.path.name}" for info in chosen}
    chunks = {f"checkpoints/chunks/{e['file']}" for c in chosen for e in c.chunks.values()}
    for root, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            relative = os.path.relpath(os.path.join(root, name), path)
            if relative in _NOT_EXPORTED or name.startswith("."):
                continue
            inside = relative.startswith("checkpoints/")
            if not inside or relative in chunks or os.path.dirname(relative) in kept:
                yield relative


def _copy(path: Path, target: Path, names: list[str]) -> None:
    building = target.with_name(f".making-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    try:
        for name in names:
            place = building / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path / name, place)
        os.rename(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _zip(path: Path, target: Path, names: list[str]) -> None:
    building = target.with_name(f".making-{target.name}")
    try:
        with zipfile.ZipFile(building, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(path / name, f"{path.name}/{name}")
        os.replace(building, target)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Waste:
    """Something that `gc` may delete.

    Attributes:
        path: File or folder.
        size: Bytes.
        why: In a few words.
    """

    path: Path
    size: int
    why: str


def find_waste(storage: Path, *, keep_last: int = 1, keep_best: int = 1) -> list[Waste]:
    """What can go: half-made folders, quarantined and (of finished runs) surplus checkpoints.

    The newest and the best checkpoint that verify always stay. Runs that are being written are
    left alone. Nothing is changed.

    Args:
        storage: Where run folders live.
        keep_last: Newest checkpoints of a finished run to keep, at least 1.
        keep_best: Best checkpoints of a finished run to keep, at least 1.
    """
    found: list[Waste] = []
    if not storage.is_dir():
        return found
    for path in sorted(storage.iterdir()):
        if path.name.startswith((".making-", ".trash-")):
            if time.time() - path.stat().st_mtime > _ORPHAN_AGE_S:
                found.append(Waste(path, folder_size(path), "left by a killed process"))
        elif (path / "run.json").is_file() and not is_locked(path):
            found += _waste_of_run(path, max(1, keep_last), max(1, keep_best))
    return found


def _waste_of_run(path: Path, keep_last: int, keep_best: int) -> list[Waste]:
    from rayloom.records.checkpoints import Checkpoints

    home = path / "checkpoints"
    found = []
    if home.is_dir():
        for item in sorted(home.iterdir()):
            if item.name.startswith((".saving-", ".trash-")):
                found.append(Waste(item, folder_size(item), "left by a killed process"))
    if (home / "quarantine").is_dir():
        for item in sorted((home / "quarantine").iterdir()):
            found.append(Waste(item, folder_size(item), "in quarantine"))
    summary = summarise(path)
    if summary is not None and summary.status == "finished":
        surplus, chunks = Checkpoints(home, read_only=True).surplus(keep_last, keep_best)
        for info in surplus:
            found.append(Waste(info.path, folder_size(info.path), "older checkpoint"))
        for chunk in chunks:
            found.append(Waste(chunk, chunk.stat().st_size, "block of older checkpoints"))
    return found


def collect(waste: list[Waste]) -> int:
    """Delete what `find_waste` found; a run that is being written by now is skipped.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    for run in sorted({_run_of(item.path) for item in waste}, key=str):
        items = [item for item in waste if _run_of(item.path) == run]
        with contextlib.suppress(RunLockedError), contextlib.ExitStack() as stack:
            if (run / "run.json").is_file():
                stack.enter_context(RunLock(run))
            for item in items:
                if item.path.is_dir():
                    freed += item.size if remove_tree(item.path) else 0
                else:
                    with contextlib.suppress(OSError):
                        item.path.unlink()
                        freed += item.size
    return freed


def _run_of(path: Path) -> Path:
    """The run folder that holds a path, or its parent folder if none does."""
    for parent in path.parents:
        if (parent / "run.json").is_file():
            return parent
    return path.parent


def remove_run(path: Path) -> int:
    """Delete a run folder for good. Its MLflow run and registered versions stay.

    Returns:
        Bytes that were freed.

    Raises:
        RunLockedError: A living process writes to it.
        UserError: It is no run folder, or the disk refuses.
    """
    folder = RunFolder.open(path)
    size = folder_size(folder.path)
    with folder.lock():
        if not remove_tree(folder.path):
            raise UserError(f"{folder.path} could not be deleted in full")
    return size
