"""RLlib hosts rayloom's RL loop: env runners that own groups, a learner that is ours.

RLlib gives the actors, their placement, restarts, Tune and its result keys. What happens in a round
is `rayloom.rl`'s: RLlib's episodes, connectors, replay and `update(episodes=)` are not used, since
they cost 20 to 100 times the work and are not deterministic. So parameters are equal, in every bit,
to those of the same config with `workers: 0`, on any number of env runners, also when one of them
is killed in the middle of a round.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rayloom.config.resolved import to_dict
from rayloom.config.sections import RunConfig
from rayloom.core import failpoints, interrupt
from rayloom.core.errors import RayloomError
from rayloom.core.protocols import GroupTask, State
from rayloom.distributed.cluster import start_ray
from rayloom.distributed.deaths import death_of
from rayloom.distributed.pulse import (
    ClusterLostError,
    Pulse,
    end_own_actors,
    explained,
    own_actors,
)
from rayloom.distributed.quiet import first_line, muted_stderr
from rayloom.distributed.supervision import Watch
from rayloom.distributed.waiting import tables, watched

Say = Callable[[str], None]


def algorithm_config(
    name: str, config: RunConfig | None = None, *, plugins: Sequence[str | Path] = ()
) -> Any:
    """An RLlib `AlgorithmConfig` of one of rayloom's algorithms.

    For people who know RLlib: it runs in `tune.Tuner(config.algo_class, param_space=config)` and by
    `config.build_algo().train()`, and reports under RLlib's own keys. RLlib's words are translated:
    `environment(env, env_config=)`, `env_runners(num_env_runners=, num_envs_per_env_runner=)`,
    `learners(num_learners=)`, `debugging(seed=)`, and `training(...)` takes the fields of the
    algorithm's section, `lr`, and any dotted path of a rayloom config in `settings={...}`.

    Args:
        name: Catalogue name of the algorithm, such as `dqn`.
        config: A whole rayloom config to start from; its algorithm must have this name.
        plugins: Plugin files that its names come from.

    Raises:
        UserError: No algorithm has this name.
    """
    from rayloom.catalogue import lookup
    from rayloom.catalogue.plugins import load_plugins
    from rayloom.distributed.rllib_parts import RayloomConfig

    load_plugins([str(plugin) for plugin in plugins])
    lookup("algorithms", name)
    host = RayloomConfig()
    host.rayloom = to_dict(config) if config is not None else {"algorithm": {"name": name}}
    host.rayloom_plugins = [str(Path(plugin).resolve()) for plugin in plugins]
    if config is not None:
        host.follow(config)
    return host


@contextmanager
def remote_parts(
    config: RunConfig,
    *,
    address: str | None = None,
    plugins: Sequence[str | Path] = (),
    say: Say | None = None,
    note: str = "",
) -> Iterator[tuple["RemoteCollector", "RemoteUpdater"]]:
    """Collector and updater on `resources.workers` env runners and one learner, for a `with` block.

    Args:
        config: The run's config, `resources.workers` >= 1.
        address: Ray address; see `start_ray`.
        plugins: Plugin files.
        say: Told, in one line, what is waited for, when an env runner dies or comes back.
        note: See `start_ray`.

    Raises:
        UserError: The cluster is too small or cannot be joined.
    """
    resources = config.resources
    pieces = [{"CPU": resources.cpus_per_worker}] * resources.workers
    if resources.gpus_per_worker:  # the learner's
        pieces.append({"GPU": resources.gpus_per_worker})
    with start_ray(address, pieces=pieces, plugins=plugins, note=note) as here:
        assert config.algorithm is not None
        host = algorithm_config(config.algorithm.model_dump()["name"], config, plugins=plugins)
        host.log_level = "CRITICAL"  # deaths are told by the collector, in one line
        watch = Watch("env runner", here, say)
        with explained(watch.pulse):
            with muted_stderr():  # "has constructor arguments in the object store", which is so
                with watched(watch.waiting), _deaths_told(watch.pulse):
                    algorithm = host.build_algo()
                    _until_up(algorithm.collector.runners, watch.pulse)
            interrupt.check()
            algorithm.collector.say, algorithm.collector.pulse = watch.tell, watch.pulse
            try:
                yield algorithm.collector, algorithm.updater
            except ClusterLostError:
                raise
            except BaseException as error:
                if here.local and isinstance(error, KeyboardInterrupt | SystemExit):
                    raise  # all of it is about to be killed
                if watch.pulse.explain(error) is None:
                    algorithm.stop()
                raise
            algorithm.stop()


@contextmanager
def _deaths_told(pulse: Pulse) -> Iterator[None]:
    """An actor that dies while it is built is told in a sentence, and those beside it are ended.

    Ray would keep them, and their CPUs, for as long as somebody holds the error.
    """
    import ray

    before = own_actors()
    try:
        yield
    except ray.exceptions.RayError as error:
        if (lost := pulse.explain(error)) is not None:
            raise lost from error
        end_own_actors(spared=before)
        if not (why := death_of(error)):
            raise
        who = "an env runner" if "GroupRunner" in str(error) else "the learner"
        raise RayloomError(
            f"{who} died while it was being built: {why}. Nothing before the newest checkpoint is"
            " lost"
        ) from error


def _until_up(runners: Sequence[Any], pulse: Pulse) -> None:
    """Wait until every env runner has come up, or died of it: here a signal ends the command."""
    import ray

    owed = [runner.ping.remote() for runner in runners]
    while owed:
        pulse.check()
        _, owed = ray.wait(owed, num_returns=len(owed), timeout=1.0)


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
