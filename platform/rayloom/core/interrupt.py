"""Ctrl-C and SIGTERM from the first moment of a command on.

A handler's exception is raised wherever the program stands, also deep in the import of a library
that catches everything: there it is lost, or comes out as another error. So the signal is also
remembered, and whoever is about to begin something long asks `check`.
"""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received = 0


class Terminated(KeyboardInterrupt):
    """SIGTERM: handled as Ctrl-C is, with another exit code."""

    exit_code = 143


def listen() -> None:
    """Raise `KeyboardInterrupt` or `Terminated` at the first signal; a second ends the process."""
    for number in SIGNALS:
        signal.signal(number, _handle)


def ignore() -> None:
    """Nothing is left to stop: the interpreter may shut down undisturbed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def received() -> int:
    """The signal that came while `listen` was in charge, or 0."""
    return _received


def name_of(number: int) -> str:
    """A signal as a person calls it."""
    known: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
    return known.get(number, f"signal {number}" if number > 0 else "a signal")


def check() -> None:
    """Raise again what came, if something swallowed it.

    Raises:
        KeyboardInterrupt: After SIGINT; `Terminated` after SIGTERM.
    """
    if _received:
        raise as_error(_received)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        os._exit(128 + number)
    _received = number
    raise as_error(number)


def as_error(number: int) -> KeyboardInterrupt:
    """What a signal raises."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
