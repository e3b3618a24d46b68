"""The observer of a command: console or JSON events."""

from collections.abc import Iterator
from contextlib import contextmanager

from rayloom_pipelines.console import Console, Events


@contextmanager
def watch(*, json: bool) -> Iterator[Console | Events]:
    """An observer; a live line is removed whatever happens."""
    observer: Console | Events = Events() if json else Console()
    try:
        yield observer
    finally:
        if isinstance(observer, Console):
            observer.clear()
            observer.close()
