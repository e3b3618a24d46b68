"""The way out for everything that rayloom writes on a terminal or into a pipe.

Whatever passes, be it our lines, a library's print, a log record or an error, has its secrets
hidden (`core.secrets`) and its control characters shown (`core.text`), and fits the encoding of
the stream. The command line puts an outlet in the place of standard output and standard error;
the observers of the Python API write through one of their own and leave the streams alone.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rayloom.core.secrets import mask
from rayloom.core.text import holdable, printable


class Outlet:
    """A text stream that writes to another one what may be seen.

    Args:
        stream: The stream behind; everything but writing is its own affair.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write what may be seen of a text."""
        self.stream.write(self._shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def control(self, text: str) -> None:
        """Write our own control characters: nothing of it may come from elsewhere."""
        self.stream.write(text)

    def _shown(self, text: str) -> str:
        if len(text) < 2:
            return printable(text)
        return holdable(printable(mask(text)), getattr(self.stream, "encoding", None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def outlet(stream: TextIO) -> Outlet:
    """The outlet of a stream; itself if it is one."""
    return stream if isinstance(stream, Outlet) else Outlet(stream)


@contextmanager
def guarded() -> Iterator[None]:
    """Standard output and standard error are outlets inside the block."""
    before = sys.stdout, sys.stderr
    # Python gives a process without these streams (a daemon) None
    ours = tuple(stream if stream is None else outlet(stream) for stream in before)
    sys.stdout, sys.stderr = ours  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, old, own in zip(("stdout", "stderr"), before, ours, strict=True):
            if getattr(sys, name) is own:
                setattr(sys, name, old)
