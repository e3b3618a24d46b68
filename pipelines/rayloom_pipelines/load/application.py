"""An operation of a run's model, made ready: settings, rows and conditions read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rayloom.config.settings import read_settings
from rayloom.core.errors import UserError
from rayloom.core.protocols import Batch, DataSpec, Operation, parameters_sha256
from rayloom_pipelines.load.given import conditions, spread
from rayloom_pipelines.load.operate import BATCH, find, operate
from rayloom_pipelines.load.rows import read_rows, shown

DRAWN = 64  # rows, where nobody says how many
WIDEST = 16  # pictures in a row of a grid


@dataclass(frozen=True)
class Application:
    """What is to be computed.

    Attributes:
        run: A `facade.Run`.
        which: Its checkpoint.
        model: The model, in evaluation mode.
        spec: The data that it was built for.
        operation: What to do.
        settings: Of the operation.
        fields: Rows and conditions, (num, ...) each.
        num: How many rows.
        seed: Of the noise.
        batch_size: Rows at a time.
        told: What the side-car says of rows and conditions.
        period: Rows after which the conditions begin again; 1 where they do not.
    """

    run: Any
    which: Any
    model: torch.nn.Module
    spec: DataSpec
    operation: Operation
    settings: Any
    fields: Batch
    num: int
    seed: int
    batch_size: int
    told: Mapping[str, Any]
    period: int = 1

    @property
    def columns(self) -> int | None:
        """Pictures in a row, so that equal conditions stand below each other."""
        return self.period if 1 < self.period <= WIDEST else None

    def compute(self, *, workers: int = 0) -> Batch:
        """The result, in this process or on Ray workers."""
        if workers:
            from rayloom_pipelines.load.operate_workers import on_workers

            return on_workers(self, workers)
        return operate(
            self.model,
            self.operation,
            self.fields,
            self.num,
            settings=self.settings,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def facts(self) -> dict[str, Any]:
        """What made the result: nothing of the machine, the time or the number of workers."""
        from importlib.metadata import version

        from rayloom import __version__

        return {
            "run": self.run._member().id,
            "checkpoint": self.which,
            "parameters_sha256": parameters_sha256(self.model.state_dict()),
            "operation": self.operation.name,
            "settings": self.settings.model_dump(mode="json") if self.settings else {},
            **self.told,
            "num": self.num,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "versions": {"rayloom": __version__, "torch": version("torch")},
        }


def prepare(
    run: Any,
    name: str,
    *,
    data: Any = None,
    num: int | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    given: Mapping[str, Any] | None = None,
    seed: int = 0,
    which: Any = "best",
    batch_size: int | None = None,
) -> Application:
    """Read and check all that an operation needs.

    Args:
        run: A `facade.Run`.
        name: Of the operation.
        data: Its rows, see `rows.read_rows`; None for an operation that reads none.
        num: How many rows; None: as many as `data` or the conditions have, else 64.
        settings: Words `key=value`, or a mapping.
        given: Conditions by field.
        seed: Of the noise.
        which: Checkpoint.
        batch_size: Rows at a time; None: 64.

    Raises:
        UserError: Something does not fit; says what would be right.
    """
    from rayloom_pipelines.load.weights import config_of_folder, spec_from

    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    member = run._member()
    model = run._model(which)
    spec, config = spec_from(member.record), config_of_folder(member.path)
    operation, cls = find(model, name), type(model).__name__
    read = read_settings(operation.settings, settings, of=f"operation {name!r} of {cls}")
    rows: Batch = {}
    if data is not None:
        wanted = tuple(n for n in operation.reads if n not in (given or {}))
        if not wanted:
            raise UserError(f"{name!r} of {cls} reads no rows; conditions are given by name")
        rows = read_rows(data, wanted, spec, config, where=shown(data))
    told = conditions(given or {}, operation, cls, spec, config)
    missing = [field for field in operation.reads if field not in {*rows, *told}]
    if missing:
        raise UserError(f"{name!r} of {cls} reads {missing[0]!r}: say where it comes from (--in)")
    counts = {len(value) for value in rows.values()}
    longest = max((len(value) for value in told.values()), default=1)
    count = counts.pop() if counts else num or (longest if longest > 1 else DRAWN)
    if rows and num is not None and num != count:
        raise UserError(f"{num} rows are wanted and {shown(data)} has {count}")
    spoken = {"in": shown(data)} if data is not None else {}
    spoken |= {"given": {field: shown(value) for field, value in (given or {}).items()}}
    return Application(
        run, which, model, spec, operation, read, rows | spread(told, count), count, seed,
        batch_size or BATCH, spoken, longest,
    )  # fmt: skip
