"""The console log of a job, copied into its run folder as it grows; it outlives the cluster.

Ray keeps a job's output in its session folder, which goes with the head. So the job's process
starts a small one beside it (`follow_output`), in a session of its own, that copies new lines twice
a second and, when the job's process is gone for whatever reason, the rest. Secrets are masked and
control characters shown; a file has `LIMIT` bytes at most, then its middle is left out.
"""

import contextlib
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rayloom.core.files import write_atomic
from rayloom.core.secrets import mask
from rayloom.core.text import printable
from rayloom.records.files import is_disk_error

CONSOLE = "console.txt"
VARIABLE = "RAYLOOM_CONSOLE"  # set for the process of a job, and for no other one
LIMIT = 2 * 2**20  # bytes
_BLOCK = 256 * 1024
_LAST_TRIES = 60  # of a disk that is full when the process is gone
_HELD = 20_000  # bytes of a private key whose end is awaited
_LEFT_OUT = re.compile(rb"\[\.\.\. (\d+) bytes left out \.\.\.\]\n")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PREAMBLE = re.compile(r"Running entrypoint for job |.*\bjob_manager\.py:")


class Console:
    """A bounded text file in a run folder that is only appended to, but for its middle.

    Args:
        path: The file; a link in its place is replaced.
        limit: Bytes, at most.
    """

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self.path, self.limit = path, limit

    def write(self, text: str) -> None:
        """Append masked, printable text.

        Raises:
            OSError: The disk refuses.
        """
        if self.path.is_symlink():
            self.path.unlink()
        data = shown(text).encode("utf-8", "backslashreplace")
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(self.path, flags, 0o600)
        try:
            before = os.fstat(handle).st_size
            done = 0
            try:
                while done < len(data):
                    done += os.write(handle, data[done:])
            except OSError:
                os.ftruncate(handle, before)  # all of it or nothing: it is tried again
                raise
        finally:
            os.close(handle)
        if before + len(data) > self.limit:
            self._shorten()

    def _shorten(self) -> None:
        """Keep the first and the last quarter, in whole lines."""
        data = self.path.read_bytes()
        quarter = self.limit // 4
        head = data[: data.rfind(b"\n", 0, quarter) + 1]
        cut = data.find(b"\n", len(data) - quarter) + 1 or len(data) - quarter
        earlier = sum(int(match[1]) for match in _LEFT_OUT.finditer(data[len(head) : cut]))
        notes = sum(len(match[0]) for match in _LEFT_OUT.finditer(data[len(head) : cut]))
        count = cut - len(head) - notes + earlier
        note = b"[... %d bytes left out ...]\n" % count
        write_atomic(self.path, head + note + data[cut:], durable=False)


def shown(text: str) -> str:
    """Output as it may be read again: no colours, of a redrawn line the last state, no secrets."""
    lines = _COLOURS.sub("", text).split("\n")
    return printable(mask("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)))


def follow_output(folder: Path, *, title: str) -> bool:
    """Start copying what this process writes into the run folder, until the process is gone.

    Only in the process of a job, whose standard output is a file; once.

    Args:
        folder: The run folder.
        title: A line that stands before this attempt's output.

    Returns:
        Whether a copying process was started.
    """
    if not os.environ.pop(VARIABLE, None):
        return False
    source = Path(f"/proc/{os.getpid()}/fd/1")
    try:
        real = os.readlink(source)
        if not stat.S_ISREG(os.stat(source).st_mode):
            return False
    except OSError:
        return False
    reading, _writing = os.pipe()  # the writing end closes with this process
    home = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        subprocess.Popen(
            [sys.executable, "-m", "rayloom.records.console", real, str(folder / CONSOLE), title],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
    finally:
        os.close(reading)
    return True


def copy(
    source: Path,
    target: Console,
    *,
    title: str,
    over: Callable[[float], bool],
    pause_s: float = 0.5,
) -> None:
    """Copy a file that grows, until `over` and its end is reached.

    Args:
        source: What grows.
        target: Where to.
        title: A line to write first.
        over: Waits for some seconds at most; whether nothing more will come.
        pause_s: Between looks.
    """
    waiting = f"--- {title} ---\n"
    rest, first, ended = b"", True, False
    patience = _LAST_TRIES
    with open(source, "rb") as file:
        while patience:
            if ended:  # and the disk has refused what was left
                patience -= 1
                time.sleep(1.0)
            ended = ended or over(pause_s)
            block = b"x"
            while block:
                room = len(waiting) < _BLOCK
                block = file.read(_BLOCK) if room else b""
                text, rest = _whole(rest + block, ended=ended and room and not block)
                waiting, first = _after_preamble(waiting, text, first)
                waiting = "" if _try(target, waiting) else waiting
            if ended and not waiting and not rest:
                return


def _after_preamble(waiting: str, text: str, first: bool) -> tuple[str, bool]:
    """What waits and new text, without the job manager's own first lines."""
    lines = text.splitlines(keepends=True)
    while first and lines and _PREAMBLE.match(lines[0]):
        lines.pop(0)
    return waiting + "".join(lines), first and not lines


def _whole(data: bytes, *, ended: bool) -> tuple[str, bytes]:
    """(whole lines as text, what is kept for later): an unfinished line, an unfinished key."""
    cut = len(data) if ended or len(data) > _BLOCK else data.rfind(b"\n") + 1
    if not ended:
        key = max(data.rfind(b"-----BEGIN", 0, cut), 0)
        begun = b"PRIVATE KEY" in data[key : key + 60] and b"-----END" not in data[key:cut]
        if begun and cut - key < _HELD:
            cut = data.rfind(b"\n", 0, key) + 1
    return data[:cut].decode("utf-8", "replace"), data[cut:]


def _try(target: Console, text: str) -> bool:
    """Whether the text is written; a disk that refuses is asked again later."""
    if not text:
        return True
    try:
        target.write(text)
    except OSError as error:
        if not is_disk_error(error):
            raise
        return False
    return True


def end_of(path: Path, lines: int, *, max_bytes: int = 64 * 1024) -> list[str]:
    """The last lines of a log, fit for a terminal; none if it is no plain file (a link, say)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            return []
        file.seek(max(0, about.st_size - max_bytes))
        text = file.read(max_bytes).decode("utf-8", "replace")
    return [line for line in shown(text).split("\n") if line.strip()][-lines:]


def main() -> None:
    """`python -m rayloom.records.console SOURCE TARGET TITLE`, until standard input is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the job is told to stop, and has more to say
    source, target, title = sys.argv[1:4]

    def over(pause_s: float) -> bool:
        return bool(select.select([0], [], [], pause_s)[0])

    with contextlib.suppress(OSError):
        copy(Path(source), Console(Path(target)), title=title, over=over)


if __name__ == "__main__":
    main()
