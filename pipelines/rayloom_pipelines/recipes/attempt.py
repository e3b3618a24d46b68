"""The steps of one attempt on a run folder; `recipes.run` says in which order."""

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rayloom.core.config import to_dict
from rayloom.core.errors import RayloomError
from rayloom.core.hyperparameters import hyperparameters
from rayloom.core.sections import RunConfig
from rayloom_pipelines.console import RunObserver

END_TRIES = 60  # a second apart
CLOSE_S, HURRY_S = 30.0, 5.0  # how long MLflow may take at the end; after a second signal
_ENDED = {"finished": "FINISHED", "interrupted": "KILLED", "time_limit": "KILLED"}


@dataclass
class Prepared:
    """What is made and checked before a run folder exists.

    Attributes:
        config: What the trainable is built from: the config of the first start, so that schedules
            and horizons stay what they were when a resume changes the length.
        data: Name, fingerprint, counts and spec of the data set, for `run.json`; None for RL.
        choices: Every `auto` that was decided once: threads, device.
        trainable: What to drive in this process; None where workers build it.
        stages: First stages as found for a new run, by config field; see `recipes.stages`.
    """

    config: RunConfig
    data: dict[str, Any] | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    trainable: Any = None
    stages: dict[str, Any] = field(default_factory=dict)


def prepare(
    config: RunConfig,
    options: Any,
    *,
    choices: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> Prepared:
    """Open the data or the environment, decide what is `auto`, build what can be built.

    Args:
        config: Resolved config.
        options: `recipes.run.Options`.
        choices: Earlier decisions, which a resume keeps.
        path: Run folder of a resume, which has its own copies of first stages.

    Raises:
        UserError: The config does not fit the data, the environment or this machine.
    """
    import torch

    from rayloom_pipelines.recipes import build, stages, weights

    kept = dict(choices or {})
    kept["device"] = build.choose_device(config)

    def settle_threads(spec: Any = None) -> None:
        if config.resources.threads != "auto" or not kept.get("threads"):
            kept["threads"] = build.choose_threads(config, spec)
        torch.set_num_threads(int(kept["threads"]))

    made = Prepared(config, choices=kept)
    start = weights.of_run(Path(options.init)) if options.init else None
    workers = config.resources.workers
    if config.task == "rl":
        settle_threads()
        if workers == 0:
            made.trainable = build.build_rl(config)
            if start is not None:
                weights.put_into(made.trainable, start)
        return made
    from rayloom.data import open_dataset

    assert config.data is not None
    dataset = open_dataset(config.data)
    spec = dataset.spec
    settle_threads(spec)
    made.data = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "spec": {"name": spec.name, "fields": {k: asdict(v) for k, v in spec.fields.items()}},
    }
    if path is None:
        made.stages = stages.find(config, spec)
        frozen = {name: stage.module for name, stage in made.stages.items()}
    else:
        frozen = weights.stages_of(path)
    if workers == 0:
        made.trainable = build.build_generative(
            config,
            stages=frozen,
            device=kept["device"],
            dataset=dataset,
            initial=start,
            overfit_batch=options.overfit_batch,
            profile=Path("profile").absolute() if options.profile else None,
        )
    else:
        build.build_model(config, spec, frozen)  # what does not fit is told before Ray starts
    return made


def start_follower(
    folder: Any, config: RunConfig, options: Any, observer: RunObserver
) -> Any | None:
    """The MLflow follower of a run folder, started; None where tracking is off."""
    about = folder.read()
    uri = (about.get("tracking") or {}).get("uri")
    if uri is None:
        return None
    from rayloom.tracking import MlflowFollower, resolve_uri

    if config.tracking.uri is not None:  # a resume may move the tracking
        uri = resolve_uri(config.tracking.uri, Path.cwd())
    tags = {
        "rayloom.config": about["name"],
        "rayloom.task": about["task"],
        "rayloom.seed": str(about["seed"]),
        **({"rayloom.smoke": "true"} if options.smoke else {}),
        **({"rayloom.data": about["data"]["fingerprint"]} if about.get("data") else {}),
        **{f"rayloom.stage.{k}": v["run"] for k, v in about.get("stages", {}).items()},
        **about.get("tags", {}),
    }
    return MlflowFollower(
        folder.path,
        uri,
        config.tracking.experiment,
        params=hyperparameters(config, keep=options.searched),
        tags=tags,
        parent=options.parent,
        say=observer.on_message,
    ).start()


def train(folder: Any, task: Any) -> dict[str, Any]:
    """Drive the trainable to its end, here or on workers. Returns `Outcome.to_dict()`.

    Args:
        folder: The run folder, locked.
        task: `recipes.run.Task`.
    """
    config: RunConfig = task.config
    if config.resources.workers > 0:
        from rayloom_pipelines.recipes import workers

        run = workers.train_rl if config.task == "rl" else workers.train_generative
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


def note_resume(folder: Any, config: RunConfig) -> None:
    """Write into `run.json` that an attempt begins, and with which config if it changed."""
    about = folder.read()
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    entry: dict[str, Any] = {"time": now}
    if about.get("config_now") not in (None, to_dict(config)):
        entry["train"] = to_dict(config)["train"]
    folder.update(resumed=[*about.get("resumed", []), entry])


def finish(
    folder: Any,
    config: RunConfig,
    options: Any,
    outcome: dict[str, Any],
    follower: Any | None,
    observer: RunObserver,
) -> None:
    """Journal, `run.json`, MLflow and the model registry learn how it ended."""
    status = outcome["status"]
    journal = folder.journal()
    journal.status(status)
    _until_written(journal.close)
    about = dict(
        status=status,
        ended=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        reason=outcome["reason"],
        exit_code=outcome["exit_code"],
        position=outcome["position"],
        progress=outcome["progress"],
        summary={
            "step": outcome["position"],
            "metrics": outcome["metrics"],
            "best": outcome["best"],
        },
        parameters_sha256=outcome["parameters_sha256"],
    )
    _until_written(lambda: folder.update(**about))
    if follower is None:
        return
    if status == "finished" and options.register and not options.smoke:
        if follower.flush(CLOSE_S):
            _register(folder, config, observer)
    follower.close(_ENDED[status], CLOSE_S)


def give_up(folder: Any, error: BaseException, follower: Any | None, observer: RunObserver) -> None:
    """An error or a second signal ended the attempt: written down, and how to go on is said."""
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    if stopped:
        observer.on_message(f"stopped at once; go on with: rayloom resume {folder.run_id}")
    status = folder.read()["status"]
    if status not in _ENDED:  # else training is over and only MLflow lacks something
        status = "interrupted" if stopped else "failed"
        cause = str(error) if isinstance(error, RayloomError) else repr(error)
        folder.update(status=status, reason=cause[:2000], exit_code=_exit_code(error))
        folder.journal().status(status)
    folder.journal().close()
    if follower is not None:
        patience = HURRY_S if stopped else CLOSE_S
        follower.close(_ENDED.get(status, "FAILED"), patience, in_a_hurry=stopped)


def _exit_code(error: BaseException) -> int:
    code = getattr(error, "exit_code", getattr(error, "code", None))
    if isinstance(code, int):
        return code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _until_written(write: Callable[[], bool]) -> bool:
    """Try once a second for a minute: a disk that is full at the very end may be made free."""
    for _ in range(END_TRIES):
        if write():
            return True
        time.sleep(1.0)
    return write()


def _register(folder: Any, config: RunConfig, observer: RunObserver) -> None:
    """Make the best checkpoint a registered model; a failure is said and ends nothing."""
    from rayloom_pipelines.recipes import weights

    try:
        version = weights.register(folder, config, say=observer.on_message)
    except Exception as error:  # MLflow may be away: the run itself is complete
        first = str(error).strip().partition("\n")[0]
        observer.on_message(
            f"the model was not registered ({type(error).__name__}: {first}); "
            f"`rayloom runs sync {folder.run_id}` tries again"
        )
        return
    folder.update(model={"uri": version.uri, "name": version.name, "version": version.version})
    observer.on_message(f"registered as {version.uri}")


def send_rest(folder: Any, observer: RunObserver) -> bool:
    """Send what MLflow lacks of a run, and register its model if it is finished without one.

    Returns:
        Whether MLflow has everything; True where tracking is off.
    """
    from rayloom.core.config import load_config
    from rayloom.tracking import sync_run

    about = folder.read()
    if not (about.get("tracking") or {}).get("uri"):
        return True
    sent = sync_run(folder.path, say=observer.on_message, timeout_s=60.0)
    options = about.get("options", {})
    wanted = options.get("register", True) and not about.get("smoke")
    if sent and wanted and about["status"] == "finished" and not about.get("model"):
        config = load_config(folder.path / "config.yaml", site=None).config
        _register(folder, config, observer)
    return sent
