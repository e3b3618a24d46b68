"""Looks after a command that uses Ray, from a small process beside it.

Ray's core ends the process that it is in, without a word, when its object store breaks away under
it (the raylet was killed); and nobody cleans up after a SIGKILL. The witness waits for the end of a
pipe. Closed with a byte: all is well. Closed without: the command is gone, so what is left of its
Ray is ended, its temporary folder deleted, and it is said how to go on.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayloom.distributed import place

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
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, str(folder), note],
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
    if sys.stdin.buffer.read():
        return
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(f"{DIED} {note}\n")
        sys.stderr.flush()
    place.clear([place.Leftover(folder, 0, ())])
