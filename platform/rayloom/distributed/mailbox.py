"""What passes between the driver process and its workers while they run.

One small actor without CPUs, owned by the driver: workers put events in and read the stop flag, the
driver empties it. Two functions are for code that runs on a worker, `emit` and `stop_signal`; in
any other process they do nothing, so that the same code runs with `workers: 0`.
"""

import asyncio
import logging
import threading
import uuid
from collections import deque
from typing import Any

from rayloom.core import interrupt

Event = dict[str, Any]
log = logging.getLogger(__name__)
OWN = "_ray"  # key of the events that are for the driver process itself


class Mailbox:
    """Actor body. Methods are coroutines, so a waiting `drain` blocks nobody."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.early: dict[str, dict[int, list[Event]]] = {}  # of a sender, by number
        self.turns: dict[str, int] = {}  # the next number of a sender
        self.signal = 0
        self.fatal: dict[str, Any] | None = None
        self.outcome: dict[str, Any] | None = None
        self.attempts = 0
        self.failures = 0

    async def begin(self) -> tuple[int, bool]:
        """Rank 0 starts an attempt: (its number from 0, whether a fatal error stands already)."""
        self.attempts += 1
        self.events.append({OWN: "began"})
        return self.attempts - 1, self.fatal is not None

    async def post(self, events: list[Event], sender: str, number: int) -> None:
        """Keep events for the driver, each sender's in the order in which it numbered them.

        Ray may begin one coroutine before another that was sent earlier.
        """
        early = self.early.setdefault(sender, {})
        early[number] = events
        turn = self.turns.get(sender, 0)
        while turn in early:
            self.events.extend(early.pop(turn))
            turn += 1
        self.turns[sender] = turn

    async def arrived(self, sender: str, count: int, wait_s: float = 10.0) -> bool:
        """Whether the first `count` posts of a sender are here; waits a while for them."""
        waited = 0.0
        while self.turns.get(sender, 0) < count and waited < wait_s:
            await asyncio.sleep(0.02)
            waited += 0.02
        return self.turns.get(sender, 0) >= count

    async def drain(self, wait_s: float = 0.0) -> list[Event]:
        """All events since the last call; waits up to `wait_s` for the first."""
        waited = 0.0
        while not self.events and waited < wait_s:
            await asyncio.sleep(0.02)
            waited += 0.02
        events = list(self.events)
        self.events.clear()
        return events

    async def stop(self, signal: int) -> None:
        """Ask the workers to stop at the next step boundary."""
        self.signal = signal

    async def flag(self) -> int:
        """The stop signal, 0 if nobody asked."""
        return self.signal

    async def fail(self, error: dict[str, Any]) -> None:
        """The first error that a restart would not cure."""
        if self.fatal is None:
            self.fatal = error

    async def died(self, text: str, restarts: bool) -> None:
        """Workers are gone: which and why, and whether Ray means to start all of them again."""
        self.failures += 1
        self.events.append(
            {OWN: "died", "text": text, "failures": self.failures, "restarts": restarts}
        )

    async def finish(self, outcome: dict[str, Any]) -> None:
        """What rank 0's entry returned."""
        self.outcome = outcome

    async def result(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None, int]:
        """(outcome, fatal error, attempts begun)."""
        return self.outcome, self.fatal, self.attempts


class Line:
    """A worker's end: posts events, and watches the stop flag from a thread.

    Args:
        mailbox: The actor.
        who: What to call this worker when it tells that it is at work; "": it does not tell.
        period_s: Between two looks at the flag.
    """

    def __init__(self, mailbox: Any, who: str = "", *, period_s: float = 0.2) -> None:
        self._mailbox = mailbox
        self._untold = who
        self._name = uuid.uuid4().hex
        self._count = 0
        self._numbering = threading.Lock()
        self._period_s = period_s
        self._closed = threading.Event()
        self.signal = 0
        self._thread = threading.Thread(target=self._watch, name="rayloom-stop", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        import ray

        while not self._closed.wait(self._period_s):
            try:
                self.signal = ray.get(self._mailbox.flag.remote())
            except ray.exceptions.RayError:  # the driver has gone, and Ray ends this process
                return

    def post(self, events: list[Event]) -> None:
        """Send events on, without waiting."""
        with self._numbering:
            number, self._count = self._count, self._count + 1
        self._mailbox.post.remote(events, self._name, number)

    def asked(self) -> int:
        """The stop signal; whoever asks for the first time is at work, and the driver hears it."""
        if self._untold:
            who, self._untold = self._untold, ""
            self.post([{OWN: "works", "who": who}])
        return self.signal

    def close(self) -> None:
        """Wait until all that was sent is in the mailbox, and end the thread."""
        import ray

        try:
            if self._count and not ray.get(self._mailbox.arrived.remote(self._name, self._count)):
                log.warning("some events of this worker did not reach the driver")
        except ray.exceptions.RayError:  # the driver has gone, and nobody reads them
            pass
        self._closed.set()
        self._thread.join(timeout=2)


_line: Line | None = None


def connect(line: Line | None) -> None:
    """Make this process a worker that `emit` and `stop_signal` speak for; None ends that."""
    global _line
    _line = line


def emit(event: Event) -> None:
    """Send an event (JSON-able) to the driver's `on_event`. Not on a worker: does nothing."""
    if _line is not None:
        _line.post([event])


def stop_signal() -> int:
    """The signal with which the driver asked to stop (SIGINT 2, SIGTERM 15), or 0.

    Whoever asks will stop at once if told so, with a checkpoint: the driver waits for that. Before
    the first question a stop ends the process.

    Not on a worker: the one that this process got before it began, if a library swallowed it.
    """
    return _line.asked() if _line is not None else interrupt.received()
