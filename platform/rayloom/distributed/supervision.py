"""The driver's side while Ray works: events and signals handed on, and what goes wrong said.

One loop in the calling thread, beside Ray's own in another: it empties the mailbox, passes stop
requests on, feels whether the cluster lives, says what is waited for and which worker died.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rayloom.core import interrupt
from rayloom.distributed.cluster import Cluster
from rayloom.distributed.deaths import WorkerError, used_up
from rayloom.distributed.mailbox import OWN, Event, stop_signal
from rayloom.distributed.place import end_processes, end_workers
from rayloom.distributed.pulse import (
    ClusterLostError,
    Pulse,
    end_orphaned_groups,
    end_own_actors,
    end_own_job,
    is_worker,
)
from rayloom.distributed.quiet import first_line
from rayloom.distributed.waiting import Waiting

OnEvent = Callable[[Event], None]
Say = Callable[[str], None]
REST_S = 4.0


class Watch:
    """What the loop looks at: the cluster's pulse, what is waited for, who died.

    Args:
        part: What Ray places, in the singular: `worker`, `trial`.
        cluster: What this process is connected to.
        say: Told in one line; the log hears it too.
        restarts: How often workers that died are started again.
    """

    def __init__(
        self, part: str, cluster: Cluster, say: Say | None = None, *, restarts: int = 0
    ) -> None:
        self.part, self.cluster, self.restarts = part, cluster, restarts
        self._say = say or (lambda text: None)
        self.pulse = Pulse.of_this_process(local=cluster.local)
        self.waiting = Waiting(part, self.tell)
        self.at_work = False
        self.working: set[str] = set()  # who takes steps, and will stop at the next one if told to
        self._rests_since = -math.inf
        self.last_death, self.deaths = "", 0
        self._enough = False  # no restart is left, though Ray would go on
        self.abandoned = False  # an error or a second signal: Ray's own thread is to end

    def tell(self, text: str) -> None:
        """Say it, and write it into the log."""
        logging.getLogger("rayloom.distributed").warning("%s", text)
        self._say(text)

    def look(self) -> None:
        """Once per turn of the loop.

        Raises:
            ClusterLostError: The Ray died.
            WorkerError: No restart is left. Ray itself does not count workers that die while they
                start, and would start them again for ever.
        """
        self.pulse.check()
        if self._enough:
            raise WorkerError(used_up(self.deaths, self.restarts, self.last_death))
        if not self.at_work:
            self.waiting.tick()

    def hear(self, event: Event) -> bool:
        """Whether the event was for us: workers began, or died."""
        kind = event.get(OWN)
        if kind == "began":
            self.at_work = True
            self.waiting.over()
        elif kind == "works":
            self.working.add(event["who"])
        elif kind == "rests":
            self.rests(event["who"])
        elif kind == "died":
            self.at_work = False
            self.working.clear()
            self.deaths = number = event["failures"]
            self.last_death = event["text"]
            self._enough = event["restarts"] and number > self.restarts
            if number <= self.restarts:
                self.tell(
                    f"{event['text']}; all start again from the newest checkpoint (restart"
                    f" {number} of {self.restarts})"
                )
            else:
                self.tell(f"{event['text']}, and no restart is left")
        return kind is not None

    def rests(self, who: str) -> None:
        """One that took steps has ended, with a word or without."""
        self.working.discard(who)
        self._rests_since = time.monotonic()

    def nobody_works(self) -> bool:
        """Whether nobody would answer a stop request: what there is is only starting, or stuck.

        Ray gets a moment to hear of those who just ended.
        """
        return not self.working and time.monotonic() - self._rests_since > REST_S


def supervise(
    fit: Callable[[], Any],
    mailbox: Any,
    on_event: OnEvent,
    watch: Watch,
    *,
    also: Callable[[], None] | None = None,
    should_stop: Callable[[], int] | None = None,
) -> BaseException | None:
    """Run `fit` in a thread; hand on events and stop requests meanwhile. Returns what it raised.

    A stop request is a signal to this process or what `should_stop` says; by default, where this
    process is itself a worker (a trial of a sweep), the one that its own driver sent. Those who
    take steps stop with a checkpoint. While Ray waits for room, or starts processes, or these
    import and build, there is nobody to tell and nothing to lose, so then it ends at once.

    Raises:
        KeyboardInterrupt: A second signal came, or a first one while nobody was at work.
        ClusterLostError: The Ray died.
        WorkerError: Workers died too often while they started.
    """
    failure: list[BaseException] = []
    passed_on = 0
    asked = should_stop or stop_signal

    def body() -> None:
        try:
            fit()
        except Exception as error:
            failure.append(error)

    def hand_on(events: list[Event]) -> None:
        for event in events:
            if not watch.hear(event):
                on_event(event)
        if also is not None:
            also()

    def look() -> None:
        nonlocal passed_on
        if not passed_on and (number := asked()):
            passed_on = number
            mailbox.stop.remote(number)
        number = seen[-1] if seen else passed_on
        if len(seen) > 1 or (number and (watch.waiting.lacking or watch.nobody_works())):
            raise interrupt.as_error(number)
        try:
            watch.look()
        except ClusterLostError as lost:
            if number:  # the signal was for all of its processes
                raise interrupt.as_error(number) from lost
            raise

    thread = threading.Thread(target=body, name="ray-train", daemon=True)
    with _signals(mailbox) as seen, _ended(thread, watch):
        thread.start()
        while thread.is_alive():
            hand_on(_drain(mailbox, 0.1, watch, look))
            look()
            thread.join(timeout=0.05)
        hand_on(_drain(mailbox, 0.0, watch, look))
    return failure[0] if failure else None


@contextmanager
def _ended(thread: threading.Thread, watch: Watch, wait_s: float = 30.0) -> Iterator[None]:
    """Ray's thread does not outlive the block: used after `ray.shutdown`, Ray ends the process."""
    try:
        yield
    except BaseException as error:
        watch.abandoned = True
        lost = isinstance(error, ClusterLostError)
        end = time.monotonic() + wait_s
        if not lost:
            _end_workers(watch)
        while thread.is_alive() and time.monotonic() < end and not lost:
            thread.join(timeout=0.5)
            lost = watch.pulse.is_lost()  # a signal may have been for all of a machine's processes
        if lost:
            _end_rest(watch)
            thread.join(timeout=max(0.0, end - time.monotonic()))
        elif isinstance(error, Exception):  # a signal ends the process, and the job with it
            end_orphaned_groups()
        raise


def _end_workers(watch: Watch) -> None:
    """Whoever waits for one of this run's workers is to wait no longer."""
    if watch.cluster.local:
        end_workers(watch.cluster.scratch)
    elif is_worker():
        end_own_actors()
    else:
        end_own_job(watch.pulse.raylet)


def _end_rest(watch: Watch) -> None:
    """What still runs of a Ray that died."""
    if watch.cluster.local:
        end_processes(watch.cluster.scratch)
    else:
        end_own_job(watch.pulse.raylet)


def _drain(mailbox: Any, wait_s: float, watch: Watch, look: Callable[[], None]) -> list[Event]:
    """The mailbox's events; whoever waits for an answer goes on looking."""
    import ray

    answer = mailbox.drain.remote(wait_s)
    while not ray.wait([answer], timeout=1.0)[0]:
        look()
    try:
        return list(ray.get(answer))
    except ray.exceptions.RayError as error:
        raise watch.pulse.explain(error) or ClusterLostError(
            f"the process that carries messages between this one and the {watch.part}s died"
            f" ({first_line(error)}). Nothing before the newest checkpoint is lost"
        ) from error


@contextmanager
def closing(mailbox: Any, pulse: Pulse) -> Iterator[None]:
    """Kill the mailbox after the block, unless the cluster is gone with it."""
    import ray

    try:
        yield
    except ClusterLostError:
        raise
    except BaseException:
        if not pulse.is_lost():
            ray.kill(mailbox)
        raise
    ray.kill(mailbox)


@contextmanager
def _signals(mailbox: Any) -> Iterator[list[int]]:
    """Pass the first SIGINT/SIGTERM on to the workers; gives those that came, in order."""
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)
        mailbox.stop.remote(number)

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.signal(number, handler) for number in interrupt.SIGNALS}
    try:
        yield seen
    finally:
        for number, old in before.items():
            signal.signal(number, old)
