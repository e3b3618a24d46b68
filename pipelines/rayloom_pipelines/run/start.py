"""One training run: its folder, its tracking, its trainable, the driver, and the end."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.config.resolved import to_dict
from rayloom.config.sections import LENGTHS, RunConfig
from rayloom.core import interrupt
from rayloom.core.errors import UserError
from rayloom.records.record import Record, plain
from rayloom.records.told_metrics import tell_metrics
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.run.attempt import Task, make_attempt
from rayloom_pipelines.run.checked import check_rules, check_same_data, checked
from rayloom_pipelines.run.folder import Options, make_folder
from rayloom_pipelines.run.foresight import foresee
from rayloom_pipelines.run.prepare import Prepared, prepare
from rayloom_pipelines.run.quiet import quiet

RESUMABLE = ("train.epochs", "train.grad_steps", "train.env_steps", "train.stop",
             "train.early_stopping", "train.time_limit_s", "resources", "tracking")  # fmt: skip


def start(
    config: RunConfig,
    name: str,
    options: Options,
    *,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]] = (),
    should_stop: Callable[[], int] | None = None,
    trial: str | None = None,
    carried: Mapping[str, Any] | None = None,
    prepared: Prepared | None = None,
) -> Any:
    """Train from the beginning. Returns the run folder, whose `run.json` says how it ended.

    Args:
        config: Resolved config.
        name: Its name.
        options: See `Options`.
        observer: Who watches.
        plugins: `Plugin.to_dict()` of each.
        should_stop: Another source of stop requests: a signal number, or 0.
        trial: Number of the sweep's trial that this is.
        carried: Of `records.origin.carry`: where a trial's code comes from.
        prepared: What `checked` gave for this config; None: it is made here.

    Raises:
        UserError: The config does not fit the data, the environment or this machine; no run folder
            is left behind.
        RayloomError: Training failed; the run folder says so.
    """
    began = time.monotonic()
    prepared = prepared or checked(config, options)
    interrupt.check()
    from rayloom_pipelines.load import stages

    watcher = foresee(observer, options, config.resources.workers)
    folder = make_folder(
        config,
        name,
        options,
        plugins=plugins,
        say=observer.on_message,
        carried=carried,
        facts={
            "data": prepared.data,
            "choices": prepared.choices,
            **({"protocol": prepared.protocol} if prepared.protocol else {}),
            **({"metrics": told} if (told := tell_metrics(prepared.own_metrics.values())) else {}),
            **({"trial": trial} if trial is not None else {}),
            **({"stages": stages.noted(prepared.stages)} if prepared.stages else {}),
        },
        fill=lambda place: stages.copy_into(place, prepared.stages),
    )
    task = Task(config, options, prepared, watcher, should_stop, False, began, carried)
    return make_attempt(folder, task)


def resume(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    observer: RunObserver,
    plugins: Sequence[str] = (),
    should_stop: Callable[[], int] | None = None,
    carried: Mapping[str, Any] | None = None,
) -> Any:
    """Go on with a run from its newest checkpoint that verifies.

    Args:
        path: Run folder.
        overrides: Changes of length, resources, tracking and stop rules.
        observer: Who watches.
        plugins: Plugin files or modules; those the run was started with must be unchanged.
        should_stop: Another source of stop requests: a signal number, or 0.
        carried: Of `records.origin.carry`: where a trial's code comes from.

    Raises:
        UserError: Something else was to change, or the plugins differ.
    """
    from rayloom.catalogue.plugins import require_plugins
    from rayloom.config.resolved import config_from_dict, with_overrides
    from rayloom.records import RunFolder
    from rayloom_pipelines.load.recorded import config_of_folder
    from rayloom_pipelines.run.publish import send_rest

    began = time.monotonic()
    folder = RunFolder.open(path, say=observer.on_message)
    record = folder.record
    require_plugins(plain(record.plugins), plugins)
    first = config_of_folder(folder.path)
    config = config_from_dict(record.config_now) if record.config_now else first
    if overrides:
        config = with_overrides(config, _one_length(config, overrides), allowed=RESUMABLE)
    options = Options.of(record)
    if record.status == "finished" and not _longer(config, record):
        observer.on_message(f"{folder.run_id} is finished; nothing to do")
        try:
            send_rest(folder, observer)
        except UserError as error:
            observer.on_message(f"MLflow is told nothing: {error}")
        return folder
    with quiet(folder.log_path):
        built_from = first.model_copy(update={"resources": config.resources})
        prepared = prepare(built_from, options, choices=record.choices.to_dict(), path=path)
        check_same_data(prepared.data, record.data)
        check_rules(config, prepared)
    interrupt.check()
    watcher = foresee(observer, options, config.resources.workers)
    task = Task(config, options, prepared, watcher, should_stop, True, began, carried)
    return make_attempt(folder, task)


def _one_length(config: RunConfig, overrides: Sequence[str]) -> list[str]:
    """A new length in another unit takes the place of the old one."""
    given = {u for u in LENGTHS for word in overrides if word.startswith(f"train.{u}=")}
    old = config.train.length[0]
    cleared = [f"train.{old}=null"] if given and old not in given else []
    return [*cleared, *overrides]


def _longer(config: RunConfig, record: Record) -> bool:
    """Whether a finished run has something left to do under a changed config."""
    before = record.config_now or {}
    return bool(before) and before.get("train") != to_dict(config)["train"]
