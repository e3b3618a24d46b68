"""Imports in the background that no other thread's imports get in the way of.

Python locks each module for itself. Where two threads enter a circle of modules at different ends
(PyTorch's lazily loaded parts are one), it resolves the deadlock by handing one of them a module
that is only half there, and the import fails. So while one thread loads in the background, all
others wait before they begin to load a module: they hold no lock then. One in the middle of an
import does, and goes on. What is loaded already is never waited for.
"""

import builtins
import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, ModuleType

from rayloom.core.swaps import replaced

LONGEST_S = 30.0  # if the loading thread itself should wait for one that waits


@contextlib.contextmanager
def others_wait() -> Iterator[None]:
    """Until the end of the block, other threads' first imports of modules wait for it.

    One such block at a time. The functions that were in place before are put back.
    """
    over, owner = threading.Event(), threading.get_ident()
    plain, by_name = builtins.__import__, importlib.import_module

    def free() -> bool:
        """Whether this thread may be made to wait: it holds no lock that the owner could need."""
        return threading.get_ident() != owner and not _is_importing(sys._getframe(2))

    def patient(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 (may be given by name)
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if not is_loaded(name, globals, fromlist or (), level) and free():
            over.wait(LONGEST_S)
        return plain(name, globals, locals, fromlist or (), level)

    def patient_by_name(name: str, package: str | None = None) -> ModuleType:
        if (name.startswith(".") or name not in sys.modules) and free():
            over.wait(LONGEST_S)
        return by_name(name, package)

    with (
        replaced(builtins, "__import__", patient),
        replaced(importlib, "import_module", patient_by_name),
    ):
        try:
            yield
        finally:
            over.set()


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a stack leads through the body of a module that is being loaded."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def is_loaded(
    name: str, world: Mapping[str, object] | None, fromlist: Sequence[str], level: int
) -> bool:
    """Whether an import statement finds everything in place; the arguments of `__import__`."""
    if level:
        package = str((world or {}).get("__package__") or "")
        above = package.rsplit(".", level - 1)[0]
        name = f"{above}.{name}" if name else above
    module = sys.modules.get(name)
    if module is None:
        return False
    there = vars(module)  # not hasattr: a module may load on demand
    return all(item == "*" or item in there for item in fromlist)
