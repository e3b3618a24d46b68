"""What a run leaves on disk: its folder, journal, checkpoints and lock.

The run folder is the truth; MLflow only sees what the journal holds. The names are handed on
lazily, so that listing a thousand runs imports neither torch nor numpy.
"""

from rayloom.core.lazy import handed_on

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
__getattr__ = handed_on(__name__, _HOME)
