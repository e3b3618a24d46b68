"""Ctrl-C and SIGTERM: the first asks to stop at a step boundary, the second stops at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalGuard:
    """Remembers the first SIGINT or SIGTERM while the `with` block runs.

    The second raises `SystemExit(128 + number)` wherever the program stands. Handlers can only be
    set in the main thread; elsewhere (Ray's training threads) nothing is caught, and `more` is how
    a signal gets here.

    Args:
        more: Another place to look for a stop request: a signal number, or 0.
    """

    def __init__(self, more: Callable[[], int] | None = None) -> None:
        self._more = more
        self._received = 0
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

    def __enter__(self) -> "SignalGuard":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
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
