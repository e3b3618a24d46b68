"""The driver: budget, cadence, evaluation, stop rules, signals and checkpoints of any `Trainable`.

The engine, the RL loop and RLlib are all driven by `drive`. Every rank of a data-parallel run calls
it with the same plan; ranks agree on every decision, rank 0 alone writes.

A run begins with pictures of the untrained weights. At a cadence point the order is: evaluate,
journal, pictures, checkpoint. So whatever a kill interrupts is done again by the resumed run, and
the journal drops what it already has.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from rayloom.core import interrupt
from rayloom.core.collective import Solo
from rayloom.core.declared import USUAL
from rayloom.core.protocols import Collective, Scalars, Sink, State, Trainable
from rayloom.records import Checkpoints, RunFolder
from rayloom.training.plan import EVALUATIONS, Cadence, Judge, Plan
from rayloom.training.restoring import restore
from rayloom.training.signals import SignalGuard

Status = Literal["finished", "interrupted", "time_limit"]
LAST_SAVE_TRIES = 60  # a second apart: a disk that is full at the very end may be made free


class Observer(Protocol):
    """Who watches a run: the console, the event stream. Called on rank 0 only."""

    def on_progress(self, event: Mapping[str, Any]) -> None:
        """At each log point: position, budget, clock, rate_per_s, remaining_s, values."""
        ...

    def on_evaluation(self, event: Mapping[str, Any]) -> None:
        """After an evaluation: position, metrics, is_best, best."""
        ...

    def on_message(self, text: str) -> None:
        """One line for a person."""
        ...


@dataclass
class Outcome:
    """How a call of `drive` ended.

    Attributes:
        status: `finished` (budget, stop rule or early stopping), `interrupted` or `time_limit`.
        exit_code: 0; 130 after SIGINT, 143 after SIGTERM; 1 if the last checkpoint is missing.
        reason: Why, in words.
        position: Where the clock stands.
        metrics: Of the last evaluation.
        best: `{"metric", "value", "step"}` of the best evaluation, or None.
        parameters_sha256: Hash of the parameters.
        progress: All counters.
    """

    status: Status
    exit_code: int
    reason: str
    position: int
    metrics: dict[str, float]
    best: dict[str, Any] | None
    parameters_sha256: str
    progress: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def drive(
    trainable: Trainable,
    plan: Plan,
    *,
    folder: RunFolder | None,
    sink: Sink,
    collective: Collective | None = None,
    observer: Observer | None = None,
    resume: bool = False,
    should_stop: Callable[[], int] | None = None,
) -> Outcome:
    """Train to the end of the plan, or until something stops it.

    Args:
        trainable: What to train; see `core.protocols.Trainable`. Optional, looked up by name:
            `default_metrics` (what "best" means), `metrics` (what the method declares of its own),
            `show_at` (`evaluation` or `end`), and
            `decide()`, which settles what must be measured and tells what came out (then a
            checkpoint is written before the first step).
        plan: Length, cadences and rules.
        folder: Where checkpoints go; on shared storage if there are several ranks. None: nowhere.
        sink: Where points and pictures go; used on rank 0 only.
        collective: The workers.
        observer: Who watches; used on rank 0 only.
        resume: Go on from the newest checkpoint that verifies, if there is one.
        should_stop: Another source of stop requests: a signal number, or 0. Signals themselves
            are caught if this is the main thread.

    Raises:
        UserError: The plan names a unit or metric that does not exist here.
        NonFiniteError: Training went wrong; the checkpoint before stands.
    """
    return _Drive(
        trainable,
        plan,
        folder=folder,
        sink=sink,
        collective=collective or Solo(),
        observer=observer,
        resume=resume,
        should_stop=should_stop,
    ).run()


class _Drive:
    """One call of `drive`."""

    def __init__(
        self,
        trainable: Trainable,
        plan: Plan,
        *,
        folder: RunFolder | None,
        sink: Sink,
        collective: Collective,
        observer: Observer | None,
        resume: bool,
        should_stop: Callable[[], int] | None,
    ) -> None:
        self.started = time.monotonic()
        self.trainable, self.plan, self.collective = trainable, plan, collective
        self.chief = collective.rank == 0
        self.observer = observer if self.chief else None
        self.guard = SignalGuard(should_stop, self._tell)
        self._told = False
        self.checkpoints: Checkpoints | None = None
        if folder is not None:
            self.checkpoints = folder.checkpoints(read_only=not self.chief)
        defaults = getattr(trainable, "default_metrics", USUAL)
        self.judge = Judge(plan, defaults, getattr(trainable, "metrics", None))
        self.fixed: dict[str, Any] = {"amount": plan.amount}  # of the first start
        self.saved_at: int | None = None
        self.evaluated_at: int | None = None
        if resume:
            self._resume()
        self.budget = max(1, trainable.to_clock(plan.unit, plan.amount))
        every = plan.evaluate_every or self.fixed["amount"] / EVALUATIONS
        self.evaluations = Cadence(trainable, plan.unit, every)
        self.saves = (
            Cadence(trainable, plan.unit, plan.checkpoint_every) if plan.checkpoint_every else None
        )
        self.start = trainable.position()
        self.sink = _Tee(sink, self) if self.chief else Nowhere()

    # The loop -----------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Until the budget, a rule, a signal or the clock on the wall ends it."""
        with self.guard:
            decide = getattr(self.trainable, "decide", None)
            settled = decide() if decide is not None else None
            if settled:
                self._say(settled)
                self._save()
            self._show_untrained()
            reason = self._end_reason()
            while reason is None:
                position = self.trainable.position()
                until = min(self.budget, self.evaluations.after(position))
                if self.saves is not None:
                    until = min(until, self.saves.after(position))
                self.trainable.advance(until, sink=self.sink, interrupted=self._interrupted)
                stopped = self._agree()
                if stopped and self.trainable.position() < until:
                    return self._stop_early(stopped)
                self._cadence_point(position)
                reason = self._end_reason()
                if reason is None and stopped:
                    return self._stop_early(stopped)
        return self._finish(reason)

    def _show_untrained(self) -> None:
        """Pictures of the first weights: sliders over steps begin at 0."""
        if self.trainable.position() == 0 and _shows_often(self.trainable):
            self.trainable.show(self.sink)

    def _cadence_point(self, before: int) -> None:
        """Evaluate, journal, pictures, checkpoint: whatever is due."""
        position = self.trainable.position()
        at_end = position >= self.budget
        improved = False
        if at_end or position >= self.evaluations.after(before):
            improved = self._evaluate(position)
            at_end = at_end or self._end_reason() is not None
            if at_end or _shows_often(self.trainable):
                self.trainable.show(self.sink)
        due = self.saves is None or position >= self.saves.after(before)
        if due or at_end or (improved and self.plan.keep_best > 0):
            self._save()

    def _evaluate(self, position: int) -> bool:
        metrics = {k: float(v) for k, v in self.trainable.evaluate().items()}
        self.evaluated_at = position
        if not metrics:
            return False
        improved = self.judge.hear(position, metrics)
        improved = bool(self.collective.broadcast_json(improved))
        about = {"time/elapsed_s": self.elapsed, "system/rss_bytes": _resident_bytes()}
        self.sink.scalars(position, metrics | about)
        if self.observer is not None:
            event = {"position": position, "metrics": metrics}
            event |= {"is_best": improved, "best": self.judge.best}
            self.observer.on_evaluation(event)
        return improved

    def _end_reason(self) -> str | None:
        """Why the run is over (rank 0's view), or None."""
        reason = self.judge.verdict()
        if reason is None and self.trainable.position() >= self.budget:
            reason = f"{self.plan.amount:g} {self.plan.unit} are done"
        return self.collective.broadcast_json(reason)

    # Stopping -----------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds since this attempt began."""
        return time.monotonic() - self.started

    def _time_is_up(self) -> bool:
        limit = self.plan.time_limit_s
        return limit is not None and self.elapsed >= limit

    def _interrupted(self) -> bool:
        received = self.guard.received
        if received:
            self._tell()
        return bool(received) or self._time_is_up()

    def _tell(self) -> None:
        if not self._told:
            self._say("stopping after this step, with a checkpoint (again: at once)")
            self._told = True

    def _agree(self) -> int:
        """What stops the run on any rank: a signal's number, -1 for the time limit, or 0."""
        mine = self.guard.received or (-1 if self._time_is_up() else 0)
        if self.collective.world == 1:
            return mine
        votes = torch.zeros(3, dtype=torch.float64)  # SIGINT, SIGTERM, time limit
        if mine:
            votes[{2: 0, 15: 1, -1: 2}.get(mine, 1)] = 1
        self.collective.all_reduce(votes)
        return 2 if votes[0] else 15 if votes[1] else -1 if votes[2] else 0

    def _stop_early(self, stopped: int) -> Outcome:
        """Checkpoint and say how to go on."""
        position = self.trainable.position()
        if self.saved_at != position:
            self._save()
        if stopped == -1:
            reason = f"the time limit of {self.plan.time_limit_s:g} s is over"
        else:
            reason = interrupt.name_of(stopped)
        kept = self.saved_at == position
        place = f"checkpoint at {self.trainable.clock} {position}" if kept else "no checkpoint"
        self._say(f"{reason}: stopped, {place}")
        status: Status = "time_limit" if stopped == -1 else "interrupted"
        code = 0 if stopped == -1 else 128 + stopped
        return self._outcome(status, code, reason)

    def _finish(self, reason: str) -> Outcome:
        """The end of the run; what an interrupted end left undone is done now."""
        position = self.trainable.position()
        if self.saved_at != position:
            self._save()
        tries = 0
        while self.checkpoints is not None and self.saved_at != position:
            if tries == LAST_SAVE_TRIES or self._agree():
                break
            if tries == 0:
                self._say(f"the last checkpoint is not written; trying for {LAST_SAVE_TRIES} s")
            tries += 1
            time.sleep(1.0)
            self._save()
        missing = self.checkpoints is not None and self.saved_at != position
        if missing:
            reason += "; but the last checkpoint could not be written"
        return self._outcome("finished", 1 if missing else 0, reason)

    def _outcome(self, status: Status, code: int, reason: str) -> Outcome:
        return Outcome(
            status=status,
            exit_code=code,
            reason=reason,
            position=self.trainable.position(),
            metrics=dict(self.judge.metrics),
            best=self.judge.best,
            parameters_sha256=self.trainable.parameters_sha256(),
            progress=dict(self.trainable.progress()),
        )

    # Checkpoints --------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint on rank 0; a disk that refuses is said and does not stop training."""
        position = self.trainable.position()
        state = {"trainable": self.trainable.state_dict(), "driver": self._state()}
        written = True
        if self.chief and self.checkpoints is not None:
            fresh = self.evaluated_at == position
            info = self.checkpoints.save(
                position,
                state,
                metrics=self.judge.metrics if fresh else {},
                score=self.judge.score if fresh else None,
                direction=self.judge.mode,
            )
            written = info is not None
            if written:
                self.checkpoints.prune(self.plan.keep_last, self.plan.keep_best)
        if self.collective.broadcast_json(written):
            self.saved_at = position

    def _state(self) -> dict[str, Any]:
        return {
            "judge": self.judge.state_dict(),
            "fixed": dict(self.fixed),
            "evaluated_at": self.evaluated_at,
        }

    def _resume(self) -> None:
        """Load the newest checkpoint that verifies and fits; rank 0 chooses it."""
        step = restore(self.checkpoints, self._take, collective=self.collective, say=self._say)
        if step is None:
            self._say("no checkpoint yet: starting from the beginning")
        else:
            self._say(f"resumed from the checkpoint at {self.trainable.clock} {step}")

    def _take(self, state: State) -> None:
        self.trainable.load_state_dict(state["trainable"])
        driver = state["driver"]
        self.judge.load_state_dict(driver["judge"])
        self.fixed = dict(driver["fixed"])
        self.evaluated_at = driver["evaluated_at"]
        self.saved_at = self.trainable.position()

    def _say(self, text: str) -> None:
        if self.observer is not None:
            self.observer.on_message(text)


class _Tee:
    """The run's sink, with every log point also told to the observer."""

    def __init__(self, sink: Sink, drive: _Drive) -> None:
        self._sink, self._drive = sink, drive

    def scalars(self, step: int, values: Scalars) -> None:
        self._sink.scalars(step, values)
        drive = self._drive
        if drive.observer is None or any(key.startswith("eval/") for key in values):
            return
        done, elapsed = step - drive.start, drive.elapsed
        rate = done / elapsed if elapsed > 0 else 0.0
        drive.observer.on_progress(
            {
                "position": step,
                "budget": drive.budget,
                "clock": drive.trainable.clock,
                "elapsed_s": elapsed,
                "rate_per_s": rate,
                "remaining_s": (drive.budget - step) / rate if rate > 0 else None,
                "values": dict(values),
            }
        )

    def image(self, step: int, key: str, pixels: np.ndarray) -> None:
        self._sink.image(step, key, pixels)

    def file(self, step: int, key: str, path: Path) -> None:
        self._sink.file(step, key, path)


class Nowhere:
    """The sink of ranks above 0: takes everything, keeps nothing."""

    def scalars(self, step: int, values: Scalars) -> None:
        """Nothing."""

    def image(self, step: int, key: str, pixels: np.ndarray) -> None:
        """Nothing."""

    def file(self, step: int, key: str, path: Path) -> None:
        """Nothing."""

    def close(self) -> bool:
        """Nothing to close."""
        return True


def _shows_often(trainable: Trainable) -> bool:
    return str(getattr(trainable, "show_at", "evaluation")) == "evaluation"


def _resident_bytes() -> float:
    """Resident memory of this process; NaN where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return float(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        return float("nan")
