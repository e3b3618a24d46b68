"""The run folder of a new run, and what a command says beside its config."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rayloom.config.resolved import to_dict
from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError
from rayloom.records.record import Record
from rayloom_pipelines.places import storage_path


@dataclass(frozen=True)
class Options:
    """What a command says beside the config; part of `run.json`.

    Attributes:
        init: Run folder whose best parameters this run starts from.
        smoke: A run of seconds, hidden from lists.
        overfit_batch: Train on the first batch again and again.
        profile: Write a profile of some steps.
        track: Whether MLflow is told.
        parent: Id of the run that groups this one with others.
        register: Whether the best checkpoint becomes a registered model.
        tags: Further MLflow tags.
        searched: Keys that a sweep searches; they are MLflow params whatever their value.
    """

    init: str | None = None
    smoke: bool = False
    overfit_batch: bool = False
    profile: bool = False
    track: bool = True
    parent: str | None = None
    register: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    searched: Sequence[str] = ()

    @classmethod
    def of(cls, record: Record) -> "Options":
        """Those that a `run.json` holds.

        Raises:
            UserError: It holds one that this version does not know.
        """
        known = {one.name for one in fields(cls)}
        given = record.known("options", record.options).to_dict()
        unknown = [name for name in given if name not in known]
        if unknown:
            raise UserError(
                f"run {record.run_id} was started with the option {unknown[0]!r}, which this "
                f"version of rayloom does not know; known: {', '.join(sorted(known))}"
            )
        return cls(**given)


def make_folder(
    config: RunConfig,
    name: str,
    options: Options,
    *,
    tree: Mapping[str, Any] | None = None,
    plugins: Sequence[Mapping[str, Any]] = (),
    say: Any = None,
    facts: Mapping[str, Any] | None = None,
    carried: Mapping[str, Any] | None = None,
    fill: Callable[[Path], object] | None = None,
) -> Any:
    """The run folder of a new run, with all that a resume and a reader need to know.

    Args:
        config: Resolved config.
        name: Its name.
        options: See `Options`.
        tree: What config.yaml holds; None: the config (a sweep's has spaces in it).
        plugins: `Plugin.to_dict()` of each.
        say: Hears about disks that refuse.
        facts: More fields of `run.json`.
        carried: Of `origin.carry`: where the code comes from, if another process stands behind.
        fill: Puts more into the folder before it appears.

    Raises:
        UserError: The storage cannot be written.
    """
    from rayloom.records import RunFolder
    from rayloom.records.origin import JOB_VARIABLE, describe_run
    from rayloom.tracking import resolve_uri

    info = describe_run(carried) | {
        "kind": "run",
        "task": config.task,
        "seed": config.seed,
        "smoke": options.smoke,
        "parent": options.parent,
        "options": asdict(options),
        "plugins": list(plugins),
        "tracking": {
            "uri": resolve_uri(config.tracking.uri, Path.cwd()) if options.track else None,
            "experiment": config.tracking.experiment,
        },
        "tags": dict(config.tracking.tags) | dict(options.tags),
        **(facts or {}),
    }
    storage = storage_path(config.storage)
    settled = os.environ.get(JOB_VARIABLE) if options.parent is None else None
    return RunFolder.create(
        storage,
        name,
        config=dict(tree) if tree is not None else to_dict(config),
        info=info,
        run_id=settled if settled and not (storage / settled).exists() else None,
        fill=fill,
        say=say or _silent,
    )


def _silent(text: str) -> None:
    """Default of `say`."""
