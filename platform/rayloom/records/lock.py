"""One writer per run folder: a lock file with a heartbeat.

The holder writes who it is and touches the file every few seconds. A second writer is refused while
the first lives. A dead holder is taken over: on the same machine its process id tells (with its
start time, so that a reused id does not count), elsewhere a heartbeat older than `stale_s` by the
file server's own clock. Taking and freeing are serialised by `flock` on a second file.
"""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rayloom.core.errors import RunLockedError, UserError
from rayloom.core.files import exclusive, write_atomic
from rayloom.records.files import Say, is_disk_error, silent, to_json
from rayloom.records.inside import NotPlainError, open_inside, parse_json, read_inside

LOCK_NAME = "lock.json"
GUARD_NAME = ".lock.guard"
HEARTBEAT_S = 5.0
STALE_S = 60.0


def start_ticks(pid: int) -> int:
    """Kernel start time of a process; 0 where it cannot be told, -1 for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return -1 if fields[0] == "Z" else int(fields[19])


def machine() -> str:
    """Identity of this boot and process-id space; equal only where process ids mean the same."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}|{boot}|{space}"


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder.

    Attributes:
        host: Host name.
        pid: Process id there.
        since_ms: When it took the lock, ms since the epoch.
        heartbeat_age_s: Seconds since its last heartbeat, by the file system's clock.
        alive: Whether it still counts as living.
        token: Unique for each taking.
    """

    host: str
    pid: int
    since_ms: int
    heartbeat_age_s: float
    alive: bool
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _is_alive(entry: dict[str, Any], age_s: float, stale_s: float) -> bool:
    if entry.get("machine") != machine():
        return abs(age_s) < stale_s  # a heartbeat in the future is none
    pid = entry["pid"]
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    started = start_ticks(pid)
    return not (started and entry.get("start_ticks") and started != entry["start_ticks"])


def holder(folder: Path, *, stale_s: float = STALE_S) -> Holder | None:
    """Who holds the lock of a run folder, dead or alive; None if it is free."""
    path = folder / LOCK_NAME
    try:
        entry = _read_entry(folder)
        age_s = _filesystem_now(folder) - path.lstat().st_mtime
        alive = _is_alive(entry, age_s, stale_s)
        host, pid, since = entry["host"], entry["pid"], entry["since_ms"]
        return Holder(host, pid, since, age_s, alive, entry["token"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, PermissionError, NotPlainError):
        return Holder("unknown", 0, 0, STALE_S, False, "")


def _read_entry(folder: Path) -> dict[str, Any]:
    """What a lock file holds.

    Raises:
        ValueError: Not what a holder writes.
        OSError: It cannot be read.
    """
    entry = parse_json(read_inside(folder, LOCK_NAME, limit=1 << 16))
    texts, numbers = ("host", "machine", "token"), ("pid", "start_ticks", "since_ms")
    if (
        not isinstance(entry, dict)
        or not all(isinstance(entry.get(key), str) for key in texts)
        or not all(type(entry.get(key)) is int for key in numbers)
        or not 0 <= entry["since_ms"] < 2**43
        or not 0 < entry["pid"] < 2**31
    ):
        raise ValueError(f"{LOCK_NAME} is not a holder's")
    return entry


def _filesystem_now(folder: Path) -> float:
    """The file server's clock: on a network mount it may differ from ours."""
    guard = folder / GUARD_NAME
    try:
        os.utime(guard, follow_symlinks=False)
        return guard.lstat().st_mtime
    except OSError:
        return time.time()


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Hold the guard file's `flock`."""
    with exclusive(open_inside(folder, GUARD_NAME, os.O_CREAT | os.O_RDWR)):
        yield


class RunLock:
    """The exclusive right to write into a run folder; a context manager.

    Args:
        folder: The run folder.
        heartbeat_s: Seconds between heartbeats.
        stale_s: A holder on another machine counts as dead after so many seconds of silence.
        say: Hears when a dead holder is taken over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        stale_s: float = STALE_S,
        say: Say = silent,
    ) -> None:
        self.folder = folder
        self._heartbeat_s, self._stale_s, self._say = heartbeat_s, stale_s, say
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, as far as its last heartbeat knows."""
        return self._thread is not None and not self._lost

    @property
    def lost(self) -> bool:
        """Whether another writer took over because this process had been silent for too long."""
        return self._lost

    def acquire(self) -> "RunLock":
        """Take the lock.

        Raises:
            RunLockedError: A living process has it; the message says which.
            UserError: The folder cannot be written.
        """
        path = self.folder / LOCK_NAME
        try:
            with _guarded(self.folder):
                current = holder(self.folder, stale_s=self._stale_s)
                if current is not None and current.alive:
                    since = time.strftime("%H:%M:%S", time.localtime(current.since_ms / 1000))
                    raise RunLockedError(
                        f"{self.folder.name} is being written by {current} since {since} "
                        f"(last sign of life {max(current.heartbeat_age_s, 0):.0f} s ago); "
                        f"wait for it or stop it"
                    )
                write_atomic(path, to_json(self._entry()))
        except OSError as error:
            if not is_disk_error(error):
                raise
            raise UserError(f"cannot lock {self.folder}: {error.strerror}") from error
        if current is not None:
            self._say(f"took over {self.folder.name} from {current}, which is gone")
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="rayloom-lock", daemon=True)
        self._thread.start()
        return self

    def _entry(self) -> dict[str, Any]:
        pid = os.getpid()
        return {
            "host": socket.gethostname(),
            "machine": machine(),
            "pid": pid,
            "start_ticks": start_ticks(pid),
            "since_ms": time.time_ns() // 1_000_000,
            "token": self._token,
        }

    def _is_ours(self) -> bool:
        try:
            return bool(_read_entry(self.folder)["token"] == self._token)
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return True  # unreadable just now: do not give up a lock for that

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            if not self._is_ours():
                self._lost = True
                return
            with contextlib.suppress(OSError):
                os.utime(self.folder / LOCK_NAME, follow_symlinks=False)  # needs no free space

    def release(self) -> None:
        """Free the lock; does nothing if another writer took it over."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join(timeout=1.0)
        with contextlib.suppress(OSError), _guarded(self.folder):
            if self._is_ours():
                (self.folder / LOCK_NAME).unlink()

    def __enter__(self) -> "RunLock":
        return self if self._thread is not None else self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
