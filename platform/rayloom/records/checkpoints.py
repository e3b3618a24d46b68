"""Verified checkpoints: a resume starts from the newest one whose every byte is as it was written.

    checkpoints/step-000000000120/{state.safetensors, state.json, manifest.json, COMPLETE}
    checkpoints/chunks/<key>-<sha>.safetensors    large immutable blocks, shared by checkpoints
    checkpoints/quarantine/                       what did not verify

Order of a save: temporary folder, files (fsync), manifest with sizes and SHA-256 (fsync), rename,
and last the marker, which holds the manifest's own SHA-256. A kill at any place leaves the previous
checkpoints untouched and at most a folder without a marker, which the next start moves aside.

A disk that refuses is no reason to stop training: `save` says so once, cleans up and returns None.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from rayloom.core.errors import CheckpointError
from rayloom.core.failpoints import hit
from rayloom.core.files import fsync_dir, write_bytes
from rayloom.core.protocols import Chunk, State
from rayloom.records import state_codec
from rayloom.records.files import Say, is_disk_error, remove_tree, silent, to_json
from rayloom.records.inside import is_plain_file, is_plain_folder, parse_json, read_inside
from rayloom.records.manifest import (
    MARKER,
    MAX_MANIFEST,
    SCHEMA_VERSION,
    CheckpointInfo,
    NewerFormatError,
    agree,
    check_file,
    info_of,
    read_manifest,
)

__all__ = ["MARKER", "SCHEMA_VERSION", "CheckpointInfo", "Checkpoints"]

_STEP = re.compile(r"step-[0-9]{1,19}")
_TEMPORARY = ".saving-"
_REPLACED = ".replaced-"
_THREADS = max(1, min(4, os.cpu_count() or 1))


class Checkpoints:
    """The checkpoints of one run folder. Only the holder of the run's lock saves and prunes.

    Args:
        folder: `checkpoints/` of the run; made when needed.
        say: Hears about quarantined checkpoints and a disk that refuses.
        before_save: Called first in `save`: makes the journal durable.
        read_only: Never move or delete anything (a reader beside a living writer).
    """

    def __init__(
        self,
        folder: Path,
        *,
        say: Say = silent,
        before_save: Callable[[], object] | None = None,
        read_only: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._say, self._before_save, self._read_only = say, before_save, read_only
        self._verified: dict[str, str] = {}  # folder name: digest of the manifest that verified
        self._chunks: dict[str, dict[str, Any]] = {}  # written or read here
        self._refused: int | None = None  # the step that the disk refused last
        self._swept = False

    # ---- writing ----

    def save(
        self,
        step: int,
        state: State,
        *,
        metrics: Mapping[str, float],
        score: float | None = None,
        direction: Literal["min", "max"] = "max",
    ) -> CheckpointInfo | None:
        """Write a checkpoint; what stood at this step is replaced once the new one is complete.

        Args:
            step: Clock step.
            state: Nested state, see `state_codec`.
            metrics: Numbers to keep beside it.
            score: What `best` compares.
            direction: Whether a small or a large score is good.

        Returns:
            The checkpoint, or None if the disk refused (said; the earlier ones stand).

        Raises:
            TypeError: The state holds something that a checkpoint cannot.
        """
        hit("checkpoint.before")
        encoded = state_codec.encode(state)
        if self._before_save is not None:
            self._before_save()
        temporary = self.folder / f"{_TEMPORARY}{step}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            facts = {
                "schema_version": SCHEMA_VERSION,
                "step": int(step),
                "time_ms": time.time_ns() // 1_000_000,
                "score": _plain(score),
                "direction": direction,
                "metrics": {key: _plain(float(value)) for key, value in metrics.items()},
            }
            info = self._write(temporary, encoded, facts)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not is_disk_error(error):
                raise
            if self._refused != step:  # once for each checkpoint, however often it is tried
                self._say(
                    f"checkpoint at step {step} not written: {error.strerror}; training goes on"
                )
            self._refused = step
            return None
        if self._refused is not None:
            self._refused = None
            self._say(f"checkpoints can be written again (step {step})")
        hit("checkpoint.after")
        return info

    def _write(
        self, temporary: Path, encoded: state_codec.Encoded, facts: dict[str, Any]
    ) -> CheckpointInfo:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        chunks = self._store_chunks(encoded.chunks)
        size, digest = state_codec.write_arrays(temporary / "state.safetensors", encoded.arrays)
        files = {"state.safetensors": {"size": size, "sha256": digest}}
        hit("checkpoint.during")
        text = to_json(encoded.tree)
        write_bytes(temporary / "state.json", text)
        files["state.json"] = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        manifest = to_json(facts | {"files": files, "chunks": chunks}, indent=1)
        write_bytes(temporary / "manifest.json", manifest)
        fsync_dir(temporary)
        hit("checkpoint.before_rename")
        final = self.folder / f"step-{facts['step']:012d}"
        replaced = self._make_room(final)
        os.rename(temporary, final)
        fsync_dir(self.folder)
        hit("checkpoint.before_marker")
        seal = hashlib.sha256(manifest).hexdigest()
        write_bytes(final / MARKER, seal.encode())
        fsync_dir(final)
        self._verified[final.name] = seal
        if replaced is not None:
            remove_tree(replaced)
        return info_of(final, json.loads(manifest))

    def _make_room(self, final: Path) -> Path | None:
        """Move an earlier checkpoint of the same step aside; a sweep brings it back if need be."""
        if not final.exists():
            return None
        if not (final / MARKER).exists():
            self._quarantine(final, "no-marker")
            return None
        aside = self.folder / f"{_REPLACED}{final.name}"
        remove_tree(aside)
        os.rename(final, aside)
        return aside

    def _store_chunks(self, chunks: Mapping[str, Chunk]) -> dict[str, dict[str, Any]]:
        new = [chunk for key, chunk in chunks.items() if key not in self._chunks]
        if new:
            store = self.folder / "chunks"
            store.mkdir(exist_ok=True)
            with ThreadPoolExecutor(_THREADS) as pool:
                entries = list(pool.map(lambda chunk: _store_chunk(store, chunk), new))
            fsync_dir(store)
            self._chunks.update({c.key: e for c, e in zip(new, entries, strict=True)})
        return {key: self._chunks[key] for key in chunks}

    # ---- reading ----

    def complete(self) -> list[CheckpointInfo]:
        """Complete checkpoints, oldest first, by marker and manifest alone (no data is read)."""
        found = []
        for path in self._folders():
            with contextlib.suppress(CheckpointError, NewerFormatError, OSError):
                found.append(read_manifest(path)[0])
        return found

    def latest(self) -> CheckpointInfo | None:
        """The newest checkpoint that verifies; newer ones that do not are moved to quarantine."""
        self._sweep()
        for path in reversed(self._folders()):
            try:
                return self.verify(path)
            except NewerFormatError:
                raise
            except CheckpointError as error:
                self._say(f"checkpoint {path.name} is not used: {error}")
                if not self._read_only:
                    self._quarantine(path, "not-verified")
        return None

    def best(self) -> CheckpointInfo | None:
        """The best-scored checkpoint that verifies, the earliest of equals; None without scores."""
        ranked = [info for info in self.complete() if info.merit > -math.inf]
        for info in sorted(ranked, key=lambda info: (-info.merit, info.step)):
            with contextlib.suppress(CheckpointError):
                return self.verify(info.path)
        return None

    def verify(self, path: Path) -> CheckpointInfo:
        """Check every byte of a checkpoint and of its chunks (once per object and manifest).

        Raises:
            CheckpointError: What is missing, truncated or changed.
        """
        try:
            info, seal = read_manifest(path)
            if self._verified.get(path.name) == seal:
                return info
            store = self._store(info)
            jobs = [(path, name, entry) for name, entry in info.files.items()]
            jobs += [(store, entry["file"], entry) for entry in info.chunks.values()]
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(lambda job: check_file(*job), jobs))
            state_codec.check(path, store, {k: e["file"] for k, e in info.chunks.items()})
        except OSError as error:
            name = Path(error.filename or path).name
            raise CheckpointError(f"{name}: {error.strerror}") from error
        self._verified[path.name] = seal
        return info

    def load(self, step: int | CheckpointInfo) -> State:
        """The state of a checkpoint, verified as it is read; tensors are on the CPU.

        Raises:
            CheckpointError: There is none at this step, or it does not verify.
        """
        number = step.step if isinstance(step, CheckpointInfo) else int(step)
        path = self.folder / f"step-{number:012d}"
        try:
            info, seal = read_manifest(path)
            text = read_inside(path, "state.json", limit=state_codec.MAX_TREE)
            digest = hashlib.sha256(text).hexdigest()
            agree("state.json", info.files["state.json"], len(text), digest)
            arrays, size, digest = state_codec.read_arrays(path / "state.safetensors")
            agree("state.safetensors", info.files["state.safetensors"], size, digest)
            store = self._store(info)
            with ThreadPoolExecutor(_THREADS) as pool:
                items = list(info.chunks.items())
                chunks = dict(pool.map(lambda item: _load_chunk(store, item[0], item[1]), items))
            state = state_codec.decode_tree(text, arrays, chunks)
        except OSError as error:
            name = Path(error.filename or path).name
            raise CheckpointError(f"checkpoint {number}: {name}: {error.strerror}") from error
        self._verified[path.name] = seal
        self._chunks.update({key: dict(entry) for key, entry in info.chunks.items()})
        return state

    def _store(self, info: CheckpointInfo) -> Path:
        """The folder of chunk files.

        Raises:
            CheckpointError: The checkpoint has chunks, and the folder is a link.
        """
        store = self.folder / "chunks"
        if info.chunks and store.is_symlink():
            raise CheckpointError("chunks is a link, which is not followed")
        return store

    def put_aside(self, step: int) -> None:
        """Move a checkpoint that verifies but cannot be used to quarantine."""
        path = self.folder / f"step-{step:012d}"
        if not self._read_only and path.exists():
            self._quarantine(path, "not-usable")

    # ---- tidying ----

    def prune(self, keep_last: int, keep_best: int = 0) -> list[int]:
        """Delete all but the newest `keep_last` and the best `keep_best` checkpoints.

        The newest one that verifies and the best one that verifies are never deleted.

        Returns:
            The steps that were deleted.
        """
        if self._read_only:
            return []
        gone, _ = self.surplus(keep_last, keep_best)
        for info in gone:
            remove_tree(info.path)
            self._verified.pop(info.path.name, None)
        self._collect_chunks()
        return [info.step for info in gone]

    def surplus(
        self, keep_last: int, keep_best: int = 0
    ) -> tuple[list[CheckpointInfo], list[Path]]:
        """What `prune` would delete: checkpoints, and the chunk files that only they refer to."""
        known = self.complete()
        ranked = sorted(known, key=lambda info: (-info.merit, info.step))
        ranked = [info for info in ranked if info.merit > -math.inf]
        keep = {info.step for info in known[max(0, len(known) - keep_last) :]}
        keep |= {info.step for info in ranked[:keep_best]}
        for order in (list(reversed(known)), ranked):
            for info in order:
                with contextlib.suppress(CheckpointError):
                    self.verify(info.path)
                    keep.add(info.step)
                    break
        used = {e["file"] for c in known if c.step in keep for e in c.chunks.values()}
        gone = [info for info in known if info.step not in keep]
        files = {e["file"] for c in gone for e in c.chunks.values()} - used
        store = self.folder / "chunks"
        return gone, [store / name for name in sorted(files) if is_plain_file(store, name)]

    def _collect_chunks(self) -> None:
        """Delete chunk files that no checkpoint refers to."""
        store = self.folder / "chunks"
        if not is_plain_folder(store):
            return
        used: set[str] = set()
        for path in self._folders():
            try:
                manifest = parse_json(read_inside(path, "manifest.json", limit=MAX_MANIFEST))
                used |= {entry["file"] for entry in manifest["chunks"].values()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return  # a manifest that cannot be read may refer to anything
        for path in store.iterdir():
            if path.name not in used:
                with contextlib.suppress(OSError):
                    path.unlink()
        self._chunks = {k: e for k, e in self._chunks.items() if e["file"] in used}

    def _sweep(self) -> None:
        """Remove what a kill left: half-written folders; bring back a replaced checkpoint."""
        if self._swept or self._read_only or not self.folder.is_dir():
            return
        self._swept = True
        for path in list(self.folder.iterdir()):
            if path.name.startswith(_REPLACED):
                final = self.folder / path.name.removeprefix(_REPLACED)
                if final.exists() and not (final / MARKER).exists():
                    self._quarantine(final, "no-marker")
                if final.exists():
                    remove_tree(path)
                else:
                    with contextlib.suppress(OSError):
                        os.rename(path, final)
            elif path.name.startswith((_TEMPORARY, ".trash-")):
                remove_tree(path)

    def _quarantine(self, path: Path, reason: str) -> None:
        with contextlib.suppress(OSError):
            home = self.folder / "quarantine"
            home.mkdir(exist_ok=True)
            number = 0
            while (target := home / f"{path.name}-{reason}-{number}").exists():
                number += 1
            os.rename(path, target)

    def _folders(self) -> list[Path]:
        if self.folder.is_symlink():
            raise CheckpointError(f"{self.folder} is a link, which is not followed")
        if not self.folder.is_dir():
            return []
        names = [name for name in os.listdir(self.folder) if _STEP.fullmatch(name)]
        return [self.folder / name for name in sorted(names, key=lambda n: int(n[5:]))]


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else repr(value)


def _store_chunk(store: Path, chunk: Chunk) -> dict[str, Any]:
    """Write a chunk under a name made of its key and content, unless that file stands."""
    size, digest = state_codec.digest_arrays(chunk.arrays)
    label = "".join(c if c.isalnum() or c in "._-" else "-" for c in chunk.key)[:80]
    name = f"{label}-{digest[:16]}.safetensors"
    entry: dict[str, Any] = {"file": name, "size": size, "sha256": digest}
    path = store / entry["file"]
    with contextlib.suppress(OSError, CheckpointError):
        check_file(store, name, entry)
        return entry
    temporary = store / f".{entry['file']}.{os.getpid()}"
    try:
        state_codec.write_arrays(temporary, chunk.arrays)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return entry


def _load_chunk(store: Path, key: str, entry: Mapping[str, Any]) -> tuple[str, Chunk]:
    arrays, size, digest = state_codec.read_arrays(store / entry["file"])
    agree(entry["file"], entry, size, digest)
    return key, Chunk(key, {name: tensor.numpy() for name, tensor in arrays.items()})
