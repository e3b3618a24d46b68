"""The same runs on Ray workers: data-parallel for models, actors that own groups for RL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.catalogue.plugins import load_plugins, paths_of
from rayloom.config.resolved import config_from_dict, to_dict
from rayloom.core.protocols import Collective
from rayloom.records.record import plain
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.run.next_step import last_words

ENTRY = "rayloom_pipelines.run.workers:train_worker"


def train_model(folder: RunFolder, task: Any) -> dict[str, Any]:
    """Ray Train runs `train_worker` on every worker; this process hands on what they say."""
    config, options, observer = task.config, task.options, task.observer
    from rayloom.distributed.train import run_workers

    plugins = paths_of(plain(folder.record.plugins))
    payload = {
        "folder": str(folder.path),
        "config": to_dict(task.prepared.config),
        "plan": to_dict(config),
        "plugins": plugins,
        "resume": task.resume,
        "init": options.init,
        "overfit_batch": options.overfit_batch,
        "profile": str(Path("profile").absolute()) if options.profile else None,
    }

    def on_event(event: Mapping[str, Any]) -> None:
        if event["kind"] == "message":
            observer.on_message(event["text"])
        elif event["kind"] == "progress":
            observer.on_progress(event["event"])
        else:
            observer.on_evaluation(event["event"])

    return run_workers(
        ENTRY,
        payload,
        workers=config.resources.workers,
        resources=config.resources,
        address=config.resources.address,
        on_event=on_event,
        log_path=folder.log_path,
        plugins=plugins,
        should_stop=task.should_stop,
        say=observer.on_message,
        note=last_words(folder),
    )


class Emitter:
    """The driver's observer on rank 0 of the workers: sends events to the driver process."""

    def _send(self, event: dict[str, Any]) -> None:
        from rayloom.distributed.train import emit

        emit(event)

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """At each log point."""
        self._send({"kind": "progress", "event": dict(event)})

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """After an evaluation."""
        self._send({"kind": "evaluation", "event": dict(event)})

    def on_message(self, text: str) -> None:
        """One line for a person."""
        self._send({"kind": "message", "text": text})


def train_worker(payload: Mapping[str, Any], collective: Collective) -> dict[str, Any]:
    """What every worker runs: build, load the newest checkpoint, drive.

    Args:
        payload: Made by `train_model`, JSON-able; `attempt` is added by `run_workers`.
        collective: The workers.
    """
    from rayloom.distributed.train import stop_signal
    from rayloom.training import Nowhere, Plan, drive
    from rayloom_pipelines.load import copies
    from rayloom_pipelines.run import build

    load_plugins(payload["plugins"], remember=False)
    config, plan = config_from_dict(payload["config"]), config_from_dict(payload["plan"])
    emitter = Emitter()
    folder = RunFolder.open(payload["folder"], say=emitter.on_message)
    engine = build.build_engine(
        config,
        collective,
        "cuda" if config.resources.gpus_per_worker else "cpu",
        stages=copies.stages_of(folder.path),
        initial=copies.of_run(Path(payload["init"])) if payload["init"] else None,
        overfit_batch=payload["overfit_batch"],
        profile=Path(payload["profile"]) if payload["profile"] and not collective.rank else None,
    )
    chief = collective.rank == 0
    journal = folder.journal() if chief else Nowhere()
    if chief and payload["attempt"]:
        journal.tags({"rayloom.restarts": str(payload["attempt"])})
    outcome = drive(
        engine,
        Plan.from_config(plan),
        folder=folder,
        sink=journal,
        collective=collective,
        observer=emitter,
        resume=payload["resume"] or payload["attempt"] > 0,
        should_stop=stop_signal,
    )
    journal.close()
    engine.close()
    return outcome.to_dict()


def train_rl(folder: RunFolder, task: Any) -> dict[str, Any]:
    """The RL loop in this process, its groups on Ray actors and its learner in one."""
    config, options, observer = task.config, task.options, task.observer
    from rayloom.distributed.rllib import remote_parts
    from rayloom.training import Plan, drive
    from rayloom_pipelines.load import copies, weights
    from rayloom_pipelines.run import build

    plugins, base = paths_of(plain(folder.record.plugins)), task.prepared.config
    with remote_parts(
        base, address=config.resources.address, plugins=plugins,
        say=observer.on_message, note=last_words(folder),
    ) as (collector, updater):  # fmt: skip
        trainable = build.build_rl(base, collector=collector, updater=updater)
        if options.init and not task.resume:
            local = build.build_rl(base)
            weights.put_into(local, copies.of_run(Path(options.init)))
            updater.load_state_dict(local.updater.state_dict())
            local.close()
        outcome = drive(
            trainable,
            Plan.from_config(config),
            folder=folder,
            sink=folder.journal(),
            observer=observer,
            resume=task.resume,
            should_stop=task.should_stop,
        )
    return outcome.to_dict()
