"""Data-parallel training on Ray Train V2.

The workers run `entry(payload, collective)` and nothing else: Ray Train places them, forms the
torch process group, and restarts the group when a worker dies. It never sees a checkpoint of ours:
its own bookkeeping file is overwritten in place, and a half-written one makes a run unresumable.
The entry loads the newest checkpoint of the run folder itself, at every attempt.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from rayloom.config.sections import ResourcesConfig
from rayloom.core import errors
from rayloom.core.causes import packed, paragraph, unpacked
from rayloom.core.errors import RayloomError, UserError
from rayloom.distributed.cluster import Cluster, start_ray
from rayloom.distributed.deaths import WorkerError, death_of, deaths_callback, used_up
from rayloom.distributed.lean import ask_ahead, trainer_class
from rayloom.distributed.mailbox import Event, Line, Mailbox, connect, emit, stop_signal
from rayloom.distributed.pulse import explained
from rayloom.distributed.quiet import first_line
from rayloom.distributed.supervision import (
    OnEvent,
    Say,
    Watch,
    closing,
    supervise,
)

__all__ = ["WorkerError", "emit", "run_workers", "stop_signal"]


def run_workers(
    entry: str,
    payload: Mapping[str, Any],
    *,
    workers: int,
    resources: ResourcesConfig | None = None,
    address: str | None = None,
    on_event: OnEvent | None = None,
    env: Mapping[str, str] | None = None,
    log_path: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    max_failures: int = 2,
    should_stop: Callable[[], int] | None = None,
    say: Say | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Run `entry` on N Ray workers and return what rank 0's returned.

    SIGINT and SIGTERM that reach this process while it waits are passed on: `stop_signal()` turns
    true on the workers, whose entry writes a checkpoint and returns. A second signal stops at once.

    Args:
        entry: `"module:function"`, imported on each worker and called as
            `function(payload, collective)`; returns a JSON-able dict. The payload it sees has one
            key more, `attempt`: 0, or how often the workers were restarted.
        payload: JSON-able. Paths in it must be absolute.
        workers: N >= 1.
        resources: CPUs, GPUs and torch threads of a worker.
        address: Ray address; see `start_ray`.
        on_event: Called in this thread with each event that a worker `emit`s, in order.
        env: Variables for the workers.
        log_path: File to which the workers' log records and warnings are appended.
        plugins: Plugin files, sent to workers on other nodes.
        max_failures: How many times the group is started again after a worker died.
        should_stop: Asked again and again in this thread: the signal number to hand to the
            workers, or 0. None: `stop_signal`, what this process was itself told as a trial.
        say: Told, in one line, what the workers wait for on a busy cluster, and when one died and
            all are started again; the log is told too.
        note: See `start_ray`.

    Raises:
        UserError: As raised by the entry (with its message), or the cluster cannot hold N workers.
        ClusterLostError: The Ray died under them.
        RayloomError: As raised by the entry; `WorkerError` for any other exception of the entry and
            for workers that died more than `max_failures` times.
        KeyboardInterrupt: A second signal came.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    resources = resources or ResourcesConfig()
    piece = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    pieces = [piece] * workers
    with start_ray(address, pieces=pieces, env=env, plugins=plugins, note=note, lean=True) as here:
        import ray

        mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        if here.local:
            ask_ahead()
        settings = {
            "entry": entry,
            "payload": dict(payload),
            "mailbox": mailbox,
            "threads": _threads(resources),
            "log_path": str(Path(log_path).absolute()) if log_path else None,
        }
        trainer = _trainer(settings, workers, resources, here, max_failures)
        watch = Watch("worker", here, say, restarts=max_failures)
        with closing(mailbox, watch.pulse):
            failure = supervise(
                trainer.fit, mailbox, on_event or _ignore, watch, should_stop=should_stop
            )
            return _judge(mailbox, failure, max_failures, watch)


def _ignore(event: Event) -> None:
    """Default of `on_event`."""


def _threads(resources: ResourcesConfig) -> int:
    """Torch threads of a worker: what the config says, else its whole CPUs."""
    if resources.threads != "auto":
        return int(resources.threads)
    return max(1, int(resources.cpus_per_worker))


def _trainer(
    settings: dict[str, Any],
    workers: int,
    resources: ResourcesConfig,
    here: Cluster,
    max_failures: int,
) -> Any:
    """The TorchTrainer: a fresh name and a storage of its own, so that no state is picked up."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return trainer_class(local=here.local)(
        _train_function,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=f"rayloom-{uuid4().hex[:12]}",
            storage_path=str(here.scratch),
            failure_config=FailureConfig(max_failures=max_failures),
            callbacks=[deaths_callback(settings["mailbox"])],
        ),
    )


def _judge(
    mailbox: Any, failure: BaseException | None, max_failures: int, watch: Watch
) -> dict[str, Any]:
    """The outcome, or the error that a person should see."""
    import ray

    with explained(watch.pulse):
        outcome, fatal, attempts = ray.get(mailbox.result.remote())
    if fatal is not None:
        raise _rebuild(fatal)
    if failure is None and outcome is not None:
        return outcome
    if lost := failure is not None and watch.pulse.explain(failure):
        raise lost from failure
    if failure is not None and death_of(failure):
        what = (
            f"Ray Train's own process (its controller) died: {death_of(failure)}. Nothing before"
            " the newest checkpoint is lost"
        )
    else:
        cause = watch.last_death or (first_line(failure) if failure else "they returned nothing")
        what = used_up(max(attempts, watch.deaths), max_failures, cause)
    raise WorkerError(what, details=str(failure)) from failure


def _rebuild(fatal: dict[str, Any]) -> RayloomError:
    """The worker's error as the driver raises it: same kind, same message, itself as its cause."""
    error = _same_kind(fatal)
    error.__cause__ = unpacked(fatal)
    return error


def _same_kind(fatal: dict[str, Any]) -> RayloomError:
    kind = getattr(errors, fatal["kind"], None)
    if fatal["kind"] == "ConfigError" or not isinstance(kind, type):
        kind = UserError if fatal["exit_code"] == UserError.exit_code else None
    if kind is None:
        return WorkerError(fatal["message"], details=fatal["traceback"])
    return kind(fatal["message"])


# ---------------------------------------------------------------------------------------- worker


def _train_function(settings: dict[str, Any]) -> None:
    """What Ray Train runs on every worker."""
    import ray
    import torch

    from rayloom.core import failpoints
    from rayloom.training.collective import TorchCollective

    failpoints.set_side("worker")
    torch.set_num_threads(settings["threads"])
    mailbox = settings["mailbox"]
    with _logging(settings["log_path"]):
        collective = TorchCollective()
        begun = ray.get(mailbox.begin.remote()) if collective.rank == 0 else None
        attempt, failed = collective.broadcast_json(begun)
        if failed:
            return
        if attempt > 0:
            failpoints.disarm()
        line = Line(mailbox, "workers" if collective.rank == 0 else "")
        connect(line)
        try:
            outcome = function_of(settings["entry"])(
                {**settings["payload"], "attempt": attempt}, collective
            )
            if collective.rank == 0:
                ray.get(mailbox.finish.remote(outcome or {}))
            collective.barrier()
        except Exception as error:
            if not _restart_cures(error):
                ray.get(mailbox.fail.remote(_describe(error, collective.rank)))
            raise
        finally:
            connect(None)
            line.close()


def function_of(entry: str) -> Callable[..., Any]:
    """The function that `"module:function"` names."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def _restart_cures(error: BaseException) -> bool:
    """Whether this is the echo of another worker's death, not a fault of its own."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError | ConnectionError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("gloo" in text.lower() or "NCCL" in text)


def _describe(error: BaseException, rank: int) -> dict[str, Any]:
    ours = isinstance(error, RayloomError)
    return {
        "kind": type(error).__name__ if ours else "",
        "message": str(error) if ours else f"worker {rank}: {paragraph(error)}",
        "exit_code": getattr(error, "exit_code", 1),
        **packed(error),
    }


@contextmanager
def _logging(path: str | None) -> Iterator[None]:
    """Append this worker's log records and warnings to a file, rank and process named."""
    if path is None:
        yield
        return
    import logging

    from rayloom.records.inside import LogFile

    handler = LogFile(Path(path))
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s worker {os.getpid()} %(levelname)s %(name)s: %(message)s")
    )
    handler.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def wait_until(check: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether `check()` turned true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.05)
    return check()
