"""The manifest of a checkpoint: read as data of an unknown hand, typed and bounded.

    {"schema_version": 1, "step": 120, "time_ms": ..., "score": 0.5, "direction": "max",
     "metrics": {...}, "files": {"state.json": {"size", "sha256"}, "state.safetensors": {...}},
     "chunks": {key: {"file", "size", "sha256"}}}

File names in it are bare names: they are looked for in the checkpoint's own folder and in
`checkpoints/chunks`, nowhere else.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayloom.core.errors import CheckpointError, UserError
from rayloom.core.scores import merit
from rayloom.records.about import first_fault
from rayloom.records.inside import (
    NotPlainError,
    is_plain_folder,
    open_inside,
    parse_json,
    read_inside,
)
from rayloom.records.record import Bare, Count, Number, Sha256

SCHEMA_VERSION = 1
MARKER = "COMPLETE"
STATE_FILES = frozenset({"state.json", "state.safetensors"})
MAX_MANIFEST = 64 << 20  # a large replay has thousands of chunks


class NewerFormatError(UserError):
    """A newer rayloom wrote the checkpoint."""


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    size: Count
    sha256: Sha256


class _ChunkEntry(_Entry):
    file: Bare


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    step: Count
    time_ms: Count
    score: Number
    direction: Literal["min", "max"]
    metrics: dict[Annotated[str, Field(max_length=1000)], Number]
    files: dict[Bare, _Entry]
    chunks: dict[str, _ChunkEntry]


@dataclass(frozen=True)
class CheckpointInfo:
    """One complete checkpoint.

    Attributes:
        step: Clock step at which it was taken.
        path: Its folder.
        metrics: Metrics of the evaluation it goes with.
        score: What "best" compares; None if it was not evaluated.
        direction: Whether a small or a large score is good.
        time_ms: When it was written, ms since the epoch.
        files: Name to {"size", "sha256"}.
        chunks: Chunk key to {"file", "size", "sha256"}.
    """

    step: int
    path: Path
    metrics: Mapping[str, float]
    score: float | None
    direction: Literal["min", "max"]
    time_ms: int
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)
    chunks: Mapping[str, Mapping[str, Any]] = field(repr=False)

    @property
    def merit(self) -> float:
        """The score turned so that larger is better; -inf without a finite one."""
        return merit(self.score, self.direction)


def info_of(path: Path, manifest: Mapping[str, Any]) -> CheckpointInfo:
    """What a manifest that was checked says of the checkpoint in a folder."""
    score = manifest["score"]
    metrics = manifest["metrics"]
    return CheckpointInfo(
        step=manifest["step"],
        path=path,
        metrics={key: math.nan if v is None else float(v) for key, v in metrics.items()},
        score=None if score is None else float(score),
        direction=manifest["direction"],
        time_ms=manifest["time_ms"],
        files=manifest["files"],
        chunks=manifest["chunks"],
    )


def read_manifest(path: Path) -> tuple[CheckpointInfo, str]:
    """(what the manifest of a checkpoint's folder says, its digest); the marker must agree.

    Raises:
        CheckpointError: No marker, another manifest than the marker's, or one that makes no sense.
        NewerFormatError: A newer version of rayloom wrote it.
        OSError: Missing or unreadable.
    """
    if not is_plain_folder(path):
        if path.is_symlink():
            raise CheckpointError(f"{path.name} is a link, which is not followed")
        raise CheckpointError(f"there is no checkpoint {path.name}")
    try:
        seal = read_inside(path, MARKER, limit=1024)
    except FileNotFoundError as error:
        raise CheckpointError("it was never completed (no marker)") from error
    text = read_inside(path, "manifest.json", limit=MAX_MANIFEST)
    digest = hashlib.sha256(text).hexdigest()
    if seal != digest.encode():
        raise CheckpointError("manifest.json is not the one that was written")
    try:
        manifest = parse_json(text)
        _check_version(manifest, path)
        _Manifest.model_validate(manifest)
        if set(manifest["files"]) != STATE_FILES:
            raise ValueError(f"files must be {' and '.join(sorted(STATE_FILES))}")
        if path.name.startswith("step-") and manifest["step"] != int(path.name[5:]):
            raise ValueError(f"step is {manifest['step']}")
    except ValidationError as error:
        raise CheckpointError(f"manifest.json: {first_fault(error)}") from error
    except NewerFormatError:
        raise
    except ValueError as error:
        raise CheckpointError(f"manifest.json: {error}") from error
    return info_of(path, manifest), digest


def _check_version(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict):
        raise ValueError(f"holds a {type(manifest).__name__}")
    version = manifest.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"schema_version is {version!r}")
    if version > SCHEMA_VERSION:
        raise NewerFormatError(
            f"{path} was written by a newer rayloom (format {version}, "
            f"this one reads up to {SCHEMA_VERSION})"
        )


def agree(name: str, entry: Mapping[str, Any], size: int, digest: str) -> None:
    """Compare a file with its entry.

    Raises:
        CheckpointError: They differ.
    """
    if size != entry["size"]:
        raise CheckpointError(f"{name} has {size} bytes instead of {entry['size']}")
    if digest != entry["sha256"]:
        raise CheckpointError(f"{name} has changed (its SHA-256 differs)")


def check_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Compare every byte of a file with its entry.

    Raises:
        CheckpointError: It differs, or is no plain file.
        OSError: It cannot be read.
    """
    try:
        with os.fdopen(open_inside(folder, name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = ""
            if size == entry["size"]:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    except NotPlainError as error:
        raise CheckpointError(f"{name} {error.strerror}") from error
    agree(name, entry, size, digest)
