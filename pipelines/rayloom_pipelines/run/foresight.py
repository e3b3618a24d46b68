"""Getting ready for what a run needs later, while it is busy with something else.

Importing MLflow takes a second, and importing what registers a model another one or two. The first
begins beside the making of the run folder; the second when a progress event says that the end is
near, so that it runs beside the last steps and the last evaluation, and a long run that is
stopped early never pays for it. Only imports: nothing here computes, draws or writes.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rayloom.core.teardown import IMPORTS
from rayloom_pipelines.console import RunObserver

SOON_S = 20.0  # the rest of a run beside which registering is got ready
_threads: dict[str, threading.Thread] = {}


def tracking() -> None:
    """Import MLflow in the background."""
    from rayloom.tracking.client import load

    _begin("tracking", load)


def registry() -> None:
    """Import what registers a model, in the background; the training may need PyTorch's parts."""
    from rayloom.core.imports import others_wait
    from rayloom.tracking.tracing import load

    def alone() -> None:
        with others_wait():
            load()

    _begin("registry", alone)


def settle() -> None:
    """Wait for what has begun: two threads that import the same packages hinder each other."""
    for thread in list(_threads.values()):
        thread.join()


def _begin(what: str, load: Callable[[], None]) -> None:
    before = list(_threads.values())

    def body() -> None:
        for thread in before:
            thread.join()
        try:
            load()
        except Exception as error:  # an import may raise anything; told again to who needs it
            logging.getLogger(__name__).debug("import for %s: %r", what, error)

    if what not in _threads:
        _threads[what] = threading.Thread(target=body, name=IMPORTS, daemon=True)
        _threads[what].start()


class Foreseeing:
    """An observer that sees the end of a run come, and hands everything on.

    Args:
        observer: Who watches.
    """

    def __init__(self, observer: RunObserver) -> None:
        self._observer = observer

    def on_start(self, event: Mapping[str, Any]) -> None:
        """Handed on."""
        self._observer.on_start(event)

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """The last seconds have begun, perhaps."""
        left = event.get("remaining_s")
        if left is not None and left < SOON_S:
            registry()
        self._observer.on_progress(event)

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """Handed on."""
        self._observer.on_evaluation(event)

    def on_message(self, text: str) -> None:
        """Handed on."""
        self._observer.on_message(text)

    def on_table(self, event: Mapping[str, Any]) -> None:
        """Handed on."""
        self._observer.on_table(event)

    def on_end(self, event: Mapping[str, Any]) -> None:
        """Handed on."""
        self._observer.on_end(event)


def foresee(observer: RunObserver, options: Any, workers: int) -> RunObserver:
    """The observer of a run, which gets ready what the run will need.

    Args:
        observer: Who watches.
        options: `run.folder.Options`.
        workers: Where the run has Ray workers, starting them needs every core at first.
    """
    if not options.track:
        return observer
    if workers == 0:
        tracking()
    return Foreseeing(observer) if options.register and not options.smoke else observer
