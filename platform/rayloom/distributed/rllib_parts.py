"""RLlib's classes, subclassed: config, algorithm, env runner, learner.

In a module of its own because the base classes need ray at import. See `rllib` for the why.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from rayloom.catalogue import load
from rayloom.catalogue.plugins import load_plugins, paths_of, recorded_as
from rayloom.config.resolved import config_from_dict, to_dict
from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError
from rayloom.distributed.rllib_actors import GroupRunner, HostedLearner
from rayloom.distributed.rllib_remote import RemoteCollector, RemoteUpdater

_STATE = "rayloom.json"  # beside the checkpoint: the config it belongs to


class RayloomConfig(AlgorithmConfig):
    """RLlib's config of any algorithm of the catalogue.

    Attributes:
        rayloom: A rayloom config as a tree; RLlib's own settings are laid over it.
        rayloom_settings: Dotted path to value, laid over that; may hold Tune's search domains.
        rayloom_plugins: Plugin files.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or RayloomAlgorithm)
        self.rayloom: dict[str, Any] = {"algorithm": {"name": "dqn"}}
        self.rayloom_settings: dict[str, Any] = {}
        self.rayloom_plugins: list[str] = []
        self.env_runner_cls = GroupRunner
        self._learner_class = HostedLearner
        self.num_env_runners, self.num_learners = 0, 0
        self.num_cpus_per_learner = 0
        self.num_envs_per_env_runner = 0  # 0: as the rayloom config says
        self.create_local_env_runner = True
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.add_default_connectors_to_learner_pipeline = False
        self.restart_failed_env_runners = True
        self.delay_between_env_runner_restarts_s = 0.0
        self._dont_auto_sync_env_runner_states = True

    def follow(self, config: RunConfig) -> None:
        """Take RLlib's own settings from a rayloom config."""
        resources = config.resources
        self.num_env_runners = resources.workers
        self.num_cpus_per_env_runner = resources.cpus_per_worker
        self.num_learners = 1 if resources.workers else 0
        self.num_gpus_per_learner = resources.gpus_per_worker
        if config.env is not None:
            self.env = config.env.name

    def training(
        self, *, settings: Mapping[str, Any] | Any = NotProvided, **fields: Any
    ) -> "RayloomConfig":
        """Settings of the algorithm.

        Args:
            settings: Dotted path of a rayloom config to value: `{"train.env_steps": 50_000}`.
            **fields: Fields of the algorithm's own section, such as `gamma=0.98`; `lr` is the
                optimizer's.

        Raises:
            UserError: A field that the algorithm does not have.
        """
        known = load("algorithms", self.rayloom["algorithm"]["name"]).config_class.model_fields
        for name, value in fields.items():
            if name == "lr":
                self.rayloom_settings["optimizer.lr"] = value
            elif name in known:
                self.rayloom_settings[f"algorithm.{name}"] = value
            elif name in ("model", "optimizer"):  # how RLlib copies a config; not used here
                super().training(**{name: value})
            else:
                have = ", ".join(["lr", *known])
                raise UserError(f"training({name}=...): the algorithm's settings are {have}")
        if settings is not NotProvided:
            self.rayloom_settings.update(settings)
        return self

    def run_config(self) -> RunConfig:
        """The rayloom config that these settings stand for.

        Raises:
            ConfigError: Settings that no rayloom config may have, all at once.
            UserError: The environment is no name.
        """
        load_plugins(self.rayloom_plugins, remember=False)
        tree = json.loads(json.dumps(self.rayloom))
        env = tree.setdefault("env", {})
        if self.env is not None and not isinstance(self.env, str):
            raise UserError(
                f"environment({self.env!r}): give an id of Gymnasium, or the name of an environment"
                " that a plugin brings: algorithm_config(..., plugins=[file])"
            )
        if self.env is not None:
            env["name"] = self.env
        env.setdefault("name", "CartPole-v1")
        if self.env_config:
            env["kwargs"] = dict(self.env_config)
        if self.num_envs_per_env_runner > 0:
            count = max(1, self.num_env_runners) * self.num_envs_per_env_runner
            env["num_envs"] = count
            env["group_size"] = self.num_envs_per_env_runner
        if self.seed is not None:
            tree["seed"] = self.seed
        tree.setdefault("train", {}).setdefault("env_steps", 50_000)
        for path, value in self.rayloom_settings.items():
            _put(tree, path, value)
        tree.setdefault("resources", {})["workers"] = self.num_env_runners
        return config_from_dict(tree)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib wants one; it is never built, since the learner holds our networks."""
        return RLModuleSpec(module_class=TorchRLModule)

    def get_default_learner_class(self) -> type:
        """The learner that hosts ours."""
        return HostedLearner

    def validate(self) -> None:
        """RLlib's checks.

        Raises:
            UserError: More than one learner.
        """
        super().validate()
        if self.num_learners > 1:
            raise UserError(f"num_learners must be 0 or 1, not {self.num_learners}")

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {}


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        tree = tree.setdefault(key, {})
    tree[last] = value


class _Latest:
    """A sink that remembers the last value of each key."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Remember."""
        self.values.update(values)

    def image(self, step: int, key: str, pixels: Any) -> None:
        """Not kept."""

    def file(self, step: int, key: str, path: Path) -> None:
        """Not kept."""


class _Tap:
    """A collector that also notes the episodes that ended in the last round."""

    def __init__(self, collector: Any) -> None:
        self.collector = collector
        self.returns: list[float] = []
        self.lengths: list[float] = []

    def collect(self, weights: Mapping[str, torch.Tensor], tasks: Any) -> list[Any]:
        """As the collector does."""
        results = self.collector.collect(weights, tasks)
        self.returns = [float(x) for rollout, _ in results for x in rollout.episode_return]
        self.lengths = [float(x) for rollout, _ in results for x in rollout.episode_length]
        return list(results)

    def close(self) -> None:
        """Free what the collector holds."""
        self.collector.close()


class RayloomAlgorithm(Algorithm):
    """RLlib's algorithm around `rayloom.rl.RLTrainable`: one training step is one round.

    Attributes:
        trainable: Our loop, on RLlib's actors; made at first use.
        collector: Groups on the env runners, or in this process if there are none.
        updater: The learner.
    """

    @classmethod
    def get_default_config(cls) -> RayloomConfig:
        """RLlib's default config."""
        return RayloomConfig(cls)

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        """What Tune books for a trial; a part that takes no CPU gets a byte.

        A learner without a GPU waits most of the time and takes none, and Tune refuses a bundle of
        nothing.
        """
        from ray.tune import PlacementGroupFactory

        asked = super().default_resource_request(config)
        bundles = [dict(bundle) or {"memory": 1.0} for bundle in asked.bundles]
        return PlacementGroupFactory(bundles, strategy=asked.strategy)

    def setup(self, config: Any) -> None:
        """Build RLlib's groups, then our ends of them."""
        super().setup(config)
        from rayloom.rl.collect import LocalCollector

        self.run_config = self.config.run_config()
        self.updater = RemoteUpdater(self.learner_group)
        handles = self.env_runner_group._worker_manager.actors()
        self.collector: Any = LocalCollector(self.run_config)
        if handles:
            self.collector = RemoteCollector([handles[key] for key in sorted(handles)])
        self._trainable: Any = None
        self._tap = _Tap(self.collector)
        self._sink = _Latest()

    @property
    def trainable(self) -> Any:
        """The loop."""
        if self._trainable is None:
            from rayloom.rl.loop import RLTrainable

            self._trainable = RLTrainable(
                self.run_config, collector=self._tap, updater=self.updater
            )
        return self._trainable

    def training_step(self) -> None:
        """One round: collect, update, say so under RLlib's keys."""
        loop = self.trainable
        before, episodes, rounds = loop.env_step, loop.episodes, loop.round
        loop.advance(loop.env_step + 1, sink=self._sink, interrupted=lambda: False)
        assert loop.round == rounds + 1
        fresh = loop.episodes - episodes
        for episode_return, length in zip(self._tap.returns, self._tap.lengths, strict=True):
            self._log("episode_return_mean", episode_return, window=100)
            self._log("episode_len_mean", length, window=100)
        self._log("num_episodes", fresh, reduce="sum")
        self._log("num_episodes_lifetime", fresh, reduce="lifetime_sum")
        self._log("num_env_steps_sampled", loop.env_step - before, reduce="sum")
        self._log("num_env_steps_sampled_lifetime", loop.env_step - before, reduce="lifetime_sum")
        for key, value in self._sink.values.items():
            if key.startswith(("loss/", "q/", "optim/")):
                self.metrics.log_value((LEARNER_RESULTS, DEFAULT_MODULE_ID, key), value, window=1)

    def _log(self, key: str, value: float, **how: Any) -> None:
        self.metrics.log_value((ENV_RUNNER_RESULTS, key), value, **how)

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Our evaluation, without first-finisher bias, under RLlib's keys."""
        found = self.trainable.evaluate()
        return {
            ENV_RUNNER_RESULTS: {
                "episode_return_mean": found["eval/return_mean"],
                "episode_len_mean": found["eval/length_mean"],
                "num_episodes": found["eval/episodes"],
            },
            **found,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """One of our checkpoints, safetensors and JSON, and the config beside it."""
        from rayloom.records import Checkpoints

        folder = Path(checkpoint_dir)
        Checkpoints(folder).save(self.trainable.env_step, self.trainable.state_dict(), metrics={})
        about = {
            "config": to_dict(self.run_config),
            "plugins": recorded_as(self.config.rayloom_plugins),
            "training_iteration": self.training_iteration,
        }
        (folder / _STATE).write_text(json.dumps(about), encoding="utf-8")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Back to a checkpoint; training goes on bit-equal."""
        from rayloom.records import Checkpoints

        checkpoints = Checkpoints(Path(checkpoint_dir))
        newest = checkpoints.latest()
        if newest is None:
            raise UserError(f"{checkpoint_dir} holds no checkpoint that verifies")
        self.trainable.load_state_dict(checkpoints.load(newest))
        about = json.loads((Path(checkpoint_dir) / _STATE).read_text(encoding="utf-8"))
        self._iteration = about["training_iteration"]
        counted = self.metrics.peek(
            (ENV_RUNNER_RESULTS, "num_env_steps_sampled_lifetime"), default=0
        )
        missing = self.trainable.env_step - int(counted or 0)
        self._log("num_env_steps_sampled_lifetime", missing, reduce="lifetime_sum")

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """As `save_checkpoint`; gives the folder."""
        import tempfile

        folder = Path(path) if path is not None else Path(tempfile.mkdtemp(prefix="rayloom-algo-"))
        folder.mkdir(parents=True, exist_ok=True)
        self.save_checkpoint(str(folder))
        return str(folder)

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """As `load_checkpoint`."""
        self.load_checkpoint(str(path))

    @classmethod
    def from_checkpoint(cls, path: Any, **kwargs: Any) -> "RayloomAlgorithm":
        """An algorithm as it was saved, its config included.

        Raises:
            UserError: It was saved with a plugin that nobody has allowed on this machine.
        """
        about = json.loads((Path(path) / _STATE).read_text(encoding="utf-8"))
        host = RayloomConfig(cls)
        plugins = [one for one in about["plugins"] if isinstance(one, dict)]
        plugins += recorded_as([one for one in about["plugins"] if isinstance(one, str)])
        host.rayloom, host.rayloom_plugins = about["config"], paths_of(plugins)
        host.follow(config_from_dict(about["config"]))
        algorithm = host.build_algo()
        algorithm.load_checkpoint(str(path))
        return algorithm

    def cleanup(self) -> None:
        """Free environments and actors."""
        self.collector.close()
        super().cleanup()
