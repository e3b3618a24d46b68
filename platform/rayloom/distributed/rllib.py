"""RLlib hosts rayloom's RL loop: env runners that own groups, a learner that is ours.

RLlib gives the actors, their placement, restarts, Tune and its result keys. What happens in a round
is `rayloom.rl`'s: RLlib's episodes, connectors, replay and `update(episodes=)` are not used, since
they cost 20 to 100 times the work and are not deterministic. So parameters are equal, in every bit,
to those of the same config with `workers: 0`, on any number of env runners, also when one of them
is killed in the middle of a round.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayloom.config.resolved import to_dict
from rayloom.config.sections import RunConfig
from rayloom.core import interrupt
from rayloom.core.errors import RayloomError
from rayloom.distributed.cluster import start_ray
from rayloom.distributed.deaths import death_of
from rayloom.distributed.pulse import (
    ClusterLostError,
    Pulse,
    end_own_actors,
    explained,
    own_actors,
)
from rayloom.distributed.quiet import muted_stderr
from rayloom.distributed.rllib_remote import RemoteCollector as RemoteCollector
from rayloom.distributed.rllib_remote import RemoteUpdater as RemoteUpdater
from rayloom.distributed.rllib_remote import writable as writable
from rayloom.distributed.supervision import Watch
from rayloom.distributed.waiting import watched

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
