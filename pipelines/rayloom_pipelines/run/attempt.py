"""One attempt on a run folder: its lock, its tracking, the driver, and the end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.config.hyperparameters import hyperparameters
from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.run.beginning import begin
from rayloom_pipelines.run.ending import finish, give_up
from rayloom_pipelines.run.folder import Options
from rayloom_pipelines.run.prepare import Prepared
from rayloom_pipelines.run.quiet import quiet
from rayloom_pipelines.run.server import mlflow_of


@dataclass(frozen=True)
class Task:
    """What one attempt needs to know beside its folder.

    Attributes:
        config: What holds now: length, rules, resources and tracking may differ from the first.
        options: Of the command.
        prepared: See `run.prepare`.
        observer: Who watches.
        should_stop: Another source of stop requests.
        resume: Whether there was an attempt before.
        began: `time.monotonic()` of the command.
        carried: Of `records.origin.carry`, in a trial.
    """

    config: RunConfig
    options: Options
    prepared: Prepared
    observer: RunObserver
    should_stop: Callable[[], int] | None
    resume: bool
    began: float
    carried: Mapping[str, Any] | None = None


def make_attempt(folder: RunFolder, task: Task) -> Any:
    """One attempt on a run folder, under its lock; whatever happens is written down."""
    config, options, observer = task.config, task.options, task.observer
    with folder.lock(), quiet(folder.log_path):
        mark, follower = begin(folder, config, resume=task.resume, carried=task.carried), None
        try:
            observer.on_start(
                {
                    "run": folder.run_id,
                    "path": str(folder.path),
                    "name": folder.record.name,
                    "workers": config.resources.workers,
                    "resumed": task.resume,
                }
            )
            follower = start_follower(folder, config, options, observer)
            outcome = train(folder, task)
            finish(folder, config, options, outcome, follower, observer)
        except BaseException as error:
            give_up(folder, error, follower, observer, mark=mark)
            raise
    elapsed = time.monotonic() - task.began
    observer.on_end({"run": folder.run_id, "elapsed_s": elapsed, **outcome})
    return folder


def start_follower(
    folder: RunFolder, config: RunConfig, options: Any, observer: RunObserver
) -> Any | None:
    """The MLflow follower of a run folder, started; None where tracking is off."""
    record = folder.record
    try:
        uri = mlflow_of(record, config)
    except UserError as error:  # of a resume
        observer.on_message(f"{error}, then `rayloom runs sync {folder.run_id}`; training goes on")
        return None
    if uri is None:
        return None
    from rayloom.tracking import MlflowFollower

    tags = {
        "rayloom.config": record.name,
        "rayloom.task": config.task,
        "rayloom.seed": str(record.seed),
        **({"rayloom.smoke": "true"} if options.smoke else {}),
        **({"rayloom.data": record.data.fingerprint} if record.data else {}),
        **({"rayloom.protocol": record.protocol} if record.protocol else {}),
        **{f"rayloom.stage.{field}": stage.run for field, stage in record.stages.items()},
        **record.tags,
    }
    return MlflowFollower(
        folder.path,
        uri,
        config.tracking.experiment,
        params=hyperparameters(config, keep=options.searched, short=config.model is not None),
        tags=tags,
        parent=options.parent,
        say=observer.on_message,
    ).start()


def train(folder: RunFolder, task: Task) -> dict[str, Any]:
    """Drive the trainable to its end, here or on workers. Returns `Outcome.to_dict()`.

    Args:
        folder: The run folder, locked.
        task: See `Task`.
    """
    config: RunConfig = task.config
    if config.resources.workers > 0:
        from rayloom_pipelines.run import workers

        run = workers.train_rl if config.trainable == "rollouts" else workers.train_model
        return run(folder, task)
    from rayloom.training import Plan, drive

    trainable = task.prepared.trainable
    outcome = drive(
        trainable,
        Plan.from_config(config),
        folder=folder,
        sink=folder.journal(),
        observer=task.observer,
        resume=task.resume,
        should_stop=task.should_stop,
    )
    close = getattr(trainable, "close", None)
    if close is not None:
        close()
    return outcome.to_dict()
