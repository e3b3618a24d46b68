"""Python's collector of cycles, while a great many objects are made of which none is garbage."""

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_pauses = 0
_was_on = False


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collection in this block, in any thread: importing MLflow takes a quarter less time.

    Blocks may overlap, also of several threads; the last one to end switches the collector on. What
    was made meanwhile counts as old by then: the next collection of young objects, a moment later,
    does not look through a library.
    """
    global _pauses, _was_on
    with _lock:
        if _pauses == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if _pauses == 0 and _was_on:
                if gc.get_freeze_count() == 0:
                    gc.freeze()  # every generation at once, without a look ...
                    gc.unfreeze()  # ... into the oldest one
                gc.enable()
