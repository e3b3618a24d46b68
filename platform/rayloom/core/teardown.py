"""The end of a command's process: quick, and as careful with users' objects as Python itself.

At its end Python takes apart every object of every module, which after torch and MLflow are some
700,000: a second and a half in which nothing is left to do. `hasten`, registered with `atexit`
before anything else and so run after all the rest, hides libraries' objects from it (`gc.freeze`).
What users' own modules hold (a plugin's open file, an object with a `__del__`) is finalized first.
"""

import atexit
import gc
import io
import os
import site
import sys
import sysconfig
import threading
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

_CODE = (ModuleType, type, FunctionType, BuiltinFunctionType)  # what finalizers may still need
_MANY = 10_000
IMPORTS = "rayloom-imports"  # name of threads that import what may be needed later


def prepare() -> None:
    """Call first in a process that is a command: whatever registers with `atexit` runs before."""
    atexit.unregister(hasten)
    atexit.register(hasten)


def hasten() -> None:
    """Make the rest of the interpreter's end short. Nothing but that may follow."""
    for thread in threading.enumerate():  # Python's end would break into its import
        if thread.name == IMPORTS:
            thread.join()
    own = own_modules()
    for module in reversed(own):
        names = vars(module)
        for name in [name for name, value in names.items() if _is_finalized(value)]:
            names[name] = None
    if own:
        _flush_files()  # before: of a file in a cycle the buffer may go first
        gc.collect()
    gc.freeze()


def own_modules() -> list[ModuleType]:
    """Loaded modules that belong neither to Python, nor to an installed package, nor to rayloom."""
    paths = sysconfig.get_paths()
    places = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    places |= {*site.getsitepackages(), site.getusersitepackages()}
    for name in ("rayloom", "rayloom_envs", "rayloom_pipelines"):
        places.update(getattr(sys.modules.get(name), "__path__", ()))
    libraries = tuple(
        {form(place) + os.sep for place in places for form in (str, os.path.realpath)}
    )
    own = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not os.path.isabs(file) or file.startswith(libraries):
            continue
        if not os.path.realpath(file).startswith(libraries):
            own.append(module)
    return own


def _is_finalized(value: Any) -> bool:
    """Whether something is done when a value, or what it holds, goes: it has a `__del__`."""
    seen, waiting = set[int](), [value]
    while waiting and len(seen) < _MANY:
        one = waiting.pop()
        if isinstance(one, _CODE) or id(one) in seen:
            continue
        if hasattr(type(one), "__del__"):  # files and generators have one, too
            return True
        seen.add(id(one))
        waiting += gc.get_referents(one)
    return bool(waiting)


def _flush_files() -> None:
    """Write out what open files hold back, wherever they are kept."""
    for thing in gc.get_objects():
        if type(thing) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            try:
                if not thing.closed:
                    thing.flush()
            except (OSError, ValueError) as error:  # as Python says it of a file it closes
                sys.stderr.write(f"{getattr(thing, 'name', 'a file')} was not written: {error}\n")
