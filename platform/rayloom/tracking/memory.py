"""What a run folder remembers of its MLflow (`tracking.json`), read without MLflow."""

import json
from pathlib import Path
from typing import Any, Literal

Status = Literal["FINISHED", "KILLED", "FAILED"]
TRACKING_JSON = "tracking.json"


def read_memory(folder: Path) -> dict[str, Any]:
    """What a run's `tracking.json` holds; empty if it cannot be read."""
    return _read(folder / TRACKING_JSON)


def read_about(folder: Path) -> dict[str, Any]:
    """A run's `run.json`; empty if it cannot be read."""
    return _read(folder / "run.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
