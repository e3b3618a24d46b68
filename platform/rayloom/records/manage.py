"""Taking runs away: copies for others, and disk space back. A run that is being written is left."""

import contextlib
import csv
import hashlib
import io
import os
import shutil
import stat
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayloom.core.errors import UserError
from rayloom.core.files import write_atomic
from rayloom.core.secrets import mask_tree
from rayloom.records.files import Say, folder_size, is_disk_error, remove_tree, silent, to_json
from rayloom.records.hiding import hidden_config, is_ours, outgoing
from rayloom.records.index import is_locked, summarise
from rayloom.records.inside import (
    copy_inside,
    is_plain_file,
    is_plain_folder,
    open_inside,
    walk_inside,
)
from rayloom.records.inside import kind as kind_of
from rayloom.records.journal_reader import history, media
from rayloom.records.lock import GUARD_NAME, LOCK_NAME, RunLock
from rayloom.records.manifest import STATE_FILES
from rayloom.records.run_folder import RunFolder

Format = Literal["folder", "zip", "csv", "json"]
_NOT_EXPORTED = {"lock.json", ".lock.guard", "tracking.json"}
_CORE = {"run.json", "config.yaml", "journal.jsonl"}  # read as what they are, whoever shares them
_ORPHAN_AGE_S = 3600.0  # a folder half made by a living process is younger


def export_run(
    path: Path,
    target: Path,
    kind: Format,
    *,
    checkpoints: Literal["best", "all", "none"] = "best",
    say: Say = silent,
) -> Path:
    """Write a run to a folder, a zip, its curves as CSV, or everything but files as JSON.

    CSV columns: `step`, `key`, `value`, `time_ms`, one line a point, in the order of key and step.

    Args:
        path: Run folder.
        target: What to write; must not exist.
        kind: Which form.
        checkpoints: Which checkpoints a folder or zip holds (`best`: the best one, or the newest).
        say: Hears what a folder or zip leaves out because it is no plain file of the run.

    Returns:
        The target.

    Raises:
        UserError: The target exists or cannot be written, or `path` is no run.
    """
    summarise(path)
    if os.path.lexists(target):
        raise UserError(f"{target} exists already")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            write_atomic(target, _csv(path).encode())
        elif kind == "json":
            write_atomic(target, _json(path))
        else:
            names = sorted(_files(path, checkpoints, say))
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
    folder = RunFolder.open(path)
    tree, config = folder.read(), folder.config_text
    whole = {"run": mask_tree(tree), "config_yaml": hidden_config(config), "metrics": curves}
    return to_json(whole, indent=1) + b"\n"


def _files(path: Path, checkpoints: str, say: Say) -> Iterator[str]:
    """Names, relative to the run folder, of what a copy holds."""
    from rayloom.records.checkpoints import Checkpoints

    store = Checkpoints(path / "checkpoints", read_only=True)
    chosen = []
    if not is_plain_folder(store.folder):
        pass  # the walk says what stands there
    elif checkpoints == "best":
        best = store.best() or store.latest()
        chosen = [best] if best is not None else []
    elif checkpoints == "all":
        chosen = store.complete()
    kept = {f"checkpoints/{info.path.name}" for info in chosen}
    chunks = {f"checkpoints/chunks/{e['file']}" for c in chosen for e in c.chunks.values()}
    proved = chunks | {f"{place}/{name}" for place in kept for name in STATE_FILES}
    proved |= _pictures(path)
    for relative, status in walk_inside(path):
        parts = relative.split("/")
        if relative in _NOT_EXPORTED or any(part.startswith(".") for part in parts):
            continue
        if not stat.S_ISREG(status.st_mode):
            say(f"left out: {relative} is {kind_of(status.st_mode)}, which is not followed")
            continue
        inside = relative.startswith("checkpoints/")
        if inside and relative not in chunks and os.path.dirname(relative) not in kept:
            continue
        if status.st_nlink > 1 and relative not in proved and relative not in _CORE:
            say(f"left out: {relative} has a second name (a hard link) outside of the run's record")
        else:
            yield relative


def _pictures(path: Path) -> set[str]:
    """The media files that are what the journal says, by their hash."""
    found = set()
    for line in media(path):
        with contextlib.suppress(OSError), _opened(path, line["path"]) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == line["sha256"]:
                found.add(line["path"])
    return found


def _opened(path: Path, name: str) -> io.BufferedReader:
    return os.fdopen(open_inside(path, name), "rb")


def _copy(path: Path, target: Path, names: list[str]) -> None:
    building = target.with_name(f".making-{target.name}")
    remove_tree(building)
    try:
        building.mkdir()
        for name in names:
            copy_inside(path, name, building)
            if is_ours(name):
                (building / name).write_bytes(outgoing(name, (building / name).read_bytes()))
        os.rename(building, target)
    except BaseException:
        remove_tree(building)
        raise


def _zip(path: Path, target: Path, names: list[str]) -> None:
    building = target.with_name(f".making-{target.name}")
    try:
        remove_tree(building)
        with zipfile.ZipFile(building, "x", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                with _opened(path, name) as source:
                    changed = max(os.fstat(source.fileno()).st_mtime, 315_532_800)  # of 1980
                    about = zipfile.ZipInfo(f"{path.name}/{name}", time.localtime(changed)[:6])
                    about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    with archive.open(about, "w", force_zip64=True) as place:
                        if is_ours(name):
                            place.write(outgoing(name, source.read()))
                        else:
                            shutil.copyfileobj(source, place, 1 << 20)
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


def find_waste(
    storage: Path, *, keep_last: int = 1, keep_best: int = 1, say: Say = silent
) -> list[Waste]:
    """What can go: half-made folders, quarantined and (of finished runs) surplus checkpoints.

    The newest and the best checkpoint that verify always stay. Runs that are being written are
    left alone, and so are links. Nothing is changed.

    Args:
        storage: Where run folders live.
        keep_last: Newest checkpoints of a finished run to keep, at least 1.
        keep_best: Best checkpoints of a finished run to keep, at least 1.
        say: Hears which runs are left out, and why.
    """
    found: list[Waste] = []
    if not storage.is_dir():
        return found
    for path in sorted(storage.iterdir()):
        if not is_plain_folder(path):
            if path.is_symlink() and os.path.lexists(path / "run.json"):
                say(f"left out: {path} is a link, which is not followed")
        elif path.name.startswith((".making-", ".trash-")):
            if time.time() - path.stat().st_mtime > _ORPHAN_AGE_S:
                found.append(Waste(path, folder_size(path), "left by a killed process"))
        elif os.path.lexists(path / "run.json") and not is_locked(path):
            try:
                found += _waste_of_run(path, max(1, keep_last), max(1, keep_best))
            except (UserError, OSError) as error:
                say(f"left out: {path.name}: {error}")
    return found


def _waste_of_run(path: Path, keep_last: int, keep_best: int) -> list[Waste]:
    from rayloom.records.checkpoints import Checkpoints

    home, found = path / "checkpoints", list[Waste]()
    summary = summarise(path)
    if not is_plain_folder(home):
        if os.path.lexists(home):
            raise UserError("checkpoints is no plain folder")
        return found
    for item in sorted(home.iterdir()):
        if item.name.startswith((".saving-", ".trash-")):
            found.append(Waste(item, folder_size(item), "left by a killed process"))
    if is_plain_folder(home / "quarantine"):
        for item in sorted((home / "quarantine").iterdir()):
            found.append(Waste(item, folder_size(item), "in quarantine"))
    if summary.status == "finished":
        surplus, chunks = Checkpoints(home, read_only=True).surplus(keep_last, keep_best)
        for info in surplus:
            found.append(Waste(info.path, folder_size(info.path), "older checkpoint"))
        for chunk in chunks:
            found.append(Waste(chunk, chunk.lstat().st_size, "block of older checkpoints"))
    return found


def collect(waste: list[Waste], *, say: Say = silent) -> int:
    """Delete what `find_waste` found; a run that is being written by now is skipped.

    Args:
        waste: What to delete.
        say: Hears of runs that were left alone, and why.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    for run in sorted({_run_of(item.path) for item in waste}, key=str):
        items = [item for item in waste if _run_of(item.path) == run]
        with contextlib.ExitStack() as stack:
            try:
                if os.path.lexists(run / "run.json"):
                    stack.enter_context(RunLock(run))
            except UserError as error:
                say(f"left alone: {error}")
                continue
            for item in items:
                inside = [p for p in item.path.parents if p != run and p.is_relative_to(run)]
                if all(map(is_plain_folder, inside)) and remove_tree(item.path):
                    freed += item.size
    return freed


def _run_of(path: Path) -> Path:
    """The run folder that holds a path, or its parent folder if none does."""
    for parent in path.parents:
        if os.path.lexists(parent / "run.json"):
            return parent
    return path.parent


def remove_run(path: Path) -> int:
    """Delete a run folder for good, damaged or not. Its MLflow run and registered versions stay.

    Returns:
        Bytes that were freed.

    Raises:
        RunLockedError: A living process writes to it.
        UserError: It is no run folder, or the disk refuses.
    """
    if not os.path.lexists(path / "run.json"):
        raise UserError(f"{path} is not a run folder (no run.json)")
    if not is_plain_folder(path):
        raise UserError(f"{path} is a link to {os.path.realpath(path)}; delete that, or the link")
    for name in (LOCK_NAME, GUARD_NAME):
        if os.path.lexists(path / name) and not is_plain_file(path, name):
            remove_tree(path / name)  # no writer laid that there
    size = folder_size(path)
    with RunLock(path):
        if not remove_tree(path):
            raise UserError(f"{path} could not be deleted in full")
    return size
