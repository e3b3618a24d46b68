"""The journal: every number, picture and file of a run, one JSON line each, only ever appended.

A point is keyed by (key, step) and the first one wins: a resumed run makes some points again, which
are compared and dropped. So the history of a killed and resumed run is that of an unbroken one.
Everything MLflow sees is read from here (`rayloom.tracking`).

Lines (UTF-8, one object each):

    {"type":"scalars","step":10,"time_ms":1760000000000,"values":{"loss/total":0.5}}
    {"type":"image","step":10,"time_ms":...,"key":"samples","path":"media/samples/10.png",
     "sha256":"..."}
    {"type":"file",...}   as image
    {"type":"tags","time_ms":...,"values":{"a":"b"}}
    {"type":"status","time_ms":...,"value":"finished"}

Floats are written by `repr` and come back in every bit; NaN and the infinities are the strings
`NaN`, `Infinity` and `-Infinity`, so that each line is strict JSON.

A disk that refuses (full, read-only, not permitted) stops nothing: lines and pictures wait in
memory, every flush tries again, and what a partial write left is cut off. Until then a SIGKILL
loses what waits, and only that.
"""

import hashlib
import math
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rayloom.core.errors import UserError
from rayloom.core.failpoints import hit
from rayloom.core.files import fsync_dir, write_atomic
from rayloom.core.metric_table import is_deterministic
from rayloom.core.secrets import mask_tree
from rayloom.records.files import Say, is_disk_error, silent, to_json
from rayloom.records.inside import make_folder_inside, open_inside
from rayloom.records.journal_reader import (
    decode_line,
    history,
    is_key,
    scan,
    stays_inside,
    tail,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Journal", "decode_line", "history", "tail"]

_FLUSH_BYTES = 64 * 1024
_FLUSH_S = 1.0


class SupportsFloat(Protocol):
    """A number: Python, numpy, or a tensor of one element."""

    def __float__(self) -> float: ...


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


class _Seen:
    """Values by step of one key: two flat arrays, 16 bytes a point."""

    __slots__ = ("steps", "values")

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")

    def get(self, step: int) -> float | None:
        """The value at a step."""
        steps = self.steps
        if not steps or step > steps[-1]:
            return None
        place = bisect_left(steps, step)
        return self.values[place] if steps[place] == step else None

    def add(self, step: int, value: float) -> None:
        """Remember one point; almost always the newest step."""
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.values.append(value)
            return
        place = bisect_left(self.steps, step)
        self.steps.insert(place, step)
        self.values.insert(place, value)


@dataclass
class _Pending:
    """What is not in the file yet: a line, and the media file that must stand before it."""

    line: bytes
    target: Path | None = None
    content: bytes = b""


class Journal:
    """A `Sink` that keeps everything in a run folder. One writer at a time (see the run's lock).

    Args:
        folder: The run folder; `journal.jsonl` and `media/` live in it.
        say: Hears, once each, about a torn line, a mismatch, a disk that refuses and its recovery.

    Attributes:
        mismatches: Regenerated points that differed in a key that must not differ.
        repeats: Regenerated points in all.

    Raises:
        UserError: The journal cannot be read.
    """

    def __init__(self, folder: Path, *, say: Say = silent) -> None:
        self.path = folder / "journal.jsonl"
        self._folder, self._say = folder, say
        self.mismatches = 0
        self.repeats = 0
        self._told: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self._media: dict[tuple[str, int], str] = {}
        self._pending: list[_Pending] = []
        self._pending_bytes = 0
        self._last_flush = time.monotonic()
        self._handle = -1
        self._trouble = ""
        self._good = self._load()

    # ---- reading what is there ----

    def _load(self) -> int:
        """Learn the points that stand; returns the offset after the last whole line."""
        if not os.path.lexists(self.path):
            return 0
        try:
            size = self.path.lstat().st_size
            good = scan(self.path, self._learn)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        if good < size:
            self._say(f"journal: cut a torn last line ({size - good} bytes) that a kill left")
        return good

    def _learn(self, line: Mapping[str, Any]) -> None:
        kind = line.get("type")
        if kind == "scalars":
            step = line["step"]
            for key, value in line["values"].items():
                self._of(key).add(step, float(value))
        elif kind in ("image", "file"):
            self._media[line["key"], line["step"]] = line["sha256"]

    def _of(self, key: str) -> _Seen:
        seen = self._seen.get(key)
        if seen is None:
            if not is_key(key):
                raise UserError(
                    f"{key!r} cannot be a metric or picture name: letters, digits, '_', '-', '.', "
                    f"' ' and '/', at most 250 of them"
                )
            seen = self._seen[key] = _Seen()
        return seen

    # ---- the sink ----

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Metric points at a clock step; those that the journal has already are dropped.

        Raises:
            UserError: A key that MLflow could not hold.
        """
        step, fresh = int(step), {}
        for key, number in values.items():
            value, seen = float(number), self._of(key)
            before = seen.get(step)
            if before is None:
                seen.add(step, value)
                fresh[key] = _number(value)
            else:
                self._repeat(key, step, _same(before, value), f"{before!r} before, {value!r} now")
        if fresh:
            self._line({"type": "scalars", "step": step, "values": fresh})

    def image(self, step: int, key: str, pixels: "np.ndarray") -> None:
        """One picture, uint8 (H, W, 3) or (H, W), as `media/<key>/<step>.png`.

        Raises:
            ValueError: Another type or shape.
        """
        self._medium("image", int(step), key, encode_png(pixels), ".png")

    def file(self, step: int, key: str, path: Path) -> None:
        """A copy of a file (a video), as `media/<key>/<step><its suffix>`."""
        path = Path(path)
        self._medium("file", int(step), key, path.read_bytes(), path.suffix)

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of the run; unlike points they may be said again and the last one counts."""
        self._line(
            {"type": "tags", "values": mask_tree({str(k): str(v) for k, v in values.items()})}
        )

    def status(self, value: str) -> None:
        """How an attempt began or ended: `running`, `finished`, `interrupted` or `failed`."""
        self._line({"type": "status", "value": value})

    def _medium(self, kind: str, step: int, key: str, content: bytes, suffix: str) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self._of(key)  # checks the name
        if not stays_inside(key):
            raise UserError(f"{key!r} cannot be a picture name: it leaves the media folder")
        before = self._media.get((key, step))
        if before is not None:
            self._repeat(key, step, before == digest, "another picture")
            return
        self._media[key, step] = digest
        path = f"media/{key}/{step}{suffix}"
        line = {"type": kind, "step": step, "key": key, "path": path, "sha256": digest}
        self._line(line, self._folder / path, content)

    def _repeat(self, key: str, step: int, same: bool, difference: str) -> None:
        self.repeats += 1
        if same or not is_deterministic(key):
            return
        self.mismatches += 1
        if key not in self._told:
            self._told.add(key)
            self._say(f"not bit-equal to the earlier attempt: {key} at step {step}, {difference}")

    def _line(self, line: dict[str, Any], target: Path | None = None, content: bytes = b"") -> None:
        stamped = {"type": line.pop("type")}
        if "step" in line:
            stamped["step"] = line.pop("step")
        stamped["time_ms"] = time.time_ns() // 1_000_000
        pending = _Pending(to_json(stamped | line) + b"\n", target, content)
        self._pending.append(pending)
        self._pending_bytes += len(pending.line) + len(content)
        late = time.monotonic() - self._last_flush > _FLUSH_S
        if late or (self._pending_bytes > _FLUSH_BYTES and not self._trouble):
            self.flush()

    # ---- to the disk ----

    @property
    def waiting(self) -> int:
        """Lines that are not in the file: 0 after a flush, unless the disk refuses."""
        return len(self._pending)

    def flush(self) -> bool:
        """Append what is waiting.

        Returns:
            Whether all of it is in the file; False while the disk refuses (said once).
        """
        self._last_flush = time.monotonic()
        if not self._pending:
            return True
        try:
            self._append()
        except OSError as error:
            if not is_disk_error(error):
                raise
            if not self._trouble:
                self._say(
                    f"journal: {error.strerror} ({self.path}); training goes on, points are kept "
                    f"in memory and written when the disk allows (a kill would lose them)"
                )
            self._trouble = error.strerror or "refused"
            return False
        if self._trouble:
            self._trouble = ""
            self._say("journal: the disk takes lines again, all waiting points are written")
        hit("journal.appended")
        return True

    def sync(self) -> bool:
        """Flush and fsync: what a checkpoint builds on must be durable first.

        Returns:
            Whether all is in the file.
        """
        done = self.flush()
        if self._handle >= 0:
            try:
                os.fsync(self._handle)
            except OSError as error:
                if not is_disk_error(error):
                    raise
                done = False
        return done

    def close(self) -> bool:
        """Sync and close; the journal may be used again afterwards.

        Returns:
            Whether all is in the file.
        """
        done = self.sync()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        return done

    def _append(self) -> None:
        if self._handle < 0:
            new = not os.path.lexists(self.path)
            flags = os.O_CREAT | os.O_WRONLY
            self._handle = open_inside(self._folder, self.path.name, flags, append=True)
            if new:
                fsync_dir(self._folder)
        if os.fstat(self._handle).st_size != self._good:
            self._catch_up()
        while self._pending:
            count = 0
            block: list[bytes] = []
            for item in self._pending:
                if item.target is not None and block:
                    break  # a medium stands before its line does
                if item.target is not None:
                    make_folder_inside(self._folder, item.target.parent.relative_to(self._folder))
                    write_atomic(item.target, item.content)
                block.append(item.line)
                count += 1
            self._write(b"".join(block))
            del self._pending[:count]
        self._pending_bytes = 0

    def _catch_up(self) -> None:
        """Take in what another process of this run has appended since; cut a torn last line."""
        size = os.fstat(self._handle).st_size
        if size < self._good:
            self._say(f"journal: somebody cut {self._good - size} bytes off {self.path}")
            self._good = 0
        self._good = scan(self.path, self._learn, self._good)
        os.ftruncate(self._handle, self._good)

    def _write(self, data: bytes) -> None:
        """All of it, or the file is as it was."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._handle, data[done:], self._good + done)
        except OSError:
            os.ftruncate(self._handle, self._good)
            raise
        self._good += len(data)


def encode_png(pixels: "np.ndarray") -> bytes:
    """PNG of a uint8 picture (H, W, 3) or (H, W); equal pixels give equal bytes.

    Raises:
        ValueError: Another type or shape.
    """
    import io

    import numpy as np
    from PIL import Image

    pixels = np.ascontiguousarray(pixels)
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(
            f"a picture is uint8 (H, W, 3) or (H, W), not {pixels.dtype} {pixels.shape}"
        )
    if 0 in pixels.shape:
        raise ValueError(f"a picture of shape {pixels.shape} has no pixels")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
