"""Ctrl-C and SIGTERM: the first asks to stop at a step boundary, the second stops at once."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from rayloom.core import interrupt


class SignalGuard:
    """Remembers the first SIGINT or SIGTERM while the `with` block runs.

    One that came before and was lost in a library (`core.interrupt`) counts as the first. The
    second raises `SystemExit(128 + number)` wherever the program stands. Handlers can only be set
    in the main thread; elsewhere (Ray's training threads) nothing is caught, and `more` is how a
    signal gets here.

    Args:
        more: Another place to look for a stop request: a signal number, or 0.
        heard: Called at the first signal, at once: what runs now may take long.
    """

    def __init__(
        self, more: Callable[[], int] | None = None, heard: Callable[[], object] | None = None
    ) -> None:
        self._more, self._heard = more, heard
        self._received = interrupt.received()
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> int:
        """The signal's number, or 0."""
        if not self._received and self._more is not None:
            self._received = self._more()
        return self._received

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise SystemExit(128 + number)
        self._received = number
        if self._heard is not None:
            with contextlib.suppress(RuntimeError):  # it came in the middle of a print
                self._heard()

    def __enter__(self) -> "SignalGuard":
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._handle) for number in interrupt.SIGNALS
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
