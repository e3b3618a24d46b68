"""The one temporary folder of a command that uses Ray, and what killed commands left of theirs.

Ray's session (sockets, logs, spilled objects), Train's and Tune's scratch and whatever Ray's own
processes put into `TMPDIR` lie in one folder `rayloom-XXXXXXXX`. A mark in it names the process
that it belongs to, and every process of a local Ray has the folder's path in its environment or
its log open in it. So a later command knows what of a dead one is left, on this machine and of this
user, and takes only that away: never another Ray.

A Unix socket's path has at most 107 bytes (103 on macOS), of which Ray uses 68 below its folder. A
`TMPDIR` that is too long, missing, full or not writable is therefore passed over for `/tmp`.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.core.errors import RayloomError
from rayloom.records.lock import machine, start_ticks
from rayloom.records.scratch import MARK, PREFIX, write_mark

VARIABLE = "RAYLOOM_RAY_FOLDER"  # in the environment of every process of a local Ray
KEPT_S = 24 * 3600.0  # how long the logs of a Ray that failed are kept
ROOM_BYTES = 64 * 2**20  # a session's logs and sockets take some MB, pickled code some more
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")  # a raylet ends with either
_LONGEST = "/session_2026-11-25_03-02-44_784635_4194304/sockets/dash_MetricsHead"  # 7-digit pid


def longest_root() -> int:
    """Bytes that the path of a temporary folder may have for Ray's sockets to fit below it."""
    return _SOCKET_BYTES - len(f"/{PREFIX}XXXXXXXX{_LONGEST}")


def unfit(folder: str) -> str:
    """Why Ray's files cannot lie in this folder, in words; "" if they can."""
    path = Path(folder)
    if not path.is_absolute():
        return "is not an absolute path"
    if len(os.fsencode(folder)) > longest_root():
        return f"is too long for Ray's sockets (more than {longest_root()} bytes)"
    if not folder.isascii() or not folder.isprintable() or any(c in folder for c in " '\"\\"):
        return "has characters that Ray's command lines do not stand"
    if not path.exists():
        return "does not exist"
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as probe:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"{probe}/s")
            free = shutil.disk_usage(probe).free
    except OSError as error:
        return f"cannot be used ({error.strerror or error})"
    if free < ROOM_BYTES:
        return f"has {free / 2**20:.0f} MB free, {ROOM_BYTES >> 20} are needed"
    return ""


def roots(environ: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """(what it is called, folder) of where Ray's files may lie, the user's choice first."""
    environ = os.environ if environ is None else environ
    named = [(name, environ.get(name, "")) for name in ("RAY_TMPDIR", "TMPDIR")]
    named += [
        ("", "/tmp"),
        ("", "/var/tmp"),
        ("XDG_RUNTIME_DIR", environ.get("XDG_RUNTIME_DIR", "")),
    ]
    found: dict[str, str] = {}
    for name, folder in named:
        if folder:
            found.setdefault(os.path.normpath(folder), name)
    return [(name, folder) for folder, name in found.items()]


def choose_root(environ: Mapping[str, str] | None = None) -> tuple[str, list[str]]:
    """The first fit folder, and what is wrong with the ones before it, in words.

    Raises:
        RayloomError: None is fit.
    """
    passed: list[str] = []
    for name, folder in roots(environ):
        reason = unfit(folder)
        if not reason:
            return folder, passed
        passed.append(f"{name}={folder} {reason}" if name else f"{folder} {reason}")
    raise RayloomError(
        f"there is no folder for Ray's temporary files: {'; '.join(passed)}. Set RAY_TMPDIR to a"
        f" folder that you may write to, on a local disk, with a path of at most {longest_root()}"
        " bytes"
    )


def index() -> Path | None:
    """Where this user's folders are noted, since `TMPDIR` may change; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # no HOME, and no entry in the password file
        return (Path(base) if base else Path.home() / ".cache") / "rayloom" / "places"
    return None


def _note(folder: Path) -> None:
    noted = index()
    if noted is not None:
        with contextlib.suppress(OSError):  # a home that cannot be written to
            noted.mkdir(parents=True, exist_ok=True)
            (noted / folder.name).write_text(str(folder), encoding="utf-8")


def _noted() -> list[Path]:
    noted, found = index(), []
    if noted is not None and noted.is_dir():
        for entry in sorted(noted.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError, ValueError):
                folder = Path(entry.read_text(encoding="utf-8"))
                if folder.name != entry.name or not folder.exists():
                    entry.unlink()
                else:
                    found.append(folder)
    return found


@contextlib.contextmanager
def own_place() -> Iterator[Path]:
    """A marked temporary folder for the length of the block.

    It is removed afterwards, with every process that carries it in its environment. After a failure
    it is kept for a day, since Ray's logs lie there, and is named in the log.
    """
    root, passed = choose_root()
    for words in passed:
        logging.getLogger(__name__).warning("%s: Ray's files go to %s", words, root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    write_mark(folder)
    _note(folder)
    try:
        yield folder
    except RayloomError as error:
        end_processes(folder)
        if error.exit_code == 1 and (folder / "session_latest").exists():
            write_mark(folder, KEPT_S)
            logging.getLogger(__name__).warning("Ray's logs lie in %s/session_latest/logs", folder)
        else:
            _remove(folder)
        raise
    except BaseException:
        end_processes(folder)
        _remove(folder)
        raise
    end_processes(folder)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Delete; a process that was just killed may still have been writing."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.2)
    noted = index()
    if noted is not None and not folder.exists():
        with contextlib.suppress(OSError):
            (noted / folder.name).unlink()


# -------------------------------------------------------------------------------------- leftovers


@dataclass(frozen=True)
class Leftover:
    """What a dead command left: its folder, and processes of its Ray.

    Attributes:
        folder: Its temporary folder.
        owner: Process id that the command had.
        pids: Processes of its Ray that live.
        fresh: Whether it only keeps the logs of a Ray that failed, for a day.
    """

    folder: Path
    owner: int
    pids: tuple[int, ...]
    fresh: bool = False

    def __str__(self) -> str:
        count = len(self.pids)
        beside = f" and {count} process{'es' * (count != 1)} of its Ray" if count else ""
        return f"{self.folder}{beside}, of a command that is gone (process {self.owner})"


def find_leftovers(environ: Mapping[str, str] | None = None) -> list[Leftover]:
    """What dead commands of this user on this machine left."""
    folders = {folder.resolve(): folder for folder in _noted()}
    for _, root in roots(environ):
        with contextlib.suppress(OSError):
            for folder in sorted(Path(root).glob(f"{PREFIX}*")):
                folders.setdefault(folder.resolve(), folder)
    return [found for folder in folders.values() if (found := _leftover(folder)) is not None]


def clear(found: Sequence[Leftover]) -> None:
    """End the processes and delete the folders."""
    for leftover in found:
        end_processes(leftover.folder)
        _remove(leftover.folder)


def clear_old() -> list[Leftover]:
    """Take away what dead commands left, logs that are to be kept excepted; gives what it was."""
    found = [leftover for leftover in find_leftovers() if not leftover.fresh]
    clear(found)
    return found


def _leftover(folder: Path) -> Leftover | None:
    """What this folder is, if it is ours, of this machine, and its owner is dead."""
    try:
        status = folder.lstat()
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        owner, begun, where = int(mark["pid"]), int(mark["start"]), mark["machine"]
        keep_until = float(mark.get("keep_until", 0.0))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if folder.is_symlink() or status.st_uid != os.getuid() or where != machine():
        return None
    if begun and start_ticks(owner) == begun:
        return None
    return Leftover(folder, owner, tuple(processes_of(folder)), keep_until > time.time())


def processes_of(folder: Path) -> list[int]:
    """Live processes of the Ray in this folder (Linux; else none).

    A process that gives itself a title, as Ray's do, writes over part of its environment; what it
    has open in the folder, its log, tells too.
    """
    marks = {f"{name}={folder}".encode() for name in (VARIABLE, "TMPDIR", "RAY_TMPDIR")}
    return [
        pid
        for pid in own_processes()
        if not marks.isdisjoint(_variables(pid)) or _has_open_in(pid, str(folder))
    ]


def own_processes() -> list[int]:
    """Live processes of this user, except this one (Linux; else none)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            if entry.stat().st_uid == os.getuid() and pid != os.getpid() and start_ticks(pid) > 0:
                found.append(pid)
    return found


def processes_with(wanted: Collection[str]) -> list[int]:
    """Live processes of this user, not this one, that have all these in their environment."""
    needed = {text.encode() for text in wanted}
    return [pid for pid in own_processes() if needed <= _variables(pid)]


def _variables(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # it ended
        return set()


def _has_open_in(pid: int, folder: str) -> bool:
    """Whether it is one of Ray's and has a file of the folder open."""
    with contextlib.suppress(OSError):
        if b"ray" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(f"{folder}/"):
                    return True
    return False


def end_workers(folder: Path) -> None:
    """Kill the workers of the Ray in a folder; its head, raylet and their agents live.

    So whoever waits for a worker hears of it at once, and Ray's own shutdown is short: without a
    head to say goodbye to it takes five seconds, without a raylet it ends this process.
    """
    for pid in processes_of(folder):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            titled = command.startswith(b"ray::") and not command.startswith(_AGENTS)
            early = any(word.endswith(b"_worker.py") for word in command.split(b"\0")[:4])
            if titled or early:
                os.kill(pid, signal.SIGKILL)


def end_processes(folder: Path, wait_s: float = 5.0) -> None:
    """Kill every process of the Ray in a folder, and wait until they are gone."""
    end = time.monotonic() + wait_s
    while pids := processes_of(folder):
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            logging.getLogger(__name__).warning("processes of Ray did not end: %s", pids)
            return
        time.sleep(0.05)
