"""Temporary folders that can be told from others' once their process was killed.

A mark in the folder names the process that it belongs to: `rayloom.distributed.place` finds those
whose process is gone, and takes them away.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayloom.records.lock import machine, start_ticks

PREFIX = "rayloom-"
MARK = "owner.json"


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for the length of the block; the folder in it is empty."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as root:
        write_mark(Path(root))
        inside = Path(root) / "scratch"
        inside.mkdir()
        yield inside


def write_mark(folder: Path, keep_s: float = 0.0) -> None:
    """Say whose folder it is.

    Args:
        folder: That exists.
        keep_s: Seconds that it is to stay after its process has ended.
    """
    pid = os.getpid()
    until = time.time() + keep_s if keep_s else 0.0
    mark = {"pid": pid, "start": start_ticks(pid), "machine": machine(), "keep_until": until}
    (folder / MARK).write_text(json.dumps(mark), encoding="utf-8")
