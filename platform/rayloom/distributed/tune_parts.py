"""The three objects that Tune wants: a searcher, a scheduler and a callback.

Each hands on to the sweep's host. In a module of its own because their base classes need ray at
import.
"""

from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rayloom.core.scores import usable
from rayloom.distributed.deaths import death_of


class _Shared:
    """Tune copies its parts and pickles them for a recovery that is not used here.

    A copy is the part itself; a pickle holds nothing.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> Any:
        return (_nothing, ())


def _nothing() -> None:
    """What a pickle of a part gives back."""


class Host(Protocol):
    """What the parts need of the sweep's driver side."""

    spec: Any
    ledger: Any
    concurrent: int
    watch: Any

    def next_trial(self) -> tuple[str, dict[str, Any]] | None:
        """(number, values) of the next trial."""
        ...

    def trial_started(self, trial: str) -> None:
        """A trial is placed."""
        ...

    def trial_result(self, trial: str, result: dict[str, Any]) -> int:
        """An evaluation came; gives its number."""
        ...

    def stop_trial(self, trial: str, evaluation: int, score: float) -> None:
        """The trial is to stop."""
        ...

    def trial_recovers(self, trial: str, number: int) -> None:
        """Tune starts the trial again: its process died."""
        ...

    def trial_over(self, trial: str, error: str | None) -> None:
        """Tune is done with the trial."""
        ...


class _Searcher(_Shared, Searcher):
    """Gives out trials, at most so many at a time."""

    def __init__(self, host: Host) -> None:
        super().__init__(metric=None, mode=None)  # a trial may fail before its first score
        self.host = host
        self.live: set[str] = set()

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if len(self.live) >= self.host.concurrent:
            return None
        found = self.host.next_trial()
        if found is None:
            return Searcher.FINISHED
        self.live.add(trial_id)
        return {"trial": found[0], "values": found[1]}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The ledger is the state."""


class _Named:
    """A trial as ASHA sees it: by our number, so that the ledger can be replayed."""

    def __init__(self, trial: str) -> None:
        self.trial_id = trial


class _Schedule(_Shared, FIFOScheduler):
    """Hears every result once, and lets Tune's ASHA decide. A stopped trial stops itself."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        spec = host.spec
        self.asha = None
        if spec.scheduler == "asha":
            self.asha = ASHAScheduler(
                time_attr="evaluation",
                metric="score",
                mode=spec.mode,
                max_t=max(spec.evaluations, spec.grace),
                grace_period=spec.grace,
                reduction_factor=spec.reduction,
                stop_last_trials=False,
            )
            for trial in sorted(host.ledger.trials):
                for number, (_, score) in enumerate(host.ledger.trials[trial].results, start=1):
                    self._decide(trial, number, score)

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        return True

    def _decide(self, trial: str, evaluation: int, score: float) -> bool:
        """Whether ASHA stops the trial at this evaluation; it remembers the score."""
        if self.asha is None:
            return False
        if usable(score) is None:
            return evaluation >= self.host.spec.grace
        named = _Named(trial)
        self.asha.on_trial_add(None, named)
        result = {"evaluation": evaluation, "score": score}
        return self.asha.on_trial_result(None, named, result) == TrialScheduler.STOP

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "score" not in result:
            return TrialScheduler.CONTINUE
        name = trial.config["trial"]
        known = len(self.host.ledger.trials[name].results)
        number = self.host.trial_result(name, result)
        fresh = number > known
        if fresh and self._decide(name, number, result["score"]):
            self.host.stop_trial(name, number, result["score"])
        elif self.host.ledger.trials[name].stopped_at is not None:
            self.host.stop_trial(name, number, result["score"])  # said before a restart
        return TrialScheduler.CONTINUE


class _Callback(_Shared, Callback):
    """Starts and ends of trials."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.host.trial_started(trial.config["trial"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.host.trial_over(trial.config["trial"], None)

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if self.host.watch.abandoned:
            raise RuntimeError("the sweep's driver has given up")

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.host.trial_recovers(trial.config["trial"], trial.num_failures)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error()
        death = "" if error is None else death_of(error)
        self.host.trial_over(trial.config["trial"], death or "its process died")


class _NoProgress(_Shared, TrialProgressCallback):
    """Stands where Tune's own progress callback would.

    That one prints a line for a trial that ends without a result, whatever the verbosity.
    """

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        """Nothing."""

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Nothing."""


def searcher_of(host: Host) -> Searcher:
    """The searcher of a sweep."""
    return _Searcher(host)


def scheduler_of(host: Host) -> TrialScheduler:
    """The scheduler of a sweep."""
    return _Schedule(host)


def callbacks_of(host: Host) -> list[Callback]:
    """The callbacks of a sweep."""
    return [_Callback(host), _NoProgress()]
