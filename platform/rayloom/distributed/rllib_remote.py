"""The two ends that the RL loop holds: a collector on env runners, an updater on the learner.

What RLlib's classes need of them is the same; see `rllib` for the why.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rayloom.core import failpoints
from rayloom.core.errors import RayloomError
from rayloom.core.protocols import GroupTask, State
from rayloom.distributed.deaths import death_of
from rayloom.distributed.pulse import Pulse
from rayloom.distributed.quiet import first_line
from rayloom.distributed.waiting import tables

Say = Callable[[str], None]


class RemoteCollector:
    """Groups on env runner actors; a `Collector`.

    Group g belongs to runner g mod N, whose process keeps its environments. The driver keeps the
    states: where a runner dies, its unfinished groups are collected again, from the same states, by
    the runners that live. Ray restarts the dead one meanwhile; it gets its groups back as soon as
    it answers.

    Args:
        runners: Actor handles of `GroupRunner`.
        say: Told of deaths and returns.
    """

    def __init__(self, runners: Sequence[Any], say: Say | None = None) -> None:
        self.runners = list(runners)
        self.say: Say = say or (lambda text: None)
        self.pulse: Pulse | None = None
        self.redone = 0  # groups collected again so far
        self._down: dict[int, Any] = {}  # runner to the ping that it owes
        self._deaths = [0] * len(self.runners)  # that were told
        self._counted = time.monotonic()

    def collect(
        self, weights: Mapping[str, Tensor], tasks: Sequence[GroupTask]
    ) -> list[tuple[Any, State]]:
        """(rollout, new state) per task, in the tasks' order."""
        import ray

        from rayloom.rl.collect import detached

        shared = ray.put(detached(weights))
        found: dict[int, tuple[Any, State]] = {}
        self._look_for_returns(wait=False)
        while len(found) < len(tasks):
            waiting = {}
            for place, task in enumerate(tasks):
                if place not in found:
                    runner = self._runner_of(task.group)
                    ref = self.runners[runner].collect_task.remote(shared, task)
                    waiting[ref] = (place, runner)
            self._gather(waiting, found)
        if self.pulse is not None:
            self._count_restarts()  # no call is under way: deaths in this round have been told
        return [found[place] for place in range(len(tasks))]

    def _gather(
        self, waiting: dict[Any, tuple[int, int]], found: dict[int, tuple[Any, State]]
    ) -> None:
        """Wait for every call; those of a dead runner are left out."""
        import ray

        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=2.0)
            if self.pulse is not None:
                self.pulse.check()
            for ref in ready:
                place, runner = waiting.pop(ref)
                try:
                    found[place] = writable(ray.get(ref))
                except ray.exceptions.RayActorError as error:
                    self._mark_down(runner, death_of(error))
                    self.redone += 1
                except ray.exceptions.RayTaskError as error:
                    raise cause_of(error, "an env runner") from error
                else:
                    failpoints.hit("rl.group_collected")

    def _mark_down(self, runner: int, why: str) -> None:
        if runner in self._down:
            return
        self._down[runner] = self.runners[runner].ping.remote()
        self._deaths[runner] += 1
        who = "the others" if len(self._down) < len(self.runners) else "the first that is back"
        self.say(f"env runner {runner} died: {why}; its groups are collected again by {who}")

    def _count_restarts(self, every_s: float = 2.0) -> None:
        """Tell of runners that died between two calls: Ray started them again, and none failed."""
        if time.monotonic() - self._counted < every_s:
            return
        self._counted = time.monotonic()
        restarts = {row.actor_id: row.num_restarts for row in tables().actors}
        for runner, handle in enumerate(self.runners):
            if restarts.get(handle._actor_id.binary(), 0) > self._deaths[runner]:
                self._deaths[runner] += 1
                self.say(f"env runner {runner} died between two rounds; it is started again")

    def _runner_of(self, group: int) -> int:
        """The runner that collects this group now."""
        while len(self._down) == len(self.runners):
            self._look_for_returns(wait=True)
        live = [runner for runner in range(len(self.runners)) if runner not in self._down]
        own = group % len(self.runners)
        return own if own in live else live[group % len(live)]

    def _look_for_returns(self, *, wait: bool) -> None:
        """Take back runners that answer again.

        Raises:
            RayloomError: A runner has used up its restarts.
        """
        import ray

        if not self._down:
            return
        refs = list(self._down.values())
        ready, _ = ray.wait(refs, num_returns=1, timeout=60 if wait else 0)
        if wait and not ready:
            raise RayloomError("every env runner died and none came back within 60 s")
        for runner, ref in list(self._down.items()):
            if ref not in ready:
                continue
            try:
                ray.get(ref)
            except ray.exceptions.ActorUnavailableError:
                self._down[runner] = self.runners[runner].ping.remote()
            except ray.exceptions.RayActorError as error:
                raise RayloomError(
                    f"env runner {runner} does not start again: {first_line(error)}"
                ) from error
            else:
                del self._down[runner]
                self.say(f"env runner {runner} is back")

    def close(self) -> None:
        """The algorithm that made the actors frees them."""


@dataclass
class Call:
    """`learner.method(*arguments)`, as something that `foreach_learner` can send."""

    method: str
    arguments: tuple[Any, ...]

    def __call__(self, learner: Any) -> Any:
        """Call it."""
        return getattr(learner, self.method)(*self.arguments)


class RemoteUpdater:
    """The learner in RLlib's learner group, reached through `foreach_learner`; an `Updater`.

    Args:
        learner_group: RLlib's `LearnerGroup` of `HostedLearner`.
    """

    def __init__(self, learner_group: Any) -> None:
        self.group = learner_group
        self._weights: Mapping[str, Tensor] | None = None

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        results = self.group.foreach_learner(Call(method, arguments))
        result = next(iter(results))
        if result.ok:
            return result.get()
        error = result.get()
        if isinstance(error, ray.exceptions.RayTaskError):
            raise cause_of(error, "the learner") from error
        raise RayloomError(
            f"the learner died: {death_of(error) or first_line(error)}. Nothing before the newest"
            " checkpoint is lost"
        ) from error

    def update(self, rollouts: Sequence[Any]) -> dict[str, float]:
        """Use one round; returns its metrics."""
        import ray

        self._weights = None
        return self._call("update_round", ray.put(list(rollouts)))

    def weights(self) -> Mapping[str, Tensor]:
        """Behaviour weights, copies on the CPU."""
        if self._weights is None:
            self._weights = self._call("behaviour_weights")
        return self._weights

    def parameters(self) -> Mapping[str, Tensor]:
        """All parameters and buffers, copies on the CPU."""
        return self._call("all_parameters")

    def grad_step(self) -> int:
        """Optimizer steps so far."""
        return int(self._call("steps_taken"))

    def state_dict(self) -> State:
        """The learner's whole state."""
        return self._call("whole_state")

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        import ray

        self._weights = None
        self._call("load_whole_state", ray.put(state))

    def close(self) -> None:
        """The algorithm that made the group frees it."""


def cause_of(error: Any, who: str) -> Exception:
    """What a task raised: our own errors as they are, others as a `RayloomError`."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, RayloomError):
        return type(cause)(str(cause)) if type(cause).__init__ is Exception.__init__ else cause
    if cause is None:
        return RayloomError(f"{who} failed: {first_line(error)}")
    return RayloomError(f"{who} failed: {type(cause).__name__}: {first_line(cause)}")


def writable(value: Any) -> Any:
    """The same nested value with its read-only arrays copied (Ray's arrays are read-only views)."""
    if isinstance(value, np.ndarray):
        return value if value.flags.writeable else value.copy()
    if isinstance(value, dict):
        return {key: writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(writable(item) for item in value)
    fields = getattr(value, "__dataclass_fields__", None)
    if fields and not isinstance(value, type):
        changed = {name: writable(getattr(value, name)) for name in fields}
        return type(value)(**changed)
    return value
