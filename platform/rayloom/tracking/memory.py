"""What `tracking.json` of a run folder may hold: typed and bounded, else it counts as missing.

It is only a memory: MLflow's run id, the journal offset that is sent, and how the run is called
there. Without it the run is found by its tag, and its whole journal is sent again, which changes
nothing.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayloom.core.errors import UserError
from rayloom.records.about import read_about
from rayloom.records.inside import parse_json, read_inside
from rayloom.records.record import Record

MlflowStatus = Literal["FINISHED", "KILLED", "FAILED"]
TRACKING_JSON = "tracking.json"
_Short = Annotated[str, Field(max_length=8192)]


class _Memory(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    uri: _Short | None = None
    experiment: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    mlflow_run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None
    offset: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    media_offset: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    refused: dict[str, str] | None = None
    asked_s: float | None = None
    params: dict[_Short, str] | None = None
    tags: dict[_Short, str] | None = None
    parent: _Short | None = None
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "KILLED", "FAILED"] | None = None
    ended_ms: Annotated[int, Field(ge=0, lt=2**53)] | None = None


def read_memory(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `tracking.json`; empty if there is none that makes sense."""
    try:
        memory = parse_json(read_inside(folder, TRACKING_JSON))
        _Memory.model_validate(memory)
    except (OSError, ValueError, ValidationError):
        return {}
    return {key: value for key, value in memory.items() if value is not None}


def read_record(folder: Path) -> Record | None:
    """A run's `run.json`; None if it cannot be read or is damaged."""
    try:
        return read_about(folder).record
    except UserError:
        return None
