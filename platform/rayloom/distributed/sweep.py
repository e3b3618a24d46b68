"""Hyperparameter search on Ray Tune, for both halves of the house.

Tune places the trials, runs them in parallel and asks for new ones; ASHA is Tune's. What is kept is
ours: the ledger (`ledger.jsonl`) holds every proposal, score and decision, and Tune's own pickles
go to a scratch folder. An interrupted sweep builds a new Tuner: finished results are told to the
searcher and replayed into ASHA's rungs, running trials go on from their run folders.

A trial that ASHA stops is not killed. `report` tells it to stop, it writes its checkpoint and
returns; so no worker group or placement group is left behind by a stopped trial.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rayloom.config.sections import ResourcesConfig
from rayloom.config.spaces import Space
from rayloom.core import failpoints
from rayloom.core.causes import paragraph, traceback_of
from rayloom.core.errors import RayloomError, UserError
from rayloom.core.secrets import mask_tree
from rayloom.core.tasks import Trainable
from rayloom.distributed.cluster import start_ray
from rayloom.distributed.demand import Demand, concurrency, demand_of
from rayloom.distributed.ledger import Ledger, TrialRecord
from rayloom.distributed.mailbox import OWN, Line, Mailbox, connect
from rayloom.distributed.pulse import explained
from rayloom.distributed.quiet import first_line
from rayloom.distributed.searchers import Grid, Proposer, make_proposer
from rayloom.distributed.supervision import OnEvent, Say, Watch, closing, supervise
from rayloom.distributed.train import function_of

__all__ = ["Demand", "SweepResult", "SweepSpec", "concurrency", "demand_of", "run_sweep"]

Report = Callable[..., bool]


@dataclass(frozen=True)
class SweepSpec:
    """What to search and how.

    Attributes:
        spaces: Dotted config path to search space.
        metric: Key of the score in what trials report, such as `eval/elbo_nats`.
        mode: `min` or `max`.
        trials: How many trials in all (a grid may have fewer points).
        searcher: `random`, `grid` or `optuna`.
        scheduler: `none` or `asha`.
        grace: Evaluations before ASHA may stop a trial.
        reduction: ASHA keeps one of so many at each rung.
        evaluations: Evaluations of a trial that runs to its end; ASHA's last rung.
        max_concurrent: Trials at a time; None: what the cluster holds.
        seed: Of the search.
    """

    spaces: Mapping[str, Space]
    metric: str
    mode: Literal["min", "max"]
    trials: int = 20
    searcher: str = "optuna"
    scheduler: str = "none"
    grace: int = 2
    reduction: int = 3
    evaluations: int = 20
    max_concurrent: int | None = None
    seed: int = 0


@dataclass
class SweepResult:
    """How a sweep ended.

    Attributes:
        best: The trial with the best score, or None if all failed.
        trials: Rows of the table.
        signal: SIGINT or SIGTERM if it was interrupted, else 0.
        attempts: Trials that ran in this attempt.
    """

    best: TrialRecord | None
    trials: list[dict[str, Any]]
    signal: int = 0
    attempts: int = 0
    concurrent: int = 0
    failed: list[str] = field(default_factory=list)


def proposer_of(spec: SweepSpec) -> Proposer:
    """What proposes the trials of a sweep; a recipe may ask before anything is written.

    Raises:
        UserError: Nothing to search, a grid over real numbers, or one that is too large.
    """
    proposer = make_proposer(spec.searcher, spec.spaces, mode=spec.mode, seed=spec.seed)
    if isinstance(proposer, Grid) and len(proposer) > spec.trials:
        raise UserError(
            f"the grid has {len(proposer)} points and sweep.trials is {spec.trials}; set"
            f" sweep.trials={len(proposer)} to try them all, or use sweep.searcher=random"
        )
    return proposer


def run_sweep(
    spec: SweepSpec,
    trial: str,
    payload: Mapping[str, Any],
    *,
    folder: str | Path,
    resources: ResourcesConfig | None = None,
    trainable: Trainable = "engine",
    address: str | None = None,
    on_event: OnEvent | None = None,
    env: Mapping[str, str] | None = None,
    plugins: Sequence[str | Path] = (),
    max_failures: int = 2,
    say: Say | None = None,
    note: str = "",
) -> SweepResult:
    """Run a sweep, or go on with the one whose ledger lies in `folder`.

    Events: `trial_started`, `trial_result`, `trial_ended`, each with its `row` of the table, and
    whatever the trials `emit`.

    Args:
        spec: What to search.
        trial: `"module:function"`, called in a process of its own as
            `function(payload, values, trial, report)`: `trial` is its number as text, and the same
            when it is resumed; `report(metrics, step)` after each evaluation returns True when the
            trial is to stop (the scheduler's word, or a signal: then `stop_signal()` tells which);
            returns a JSON-able dict, with `run_id` and, if it has a better final word than its
            best evaluation, `score`. When a signal stopped it: `{"interrupted": True}`.
        payload: JSON-able, the same for all trials. Paths must be absolute.
        folder: The sweep's folder.
        resources: What a trial's config says.
        trainable: What trains a trial: `engine` or `rollouts`.
        address: Ray address; see `start_ray`.
        on_event: Called in this thread.
        env: Variables for the trials.
        plugins: Plugin files, sent to other nodes.
        max_failures: How many times a trial whose process died is started again.
        say: Told, in one line, what is waited for on a busy cluster, and which trial died and is
            started again; the log is told too.
        note: See `start_ray`.

    Raises:
        ClusterLostError: The Ray died.
        UserError: Nothing to search, a grid that is too large, a trial that fits nowhere.
    """
    proposer = proposer_of(spec)
    resources = resources or ResourcesConfig()
    demand = demand_of(resources, trainable)
    with start_ray(address, pieces=demand.pieces, env=env, plugins=plugins, note=note) as here:
        count = concurrency(here, demand, spec.max_concurrent)
        ledger = Ledger(Path(folder), spec.mode)
        try:
            host = _Host(spec, ledger, proposer, on_event)
            host.watch = Watch("trial", here, say, restarts=max_failures)
            signal = host.run(trial, dict(payload), demand, count, here.scratch)
            return SweepResult(
                best=ledger.best(),
                trials=ledger.table(),
                signal=signal,
                attempts=host.started,
                concurrent=count,
                failed=[r.trial for r in ledger.trials.values() if r.status == "failed"],
            )
        finally:
            ledger.close()


# ---------------------------------------------------------------------------------------- driver


class Book(Mailbox):
    """The mailbox of a sweep: also knows which trials are to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped: set[str] = set()
        self.ended: dict[str, dict[str, Any]] = {}

    async def stop_trial(self, trial: str) -> None:
        """The scheduler's word."""
        self.stopped.add(trial)

    async def verdict(self, trial: str) -> tuple[bool, int]:
        """(whether the trial is to stop, the signal that says so or 0)."""
        return trial in self.stopped or bool(self.signal), self.signal

    async def end_trial(self, trial: str, ended: dict[str, Any]) -> None:
        """What a trial returned, or why it failed."""
        self.ended[trial] = ended
        self.events.append({OWN: "rests", "who": trial})

    async def end_of(self, trial: str) -> dict[str, Any] | None:
        """What is known of a trial's end."""
        return self.ended.get(trial)


class _Host:
    """The driver's side: proposes, hears results, writes the ledger, decides.

    Tune calls it from one thread (searcher, scheduler and callback), events leave from another.
    """

    def __init__(
        self, spec: SweepSpec, ledger: Ledger, proposer: Proposer, on_event: OnEvent | None
    ) -> None:
        self.spec, self.ledger, self.proposer = spec, ledger, proposer
        self.on_event = on_event or (lambda event: None)
        self.started = 0
        self.book: Any = None
        self.watch: Watch
        self._lock = threading.Lock()
        self._outbox: list[dict[str, Any]] = []
        known = [ledger.trials[key] for key in sorted(ledger.trials)]
        for record in known:
            proposer.repeat(record)
        self.unfinished = [record.trial for record in known if record.status == "running"]
        self.next_number = len(known)

    def run(
        self,
        trial: str,
        payload: dict[str, Any],
        demand: Demand,
        count: int,
        scratch: Path,
    ) -> int:
        """Run Tune to its end; gives the signal that interrupted it, or 0."""
        import ray
        from ray import tune

        self.book = ray.remote(num_cpus=0)(Book).remote()
        trainable = tune.with_resources(
            _trial_function(trial, payload, self.book, self.spec.metric),
            tune.PlacementGroupFactory([dict(bundle) for bundle in demand.bundles]),
        )
        from rayloom.distributed.tune_parts import callbacks_of, scheduler_of, searcher_of

        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher_of(self),
                scheduler=scheduler_of(self),
                num_samples=-1,
                max_concurrent_trials=None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                verbose=0,
                callbacks=callbacks_of(self),
                failure_config=tune.FailureConfig(max_failures=self.watch.restarts),
            ),
        )
        self.concurrent = count
        with closing(self.book, self.watch.pulse), explained(self.watch.pulse):
            failure = supervise(tuner.fit, self.book, self.on_event, self.watch, also=self._flush)
            signal = ray.get(self.book.flag.remote())
            if failure is not None and not signal:
                raise self.watch.pulse.explain(failure) or RayloomError(
                    f"the sweep broke off: {first_line(failure)}"
                ) from failure
            return int(signal)

    def _flush(self) -> None:
        with self._lock:
            events, self._outbox = self._outbox, []
        for event in events:
            if "note" in event:
                self.watch.tell(event["note"])
            else:
                self.on_event(event)

    def _tell(self, kind: str, trial: str) -> None:
        row = next(row for row in self.ledger.table() if row["trial"] == trial)
        with self._lock:
            self._outbox.append({"event": kind, "trial": trial, "row": row})

    # -- called by Tune

    def next_trial(self) -> tuple[str, dict[str, Any]] | None:
        """The next trial to start: first those that were running, then new ones."""
        import ray

        if ray.get(self.book.flag.remote()):
            return None
        if self.unfinished:
            trial = self.unfinished.pop(0)
            return trial, self.ledger.trials[trial].values
        if self.next_number >= self.spec.trials:
            return None
        values = self.proposer.propose(self.next_number)
        if values is None:
            return None
        trial = f"{self.next_number:04d}"
        self.next_number += 1
        self.ledger.suggested(trial, values)
        return trial, values

    def trial_started(self, trial: str) -> None:
        """Tune has placed a trial."""
        self.started += 1
        self._tell("trial_started", trial)

    def trial_result(self, trial: str, result: Mapping[str, Any]) -> int:
        """An evaluation; gives its number."""
        number = self.ledger.result(
            trial,
            step=result["step"],
            score=result["score"],
            metrics=json.loads(result["metrics"]),
        )
        self._tell("trial_result", trial)
        return number

    def stop_trial(self, trial: str, evaluation: int, score: float) -> None:
        """The scheduler stops a trial; it hears of it before its report returns."""
        import ray

        if self.ledger.trials[trial].stopped_at is None:
            self.ledger.decision(trial, evaluation=evaluation, score=score)
        ray.get(self.book.stop_trial.remote(trial))

    def trial_recovers(self, trial: str, number: int) -> None:
        """Tune starts a trial again whose process died."""
        text = (
            f"trial {trial} died: its process was killed, or ran out of memory; it goes on from its"
            f" newest checkpoint (restart {number} of {self.watch.restarts})"
        )
        self.watch.rests(trial)
        with self._lock:
            self._outbox.append({"note": text})

    def trial_over(self, trial: str, error: str | None) -> None:
        """Tune is done with a trial: write down how it ended, unless it is to be resumed."""
        import ray

        self.watch.rests(trial)
        ended = ray.get(self.book.end_of.remote(trial))
        if ended is None and (error is None or ray.get(self.book.flag.remote())):
            return  # stopped while it waited, or by the end of everything: it stays unfinished
        if ended is not None and ended.get("interrupted"):
            return
        failpoints.hit("sweep.trial_done")
        if ended is None or "error" in ended:
            ended = mask_tree(ended or {"error": error})
            self.ledger.ended(trial, "failed", ended)
            self.proposer.tell(trial, None)
        else:
            stopped = self.ledger.trials[trial].stopped_at is not None
            self.ledger.ended(trial, "stopped" if stopped else "done", ended)
            self.proposer.tell(trial, self.ledger.trials[trial].score)
        self._tell("trial_ended", trial)


# ----------------------------------------------------------------------------------------- trial


def _trial_function(entry: str, payload: dict[str, Any], book: Any, metric: str) -> Any:
    """The function that Tune runs, in a process of its own."""

    def trial_function(config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        trial = config["trial"]
        failpoints.set_side("worker")

        def report(metrics: Mapping[str, float], step: int) -> bool:
            if metric not in metrics:
                have = ", ".join(sorted(metrics))
                raise UserError(f"sweep.metric: no evaluation gives {metric!r}; there are {have}")
            line.asked()
            score = float(metrics[metric])
            kept = json.dumps(dict(metrics))  # Tune flattens mappings
            tune.report({"score": score, "step": int(step), "metrics": kept})
            stop, line.signal = ray.get(book.verdict.remote(trial))
            return bool(stop)

        line = Line(book, trial)
        connect(line)
        try:
            ended = function_of(entry)(dict(payload), dict(config["values"]), trial, report) or {}
        except KeyboardInterrupt:  # what it had begun is ended
            ended = {"interrupted": True}
        except RayloomError as error:
            ended = {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:
            message = paragraph(error)
            logging.getLogger(__name__).warning("trial %s: %s", trial, traceback_of(error))
            ended = {"error": message, "traceback": traceback_of(error)}
        finally:
            connect(None)
            line.close()
        ray.get(book.end_trial.remote(trial, ended))

    return trial_function
