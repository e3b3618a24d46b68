"""One training run: its folder, its tracking, its trainable, the driver, and the end."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rayloom.core import interrupt
from rayloom.core.config import to_dict
from rayloom.core.errors import UserError
from rayloom.core.sections import RunConfig
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.recipes.quiet import quiet
from rayloom_pipelines.resolve import storage_path

RESUMABLE = ("train.epochs", "train.grad_steps", "train.env_steps", "train.stop",
             "train.early_stopping", "train.time_limit_s", "resources", "tracking")  # fmt: skip


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


def make_folder(
    config: RunConfig,
    name: str,
    options: Options,
    *,
    tree: Mapping[str, Any] | None = None,
    plugins: Sequence[Mapping[str, Any]] = (),
    say: Any = None,
    facts: Mapping[str, Any] | None = None,
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
        fill: Puts more into the folder before it appears.

    Raises:
        UserError: The storage cannot be written.
    """
    from rayloom.records import RunFolder, describe_environment
    from rayloom.tracking import resolve_uri

    info = describe_environment() | {
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
    settled = os.environ.get("RAYLOOM_JOB") if options.parent is None else None
    return RunFolder.create(
        storage,
        name,
        config=dict(tree) if tree is not None else to_dict(config),
        info=info,
        run_id=settled if settled and not (storage / settled).exists() else None,
        fill=fill,
        say=say or _silent,
    )


def start(
    config: RunConfig,
    name: str,
    options: Options,
    *,
    observer: RunObserver,
    plugins: Sequence[Mapping[str, Any]] = (),
    should_stop: Callable[[], int] | None = None,
    trial: str | None = None,
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

    Raises:
        UserError: The config does not fit the data, the environment or this machine; no run folder
            is left behind.
        RayloomError: Training failed; the run folder says so.
    """
    from rayloom_pipelines.recipes import attempt, stages

    began = time.monotonic()
    with quiet(None):
        prepared = attempt.prepare(config, options)
    interrupt.check()
    folder = make_folder(
        config,
        name,
        options,
        plugins=plugins,
        say=observer.on_message,
        facts={
            "data": prepared.data,
            "choices": prepared.choices,
            **({"trial": trial} if trial is not None else {}),
            **({"stages": stages.record(prepared.stages)} if prepared.stages else {}),
        },
        fill=lambda place: stages.copy_into(place, prepared.stages),
    )
    task = Task(config, options, prepared, observer, should_stop, resume=False, began=began)
    return _attempt(folder, task)


def resume(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    observer: RunObserver,
    plugins: Sequence[str] = (),
    should_stop: Callable[[], int] | None = None,
) -> Any:
    """Go on with a run from its newest checkpoint that verifies.

    Args:
        path: Run folder.
        overrides: Changes of length, resources, tracking and stop rules.
        observer: Who watches.
        plugins: Plugin files or modules; those the run was started with must be unchanged.
        should_stop: Another source of stop requests: a signal number, or 0.

    Raises:
        UserError: Something else was to change, or the plugins differ.
    """
    from rayloom.core.config import config_from_dict, load_config, with_overrides
    from rayloom.core.plugins import require_plugins
    from rayloom.records import RunFolder
    from rayloom_pipelines.recipes import attempt

    began = time.monotonic()
    folder = RunFolder.open(path, say=observer.on_message)
    about = folder.read()
    require_plugins(about.get("plugins", []), plugins)
    first = load_config(folder.path / "config.yaml", site=None).config
    config = config_from_dict(about["config_now"]) if about.get("config_now") else first
    if overrides:
        config = with_overrides(config, _one_length(config, overrides), allowed=RESUMABLE)
    options = Options(**about["options"])
    if about["status"] == "finished" and not _longer(config, about):
        observer.on_message(f"{folder.run_id} is finished; nothing to do")
        attempt.send_rest(folder, observer)
        return folder
    with quiet(folder.log_path):
        built_from = first.model_copy(update={"resources": config.resources})
        prepared = attempt.prepare(built_from, options, choices=about.get("choices", {}), path=path)
        _same_data(prepared.data, about.get("data"))
    interrupt.check()
    task = Task(config, options, prepared, observer, should_stop, resume=True, began=began)
    return _attempt(folder, task)


@dataclass(frozen=True)
class Task:
    """What one attempt needs to know beside its folder.

    Attributes:
        config: What holds now: length, rules, resources and tracking may differ from the first.
        options: Of the command.
        prepared: `attempt.Prepared`.
        observer: Who watches.
        should_stop: Another source of stop requests.
        resume: Whether there was an attempt before.
        began: `time.monotonic()` of the command.
    """

    config: RunConfig
    options: Options
    prepared: Any
    observer: RunObserver
    should_stop: Callable[[], int] | None
    resume: bool
    began: float


def _attempt(folder: Any, task: Task) -> Any:
    """One attempt on a run folder, under its lock; whatever happens is written down."""
    from rayloom_pipelines.recipes import attempt

    config, options, observer = task.config, task.options, task.observer
    with folder.lock(), quiet(folder.log_path):
        if task.resume:
            attempt.note_resume(folder, config)
        folder.update(status="running", config_now=to_dict(config))
        observer.on_start(
            {
                "run": folder.run_id,
                "path": str(folder.path),
                "name": folder.read()["name"],
                "workers": config.resources.workers,
                "resumed": task.resume,
            }
        )
        follower = attempt.start_follower(folder, config, options, observer)
        try:
            outcome = attempt.train(folder, task)
            attempt.finish(folder, config, options, outcome, follower, observer)
        except BaseException as error:
            attempt.give_up(folder, error, follower, observer)
            raise
    elapsed = time.monotonic() - task.began
    observer.on_end({"run": folder.run_id, "elapsed_s": elapsed, **outcome})
    return folder


def _one_length(config: RunConfig, overrides: Sequence[str]) -> list[str]:
    """A new length in another unit takes the place of the old one."""
    units = ("epochs", "grad_steps", "env_steps")
    given = {u for u in units for word in overrides if word.startswith(f"train.{u}=")}
    old = config.train.length[0]
    cleared = [f"train.{old}=null"] if given and old not in given else []
    return [*cleared, *overrides]


def _longer(config: RunConfig, about: Mapping[str, Any]) -> bool:
    """Whether a finished run has something left to do under a changed config."""
    before = about.get("config_now") or {}
    return bool(before) and before.get("train") != to_dict(config)["train"]


def _same_data(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> None:
    if now and before and now["fingerprint"] != before["fingerprint"]:
        raise UserError(
            f"the data set {now['name']} has changed since the run was started (fingerprint "
            f"{before['fingerprint'][:12]} then, {now['fingerprint'][:12]} now)"
        )


def _silent(text: str) -> None:
    """Default of `say`."""
