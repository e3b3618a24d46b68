"""What RLlib runs as actors: an env runner that owns groups, and a learner that hosts ours.

In a module of its own because the base classes need ray at import. See `rllib` for the why.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rayloom.config.resolved import config_from_dict, to_dict
from rayloom.config.sections import RunConfig
from rayloom.core import failpoints
from rayloom.core.protocols import GroupTask, State
from rayloom.distributed.rllib_remote import writable


class GroupRunner(EnvRunner):
    """An env runner that collects whole environment groups from states it is given."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.run_config = config.run_config()
        if self.worker_index:  # an actor's process is its own; index 0 lives in the driver's
            torch.set_num_threads(threads_of(self.run_config))
            failpoints.set_side("worker")
            if ray.get_runtime_context().was_current_actor_reconstructed:
                failpoints.disarm()
        self._worker: Any = None

    @property
    def worker(self) -> Any:
        """Our side, made at first use: the local runner of a driver never needs it."""
        if self._worker is None:
            from rayloom.rl.collect import GroupWorker

            self._worker = GroupWorker(self.run_config)
        return self._worker

    def collect_task(self, weights: Mapping[str, torch.Tensor], task: GroupTask) -> Any:
        """(rollout, new state) of one group's share of a round."""
        task = dataclasses.replace(task, state=writable(task.state))
        result = self.worker.collect(weights, task)
        if self.worker_index:
            failpoints.hit("rl.group_collected")
        return result

    def ping(self) -> bool:
        """An answer, so that one knows it lives."""
        return True

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def sample(self, **kwargs: Any) -> Any:
        """Not how groups are collected; RLlib's own evaluation is replaced too."""
        raise NotImplementedError("rayloom collects groups: see RemoteCollector")

    def assert_healthy(self) -> None:
        """The config could be read."""
        assert self.run_config is not None

    def get_spaces(self) -> dict[str, tuple[Any, Any]]:
        """Observation and action space of one environment."""
        import gymnasium as gym

        # networks are built by the learner, from our own spec: RLlib only passes these on
        blank: tuple[Any, Any] = (gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2))
        return {INPUT_ENV_SPACES: blank, INPUT_ENV_SINGLE_SPACES: blank, DEFAULT_MODULE_ID: blank}

    def get_state(self, components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Nothing: the driver keeps the states."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing: weights and states come with each task."""

    def get_metrics(self) -> dict[str, Any]:
        """Nothing: the loop counts."""
        return {}

    def stop(self) -> None:
        """Free the environments."""
        if self._worker is not None:
            self._worker.close()


class HostedLearner(TorchLearner):
    """RLlib's learner as a place for ours; its module, optimizers and connectors stay unbuilt."""

    def build(self) -> None:
        """Make our learner."""
        from rayloom.rl.collect import LocalUpdater

        run_config = self.config.run_config()
        if self.config.num_learners:
            torch.set_num_threads(threads_of(run_config))
            failpoints.set_side("worker")
        if self.config.num_gpus_per_learner and run_config.resources.device == "auto":
            tree = to_dict(run_config)
            tree["resources"]["device"] = "cuda"
            run_config = config_from_dict(tree)
        self.ours = LocalUpdater(run_config)
        self._is_built = True

    def update_round(self, rollouts: Any) -> dict[str, float]:
        """Use one round (a list of rollouts, or a reference to it)."""
        return self.ours.update(writable(_fetch(rollouts)))

    def behaviour_weights(self) -> dict[str, torch.Tensor]:
        """Copies of the behaviour weights on the CPU."""
        return _copies(self.ours.weights())

    def all_parameters(self) -> dict[str, torch.Tensor]:
        """Copies of all parameters and buffers on the CPU."""
        return _copies(self.ours.parameters())

    def steps_taken(self) -> int:
        """Optimizer steps so far."""
        return self.ours.grad_step()

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def whole_state(self) -> State:
        """Everything."""
        return self.ours.state_dict()

    def load_whole_state(self, state: Any) -> None:
        """Back to a state, or to a reference to one."""
        self.ours.load_state_dict(writable(_fetch(state)))

    def get_state(self, components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """What RLlib broadcasts to env runners: nothing of weight."""
        return {COMPONENT_RL_MODULE: {}, WEIGHTS_SEQ_NO: 0}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing; see `load_whole_state`."""

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Never called: the loss is inside our learner."""
        raise NotImplementedError("rayloom's learner updates itself: see RemoteUpdater")


def _fetch(value: Any) -> Any:
    return ray.get(value) if isinstance(value, ray.ObjectRef) else value


def _copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from rayloom.rl.collect import detached

    return detached(tensors)


def threads_of(config: RunConfig) -> int:
    """Torch threads of an actor."""
    threads = config.resources.threads
    return max(1, int(config.resources.cpus_per_worker)) if threads == "auto" else int(threads)
