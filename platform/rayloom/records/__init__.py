"""What a run leaves on disk: its folder, journal, checkpoints and lock.

The run folder is the truth; MLflow only sees what the journal holds. The names are handed on
lazily, so that listing a thousand runs imports neither torch nor numpy.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "CheckpointInfo": "checkpoints",
    "Checkpoints": "checkpoints",
    "Journal": "journal",
    "RunFolder": "run_folder",
    "RunLock": "lock",
    "RunSummary": "index",
    "collect": "manage",
    "compare": "index",
    "describe_environment": "environment",
    "export_run": "manage",
    "find_waste": "manage",
    "history": "journal",
    "list_runs": "index",
    "remove_run": "manage",
    "resolve_run": "index",
    "tail": "journal",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
