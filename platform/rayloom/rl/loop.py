"""The RL loop: collect a round, update, report. The driver drives it; it knows no algorithm.

Every random number has a named stream and every state is in `state_dict`, so a run that is killed
and resumed equals one that was not, on any number of actors.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from rayloom.config.sections import RunConfig
from rayloom.core import failpoints
from rayloom.core.declared import declared_metrics, default_metrics
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric
from rayloom.core.protocols import Clock, Collector, GroupTask, Sink, State, Updater
from rayloom.core.protocols import parameters_sha256 as sha256_of
from rayloom.core.seeding import stream_seed
from rayloom.rl.collect import (
    LocalCollector,
    LocalUpdater,
    algorithm_class,
    budget_env_steps,
    check_supported,
    env_steps_of,
    make_learner,
    sections_of,
)
from rayloom.rl.envs.groups import group_sizes
from rayloom.rl.envs.making import spec_of
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.evaluation import run_episodes
from rayloom.rl.policies import Policy
from rayloom.rl.rollout import Rollout
from rayloom.rl.video import record

_LOG_POINTS = 200  # per budget, where train.log_every is null


class RLTrainable:
    """A run of any algorithm of the catalogue on any environment; a `Trainable`.

    Args:
        config: The run's config, with sections `algorithm` and `env`.
        collector: Collects rounds; None: in this process.
        updater: Owns the learner; None: in this process.

    Raises:
        UserError: The config asks for what does not exist or is not supported.

    Attributes:
        show_at: Videos are drawn at the end of the run only.
    """

    clock: Clock = "env_step"
    show_at = "end"

    def __init__(
        self,
        config: RunConfig,
        *,
        collector: Collector | None = None,
        updater: Updater | None = None,
    ) -> None:
        check_supported(config)
        self.config = config
        self.algorithm, self.env = sections_of(config)
        self.learner_class = algorithm_class(config)
        self.spec: EnvSpec = spec_of(self.env)
        self.collector = collector or LocalCollector(config, self.spec)
        self.updater = updater or LocalUpdater(config, self.spec)
        self.sizes = group_sizes(self.env.num_envs, self.env.group_size)
        self.budget = budget_env_steps(config)
        self.log_every = config.train.log_every or max(1, self.budget // _LOG_POINTS)
        self.env_step = 0
        self.round = 0
        self.episodes = 0
        self.group_states: list[State] = [{} for _ in self.sizes]
        self.recent: dict[str, list[float]] = {"return": [], "length": []}  # since the last log
        self.sums: dict[str, float] = {}  # of the learner's metrics since the last log
        self.counts: dict[str, int] = {}
        self._timer: tuple[float, int] | None = None

    # What its results mean ----------------------------------------------------------------------

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What the learner declares of its metrics, by key."""
        return declared_metrics(self.learner_class)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """What "best" means: the first of these that an evaluation has."""
        return default_metrics(self.learner_class)

    # The clock ----------------------------------------------------------------------------------

    def position(self) -> int:
        """Environment steps so far; steps that only reset are not counted."""
        return self.env_step

    def progress(self) -> dict[str, int]:
        """Counters."""
        return {
            "env_step": self.env_step,
            "grad_step": self._grad_step(),
            "episode": self.episodes,
            "round": self.round,
        }

    def _grad_step(self) -> int:
        count = getattr(self.updater, "grad_step", None)
        return int(count()) if callable(count) else self.algorithm.grad_steps(self.env_step)

    def to_clock(self, unit: str, amount: float) -> int:
        """`amount` of a unit in environment steps.

        Raises:
            UserError: Epochs, or gradient steps of an algorithm without a fixed ratio.
        """
        return env_steps_of(self.config, unit, amount)

    # Training -----------------------------------------------------------------------------------

    def advance(self, until: int, *, sink: Sink, interrupted: Callable[[], bool]) -> None:
        """Collect and update round by round until the clock reaches `until`.

        Where rounds end does not depend on `until`, only on the config: a look in between changes
        nothing. The last round of the budget is shorter, so that the budget is overshot by less
        than one step of all environments.
        """
        self._timer = self._timer or (time.perf_counter(), self.env_step)
        while self.env_step < until:
            before = self.env_step
            self._one_round()
            if self.env_step // self.log_every > before // self.log_every:
                self._log(sink)
            if interrupted():
                return

    def _round_steps(self) -> int:
        """Vector steps of the next round."""
        num_envs = self.env.num_envs
        whole = max(1, self.algorithm.round_env_steps // num_envs)
        left = self.budget - self.env_step
        return min(whole, -(-left // num_envs)) if left > 0 else whole

    def _one_round(self) -> None:
        settings = self.algorithm.acting(self.env_step)
        steps = self._round_steps()
        tasks = [
            GroupTask(group, steps, state, weights_version=self.round, settings=settings)
            for group, state in enumerate(self.group_states)
        ]
        results = self.collector.collect(self.updater.weights(), tasks)
        failpoints.hit("rl.round_collected")
        rollouts: list[Rollout] = [rollout for rollout, _ in results]
        metrics = self.updater.update(rollouts)
        self.group_states = [state for _, state in results]
        self.round += 1
        for rollout in rollouts:
            self.env_step += rollout.env_steps
            self.episodes += len(rollout.episode_return)
            self.recent["return"].extend(map(float, rollout.episode_return))
            self.recent["length"].extend(map(float, rollout.episode_length))
        for key, value in metrics.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + 1

    def _log(self, sink: Sink) -> None:
        """Send what gathered since the last point: means over rounds, and over episodes."""
        values = {key: total / self.counts[key] for key, total in self.sums.items()}
        if self.recent["return"]:
            values["train/return_mean"] = float(np.mean(self.recent["return"]))
            values["train/length_mean"] = float(np.mean(self.recent["length"]))
        values["train/episodes"] = float(self.episodes)
        values["train/grad_steps"] = float(self._grad_step())
        for key, value in self.algorithm.acting(self.env_step).items():
            if isinstance(value, int | float):
                values[f"train/{key}"] = float(value)
        now = time.perf_counter()
        started, at = self._timer or (now, self.env_step)
        if now > started:
            values["time/env_steps_per_s"] = (self.env_step - at) / (now - started)
        self._timer = (now, self.env_step)
        self.recent = {"return": [], "length": []}
        self.sums, self.counts = {}, {}
        sink.scalars(self.env_step, values)

    # Evaluation ---------------------------------------------------------------------------------

    def policy(self) -> Policy:
        """The acting side with the current weights; they go on changing in process."""
        policy = self.learner_class.make_policy(self.algorithm, self.spec)
        policy.load(self.updater.weights())
        return policy

    def evaluate(self) -> dict[str, float]:
        """Metrics of fresh episodes (section `evaluation`); the seeds depend on the clock."""
        wanted = self.config.evaluation
        found = run_episodes(
            self.policy(),
            self.env,
            episodes=wanted.episodes,
            num_envs=wanted.num_envs,
            seed=stream_seed(self.config.seed, "evaluation", self.env_step),
            greedy=wanted.greedy,
            settings=self.algorithm.acting(self.env_step),
            spec=self.spec,
        )
        self._timer = None  # the rate is that of training
        return found.metrics()

    def show(self, sink: Sink) -> None:
        """One episode as a video, if the config wants it and the environment can draw."""
        if not self.config.evaluation.video:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "episode.mp4"
            try:
                self.record(path, episodes=1, seed=stream_seed(self.config.seed, "show"))
            except UserError:  # an environment without pictures is no failure of the run
                return
            sink.file(self.env_step, "video/episode", path)

    def record(self, path: str | Path, *, episodes: int, seed: int) -> list[float]:
        """Play the current policy into a video; see `rl.video.record`."""
        return record(
            self.policy(),
            self.env,
            path,
            episodes=episodes,
            seed=seed,
            greedy=self.config.evaluation.greedy,
            settings=self.algorithm.acting(self.env_step),
        )

    # State --------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Learner, groups, counters and what gathered since the last log point."""
        return {
            "updater": self.updater.state_dict(),
            "groups": {str(i): state for i, state in enumerate(self.group_states)},
            "env_step": self.env_step,
            "round": self.round,
            "episodes": self.episodes,
            "log_every": self.log_every,
            "recent": {name: list(values) for name, values in self.recent.items()},
            "sums": dict(self.sums),
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: State) -> None:
        """Back to a state; the run goes on bit-equal."""
        self.updater.load_state_dict(state["updater"])
        self.group_states = [state["groups"][str(i)] for i in range(len(self.sizes))]
        self.env_step, self.round = int(state["env_step"]), int(state["round"])
        self.episodes, self.log_every = int(state["episodes"]), int(state["log_every"])
        self.recent = {name: list(values) for name, values in state["recent"].items()}
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self._timer = None

    def parameters(self) -> Mapping[str, Tensor]:
        """All parameters and buffers by name."""
        found = getattr(self.updater, "parameters", None)
        return found() if callable(found) else self.updater.weights()

    def parameters_sha256(self) -> str:
        """Hash of all parameters, target networks included."""
        return sha256_of(self.parameters())

    def export_module(self) -> nn.Module:
        """Observation (B, *obs_shape) to action values or logits, with the current weights."""
        learner = make_learner(self.config, self.spec)
        learner.load_state_dict(self.state_dict()["updater"]["learner"])
        return learner.export_module()

    def close(self) -> None:
        """Free actors and environments."""
        self.collector.close()
        self.updater.close()
