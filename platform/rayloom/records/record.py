"""What `run.json` holds, as one typed record: all rooms read a run by it, and write what fits it.

A run folder may come from anybody and may be damaged, so each known field has a type and bounds,
and names are bare names. A field of a newer version is not looked at and stays when the file is
rewritten. What a run can go on without (`Lenient`) counts as missing where it is wrong.
"""

import datetime
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WrapValidator,
)

from rayloom.core.errors import UserError
from rayloom.records.inside import is_bare

RUN_JSON = "run.json"
T = TypeVar("T")


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


def _shape(shape: list[int]) -> list[int]:
    if math.prod(abs(size) for size in shape) > 2**31:
        raise ValueError(f"an example of shape {shape} is too large")
    return shape


def _dtype(name: str) -> str:
    if not re.fullmatch(r"bool|u?int(8|16|32|64)|b?float(16|32|64)", name):
        raise ValueError(f"{name[:50]!r} is no type of numbers")
    return name


def _or_none(value: Any, check: Callable[[Any], Any]) -> Any:
    """What is wrong counts as missing."""
    try:
        return check(value)
    except ValidationError:
        return None


def _fitting_ones(value: Any) -> Any:
    """The attempts of a list that make sense."""
    fits = [_or_none(one, Attempt.model_validate) for one in value if isinstance(value, list)]
    return [one for one in fits if one is not None]


Bare = Annotated[str, AfterValidator(_bare)]
Date = Annotated[str, Field(max_length=64), AfterValidator(_date)]
Short = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NotFinite = Literal["nan", "inf", "-inf", "NaN", "Infinity", "-Infinity"]
Number = float | NotFinite | None
Plain = str | int | float | bool | None
Word = Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
Lenient = Annotated[T | None, WrapValidator(_or_none)]


class Part(BaseModel):
    """A part of `run.json`: known fields are checked, others pass."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())

    def to_dict(self) -> dict[str, Any]:
        """What was given, as JSON holds it; unknown fields included."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Best(Part):
    """The best evaluation: of a run at a clock step, of a sweep in a trial."""

    metric: Short
    value: Number
    step: Count


class Summary(Part):
    """The last evaluation, and the best one."""

    step: Count | None = None
    metrics: dict[Short, Number] | None = None
    best: Best | None = None


class DataField(Part):
    """One field of the data's examples."""

    shape: Annotated[
        list[Annotated[int, Field(ge=-1, le=2**31)]], Field(max_length=16), AfterValidator(_shape)
    ]
    dtype: Annotated[str, AfterValidator(_dtype)]
    kind: Short
    num_classes: Annotated[int, Field(ge=0, le=2**20)]
    classes: Annotated[list[Short], Field(max_length=2**20)] = []


class Spec(Part):
    """The data's examples: a model is built from it without the data."""

    name: Short
    fields_: Annotated[dict[Short, DataField], Field(max_length=1000, alias="fields")]
    num_train: Count = 0
    statistics: dict[Short, dict[Short, Any]] = {}
    tokenizers: dict[Short, Any] = {}


class Data(Part):
    """The data set."""

    name: Short
    fingerprint: Short
    spec: Spec | None = None


class RecordedOptions(Part):
    """What a command said beside the config: `run.folder.Options`."""

    init: Short | None = None
    smoke: bool = False
    overfit_batch: bool = False
    profile: bool = False
    track: bool = True
    parent: Bare | None = None
    register_: bool = Field(True, alias="register")
    tags: dict[Short, Plain] = {}
    searched: list[Short] = []


class RecordedPlugin(Part):
    """A file or module with code that the run used."""

    name: Short
    path: Short
    sha256: Sha256
    names: list[Short] = []
    installed: bool = False


class Tracking(Part):
    """The MLflow that hears of the run; no URI where none does."""

    uri: Short | None = None
    experiment: Short | None = None


class RecordedStage(Part):
    """A first stage."""

    run: Bare
    step: Count
    parameters_sha256: Short
    path: Short | None = None


class Git(Part):
    """Where the code was."""

    root: str | None = None
    commit: Short | None = None
    dirty: bool | None = None
    diff_sha256: Short | None = None


class RecordedModel(Part):
    """The version in the model registry."""

    uri: Short
    name: Short
    version: Short | int


class SeedRow(Part):
    """One seed of a group's report."""

    seed: int | None = None
    run: Bare | None = None


class Choices(Part):
    """Every `auto` that was decided once."""

    device: Short | None = None
    threads: Annotated[int, Field(ge=1, le=2**16)] | None = None


class RecordedJob(Part):
    """The job of a cluster that ran it."""

    id: Short | None = None
    host: Short | None = None
    ray: Short | None = None


class Submitted(Part):
    """Where that job was submitted."""

    time: Short | None = None
    host: Short | None = None


class Machine(Part):
    """What it ran on."""

    host: Short | None = None
    cpu: Short | None = None
    cpus: int | None = None
    gpus: list[Short] = []


class MemoryKills(Part):
    """How many processes the kernel had killed since its start `boot`."""

    boot: Short | None = None
    count: Count | None = None


class Attempt(Part):
    """One start of the run, and how it ended."""

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
    best: Best | None = None
    best_run: Bare | None = None
    git: Git | None = None
    job: RecordedJob | None = None
    memory_kills: Lenient[MemoryKills] = None


class Record(Part):
    """The whole of it. What is never null where a run has none: the empty default."""

    schema_version: Annotated[int, Field(ge=1)] | None = None
    run_id: Bare
    name: Annotated[str, Field(min_length=1, max_length=4096)]
    created: Date
    status: Word
    kind: Word = "run"
    task: Word | None = None
    seed: int | None = None
    smoke: bool = False
    parent: Bare | None = None
    trial: Annotated[str, Field(pattern=r"^[0-9]{1,12}$")] | None = None
    # how it was made
    config_sha256: Lenient[Short] = None
    config_now: dict[str, Any] | None = None
    options: RecordedOptions | None = None
    choices: Choices = Choices()
    data: Data | None = None
    protocol: Short | None = None
    metrics: dict[Short, dict[Short, Short]] | None = None  # of the method itself: what they mean
    plugins: Annotated[list[RecordedPlugin], Field(max_length=1000)] = []
    stages: dict[Bare, RecordedStage] = {}
    tracking: Tracking = Tracking()
    tags: dict[Short, Plain] = {}
    # where
    command: str | None = None
    cwd: Lenient[str] = None
    python: Lenient[Short] = None
    packages: Lenient[dict[Short, Short]] = None
    machine: Lenient[Machine] = None
    threads: Lenient[dict[Short, Plain]] = None
    environment: Lenient[dict[Short, str]] = None
    git: Git | None = None
    library_git: Git | None = None
    job: RecordedJob | None = None
    submitted: Submitted | None = None
    # how it went
    attempt: Lenient[Attempt] = None
    attempts: Annotated[list[Attempt], BeforeValidator(_fitting_ones)] = []
    resumed: list[dict[str, Any]] = []
    ended: Date | None = None
    reason: str | None = None
    cause: str | None = None
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    position: Count | None = None
    progress: dict[Short, Number] | None = None
    summary: Lenient[Summary] = None
    parameters_sha256: Short | None = None
    model: RecordedModel | None = None
    # of a group
    seeds: Annotated[list[int], Field(max_length=100_000)] | None = None
    seeds_table: list[SeedRow] | None = None
    sweep_seeds: Annotated[int, Field(ge=1, le=100_000)] = 1
    best_run: Bare | None = None
    best_values: dict[str, Any] | None = None
    concurrent: Count | None = None
    failed_trials: Annotated[list[Short], Field(max_length=100_000)] | None = None

    _place: str = PrivateAttr(RUN_JSON)

    @property
    def best(self) -> Best | None:
        """The best evaluation of the summary."""
        return self.summary.best if self.summary else None

    @property
    def evaluated(self) -> dict[str, Number]:
        """The last evaluation of the summary, by metric."""
        return (self.summary.metrics or {}) if self.summary else {}

    @property
    def commit(self) -> str | None:
        """The git commit of the code: of the user's, else of the library's."""
        git = self.git if self.git and self.git.commit else self.library_git
        return git.commit if git else None

    def known(self, name: str, value: T | None) -> T:
        """A field that this run must have.

        Raises:
            UserError: It has none.
        """
        if value is None:
            raise lacking(self._place, name)
        return value


def lacking(place: str, name: str) -> UserError:
    """The fault of a `run.json` without a field that is needed."""
    return UserError(f"{place} is damaged: it lacks {name!r}")


def plain(value: Any) -> Any:
    """A field of the record, or a tree with such, as JSON holds it."""
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def record_of(tree: Mapping[str, Any], place: str) -> Record:
    """The record of a parsed `run.json`; null counts as missing.

    Args:
        tree: Its content.
        place: Its path, for errors.

    Raises:
        ValidationError: A field is not what it may be.
    """
    made = Record.model_validate({key: item for key, item in tree.items() if item is not None})
    made._place = place
    return made
