"""Run a command under a limit on real memory, and tell how much of it the command took.

The limit is that of a control group of its own below ours, where we may make one (v1, or v2 where
the memory controller is handed down): it counts everything, the page cache included, and the
kernel kills what does not fit. Elsewhere it is `RLIMIT_DATA` of each process: private writable
memory, which leaves out the page cache and the program text.
"""

import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PERIOD_S = 0.1


@dataclass(frozen=True)
class Told:
    """What a limited command did: its output, what held it, and its peak resident set in bytes.

    The resident set is the sum over the command and its children, sampled; of a single process
    it is the kernel's own high-water mark.
    """

    output: str
    returncode: int
    limited_by: str
    peak_rss: int


def run_limited(
    command: Sequence[str], limit: int, *, env: dict[str, str], cwd: Path, timeout: float
) -> Told:
    """Run a command in at most `limit` bytes."""
    with _limit(limit) as (kind, enter):
        child = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=enter,
        )
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(child, peak), daemon=True)
        watcher.start()
        try:
            output, _ = child.communicate(timeout=timeout)
        finally:
            child.kill()
            child.wait()
        watcher.join()
    return Told(output, child.returncode, kind, peak[0])


def _watch(child: subprocess.Popen, peak: list[int]) -> None:
    """Keep the largest resident set of the process tree in `peak[0]`."""
    while child.poll() is None:
        with contextlib.suppress(psutil.Error, OSError):
            top = psutil.Process(child.pid)
            both = sum(p.memory_info().rss for p in [top, *top.children(recursive=True)])
            peak[0] = max(peak[0], both, _high_water(child.pid))
        time.sleep(PERIOD_S)


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


@contextlib.contextmanager
def _limit(limit: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """What holds the command, and what the child calls before it becomes the command."""
    kind, group = _make_group(limit)
    if group is None:
        yield kind, lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        return
    try:
        yield kind, lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        _remove(group)


def _make_group(limit: int) -> tuple[str, Path | None]:
    """A control group with that limit, or None where we may not make one."""
    for kind, home, file in _homes():
        group = home / f"rayloom-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / file).write_text(str(limit))
            except OSError:
                _remove(group)
            else:
                return kind, group
    return "RLIMIT_DATA", None


def _homes() -> Iterator[tuple[str, Path, str]]:
    """Control groups of this process: kind, folder, and the file that holds a limit."""
    mounts = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield (
                "control group (v1)",
                mounts / "memory" / path.lstrip("/"),
                "memory.limit_in_bytes",
            )
        elif controllers == "":
            yield "control group (v2)", mounts / path.lstrip("/"), "memory.max"


def _remove(group: Path) -> None:
    """A group goes when its last process is gone, which may take a moment."""
    for _ in range(50):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
    print(f"{group} could not be removed", file=sys.stderr)
