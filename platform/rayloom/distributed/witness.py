"""Looks after a command that uses Ray, from a small process beside it.

Ray's core ends the process that it is in, without a word, when its object store breaks away under
it (the raylet was killed); and nobody cleans up after a SIGKILL. The witness waits for the end of a
pipe. Closed with a byte: all is well. Closed without: the command is gone, so what is left of its
Ray is ended, its temporary folders are deleted, and it is said how to go on.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayloom.distributed import place
from rayloom.records.lock import start_ticks

ENDED_S = 5.0
DIED = "rayloom: the command died without a word: it was killed, or the Ray under it was."
_CODE = "from rayloom.distributed.witness import main; main()"


@contextmanager
def witnessed(folder: Path, note: str) -> Iterator[None]:
    """A witness for the length of the block.

    Args:
        folder: The command's temporary folder.
        note: What to tell the user should the command die: which run, and how to go on.
    """
    root = str(Path(place.__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, str(folder), note, str(own), str(start_ticks(own))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # whoever reads the command's events waits for their end
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # a terminal's Ctrl-C is not for it
    )
    assert process.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            process.stdin.write(b".")
            process.stdin.close()
        process.wait()


def main() -> None:
    """The witness's own process: folder and note in its arguments, the pipe as its input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder, note = Path(sys.argv[1]), sys.argv[2]
    owner, begun = int(sys.argv[3]), int(sys.argv[4])
    if sys.stdin.buffer.read():
        return
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(f"{DIED} {note}\n")
        sys.stderr.flush()
    place.clear([place.Leftover(folder, 0, ())])
    end = time.monotonic() + ENDED_S
    while 0 < begun == start_ticks(owner) and time.monotonic() < end:  # the pipe closes first
        time.sleep(0.05)
    place.clear([one for one in place.find_leftovers() if one.owner == owner])
