"""What `run.json` may hold: the one reader of it, typed and bounded.

A run folder may come from anybody and may be damaged. Whoever reads `run.json` gets a dict whose
known keys have the types below and whose names are bare names, or an error that says which key is
wrong. Of a wrong `summary` or attempt nothing is kept: a run can go on without. Keys that are not
known here only have to be within the bounds of `inside.parse_json`. Asking for a key that is
missing is the same kind of error.
"""

import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rayloom.core.errors import UserError
from rayloom.records.inside import is_bare, parse_json, read_inside

RUN_JSON = "run.json"
HEAD = ("run_id", "name", "created", "status")  # texts that every run.json has
_EMPTY = ("options", "choices", "summary", "tags", "stages", "plugins", "resumed")  # null: absent


def _bare(name: str) -> str:
    if not is_bare(name):
        raise ValueError("must be a bare name, not a path")
    return name


def _date(text: str) -> str:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:50]!r} is no date such as 2026-01-31T12:00:00+00:00") from None
    if not 1970 <= when.year <= 9000:
        raise ValueError("must be a date after 1970")
    return text


Bare = Annotated[str, AfterValidator(_bare)]
Date = Annotated[str, Field(max_length=64), AfterValidator(_date)]
Short = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NotFinite = Literal["nan", "inf", "-inf", "NaN", "Infinity", "-Infinity"]
Number = float | NotFinite | None
Plain = str | int | float | bool | None


class _Facts(BaseModel):
    """A part of `run.json`: known keys are checked, others pass."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


class _Best(_Facts):
    metric: Short
    value: Number
    step: Count


class _Summary(_Facts):
    step: Count | None = None
    metrics: dict[Short, Number] | None = None
    best: _Best | None = None


def _shape(shape: list[int]) -> list[int]:
    if math.prod(abs(size) for size in shape) > 2**31:
        raise ValueError(f"an example of shape {shape} is too large")
    return shape


def _dtype(name: str) -> str:
    if not re.fullmatch(r"bool|u?int(8|16|32|64)|b?float(16|32|64)", name):
        raise ValueError(f"{name[:50]!r} is no type of numbers")
    return name


class _Field(_Facts):
    shape: Annotated[
        list[Annotated[int, Field(ge=-1, le=2**31)]], Field(max_length=16), AfterValidator(_shape)
    ]
    dtype: Annotated[str, AfterValidator(_dtype)]
    kind: Short
    num_classes: Annotated[int, Field(ge=0, le=2**20)]


class _Spec(_Facts):
    name: Short
    fields: Annotated[dict[Short, _Field], Field(max_length=1000)]


class _Data(_Facts):
    name: Short
    fingerprint: Short
    spec: _Spec | None = None


class _Options(_Facts):
    init: Short | None = None
    smoke: bool = False
    overfit_batch: bool = False
    profile: bool = False
    track: bool = True
    parent: Bare | None = None
    register_: bool = Field(True, alias="register")
    tags: dict[Short, Plain] = {}
    searched: list[Short] = []


class _Plugin(_Facts):
    name: Short
    path: Short
    sha256: Sha256
    names: list[Short] = []
    installed: bool = False


class _Tracking(_Facts):
    uri: Short | None = None
    experiment: Short | None = None


class _Stage(_Facts):
    run: Bare
    step: Count
    parameters_sha256: Short
    path: Short | None = None


class _Git(_Facts):
    commit: Short | None = None
    dirty: bool | None = None


class _Model(_Facts):
    uri: Short
    name: Short
    version: Short | int


class _Seed(_Facts):
    seed: int | None = None
    run: Bare | None = None


class _Choices(_Facts):
    device: Short | None = None
    threads: Annotated[int, Field(ge=1, le=2**16)] | None = None


class _Job(_Facts):
    id: Short | None = None
    host: Short | None = None
    ray: Short | None = None


class _Submitted(_Facts):
    time: Short | None = None
    host: Short | None = None


class _Attempt(_Facts):
    number: Count | None = None
    began: Short | None = None
    ended: Short | None = None
    last_written: Short | None = None
    status: Short | None = None
    host: Short | None = None
    pid: int | None = None
    command: str | None = None
    reason: str | None = None
    cause: str | None = None
    exit_code: int | None = None
    position: Count | None = None
    best: _Best | None = None
    best_run: Bare | None = None
    git: _Git | None = None
    job: _Job | None = None


class _About(_Facts):
    schema_version: Annotated[int, Field(ge=1)] | None = None
    run_id: Bare
    name: Annotated[str, Field(min_length=1, max_length=4096)]
    created: Date
    status: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    kind: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")] | None = None
    task: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")] | None = None
    seed: int | None = None
    smoke: bool | None = None
    parent: Bare | None = None
    trial: Annotated[str, Field(pattern=r"^[0-9]{1,12}$")] | None = None
    command: str | None = None
    ended: Date | None = None
    reason: str | None = None
    cause: str | None = None
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    position: Count | None = None
    progress: dict[Short, Number] | None = None
    parameters_sha256: Short | None = None
    protocol: Short | None = None
    metrics: dict[Short, dict[Short, Short]] | None = None
    options: _Options | None = None
    choices: _Choices | None = None
    data: _Data | None = None
    tracking: _Tracking | None = None
    tags: dict[Short, Plain] | None = None
    plugins: Annotated[list[_Plugin], Field(max_length=1000)] | None = None
    stages: dict[Bare, _Stage] | None = None
    git: _Git | None = None
    library_git: _Git | None = None
    model: _Model | None = None
    config_now: dict[str, Any] | None = None
    resumed: list[dict[str, Any]] | None = None
    best_run: Bare | None = None
    best_values: dict[str, Any] | None = None
    seeds: Annotated[list[int], Field(max_length=100_000)] | None = None
    sweep_seeds: Annotated[int, Field(ge=1, le=100_000)] | None = None
    seeds_table: list[_Seed] | None = None
    concurrent: Count | None = None
    failed_trials: Annotated[list[Short], Field(max_length=100_000)] | None = None
    job: _Job | None = None
    submitted: _Submitted | None = None


class About(dict[str, Any]):
    """The content of a `run.json`; a missing key is said as a fault of that file.

    Attributes:
        place: Its path.
    """

    def __init__(self, content: Mapping[str, Any], place: Path) -> None:
        super().__init__(content)
        self.place = place

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.place} is damaged: it lacks {key!r}")


def read_about(folder: Path) -> About:
    """The content of a run folder's `run.json`.

    Raises:
        UserError: It is missing, no plain file, damaged, or holds what it may not; says what.
    """
    place = folder / RUN_JSON
    try:
        data = read_inside(folder, RUN_JSON)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder (no {RUN_JSON})") from error
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror}") from error
    try:
        tree = parse_json(data)
    except ValueError as error:
        raise UserError(f"{place} is damaged: {error}") from error
    return check_about(tree, place)


def check_about(tree: Any, place: Path) -> About:
    """The same, of what was parsed already.

    Raises:
        UserError: It holds what it may not; says what.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{place} is damaged: it holds a {type(tree).__name__}")
    missing = [key for key in HEAD if key not in tree]
    if missing:
        raise UserError(f"{place} is damaged: it lacks {', '.join(missing)}")
    try:
        _About.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{place} is damaged: {first_fault(error)}") from None
    content = {k: v for k, v in tree.items() if v is not None or k not in _EMPTY}
    for key, kind in (("summary", _Summary), ("attempt", _Attempt)):
        if not _fits(kind, content.get(key, {})):
            del content[key]
    if "attempts" in content:
        past = content["attempts"]
        content["attempts"] = [
            one for one in (past if isinstance(past, list) else []) if _fits(_Attempt, one)
        ]
    return About(content, place)


def first_fault(error: ValidationError) -> str:
    """Where the first fault is and what, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where[:200]}: {first['msg'].removeprefix('Value error, ')[:300]}"


def _fits(kind: type[BaseModel], value: Any) -> bool:
    try:
        kind.model_validate(value)
    except ValidationError:
        return False
    return True
