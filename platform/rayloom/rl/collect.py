"""Collecting rounds: the worker that owns groups, and the collector and updater in process.

Ray actors host the same `GroupWorker` and the same `make_learner`; nothing here knows of Ray.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from rayloom import catalogue
from rayloom.config.schema_walk import is_player_mapping
from rayloom.config.sections import Config, EnvConfig, RunConfig
from rayloom.core import failpoints
from rayloom.core.errors import UserError
from rayloom.core.protocols import GroupTask, State
from rayloom.rl.envs.groups import Group, group_sizes, make_group
from rayloom.rl.envs.making import spec_of
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.learner import AlgorithmConfig, Learner, LearnerContext
from rayloom.rl.rollout import Rollout


def algorithm_class(config: RunConfig) -> Any:
    """The learner class that `algorithm.name` names.

    Raises:
        UserError: The config has no algorithm or no environment.
    """
    return catalogue.load("algorithms", sections_of(config)[0].model_dump()["name"])


def sections_of(config: RunConfig) -> tuple[AlgorithmConfig, EnvConfig]:
    """The sections `algorithm` and `env`, which an RL run has.

    Raises:
        UserError: It lacks one.
    """
    if config.algorithm is None or config.env is None:
        raise UserError("an RL run needs the sections `algorithm` and `env`")
    return cast(AlgorithmConfig, config.algorithm), config.env


def make_learner(config: RunConfig, spec: EnvSpec | None = None) -> Learner:
    """The learner of a run, with parameters drawn from its seed.

    Raises:
        UserError: Settings that RL does not support, or spaces that the algorithm cannot take.
    """
    check_supported(config)
    algorithm, env = sections_of(config)
    spec = spec or spec_of(env)
    context = LearnerContext(
        config=algorithm,
        spec=spec,
        seed=config.seed,
        optimizer=cast(Config, config.optimizer),  # one for all: `check_supported`
        schedule=config.train.schedule,
        clip_norm=config.train.clip_norm,
        horizon_env_steps=budget_env_steps(config),
        device="cpu" if config.resources.device == "auto" else config.resources.device,
    )
    return algorithm_class(config)(context)


def budget_env_steps(config: RunConfig) -> int:
    """The budget in environment steps.

    Raises:
        UserError: `train` counts epochs, or grad_steps where the algorithm has no fixed ratio.
    """
    unit, amount = config.train.length
    return env_steps_of(config, unit, amount)


def env_steps_of(config: RunConfig, unit: str, amount: float) -> int:
    """`amount` of a unit in environment steps.

    Raises:
        UserError: The unit has no meaning here.
    """
    if unit == "env_steps":
        return int(np.ceil(amount))
    if unit == "grad_steps":
        grad_steps = sections_of(config)[0].grad_steps
        per_million = grad_steps(1_000_000)
        if per_million:
            low, high = 0, 1
            while grad_steps(high) < amount:
                high *= 2
            while low < high:
                middle = (low + high) // 2
                if grad_steps(middle) < amount:
                    low = middle + 1
                else:
                    high = middle
            return low
    raise UserError(f"train.{unit}: an RL run counts env_steps; give train.env_steps")


def check_supported(config: RunConfig) -> None:
    """Refuse settings that would be ignored silently.

    Raises:
        UserError: Lists all of them.
    """
    wrong = [f"{path}: {message}" for path, message in unsupported(config.model_dump())]
    if wrong:
        raise UserError("\n".join(wrong))


def unsupported(plain: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of settings that have no effect in RL.

    Args:
        plain: Sections as plain data, which may be wrong in themselves.
    """
    train, optimizer = plain.get("train"), plain.get("optimizer")
    train = train if isinstance(train, Mapping) else {}
    if train.get("ema") is not None:
        yield "train.ema", "RL learners have no moving average of parameters; remove it"
    if train.get("accumulate") not in (None, 1):
        yield "train.accumulate", f"must be 1 for RL, got {train['accumulate']}"
    if train.get("precision") in ("bf16", "fp64"):
        yield "train.precision", f"RL trains in fp32, got {train['precision']}"
    if train.get("compile"):
        yield "train.compile", "not supported for RL; remove it"
    evaluation = plain.get("evaluation")
    if isinstance(evaluation, Mapping) and evaluation.get("metrics"):
        yield "evaluation.metrics", "extra metrics are of models only; remove it"
    if is_player_mapping(optimizer):
        yield "optimizer", "an RL learner has one optimizer, not one per player"
        return
    optimizer = optimizer if isinstance(optimizer, Mapping) else {}
    if optimizer.get("name") == "lbfgs":
        yield "optimizer.name", "lbfgs needs one loss for all data: RL learners cannot use it"
    for name, instead in (("schedule", "train.schedule"), ("clip_norm", "train.clip_norm")):
        if optimizer.get(name) is not None:
            yield f"optimizer.{name}", f"an RL learner has one player: set {instead}"
    if optimizer.get("groups"):
        yield "optimizer.groups", "RL learners have no groups of parameters; remove it"


class GroupWorker:
    """Owns environment groups in one process and collects their tasks.

    It keeps the environments of the groups it has met. A task whose state is the one that its
    group is in costs nothing extra; otherwise the state is loaded first.

    Args:
        config: The run's config.
        spec: The environment's spaces; None reads them.
    """

    def __init__(self, config: RunConfig, spec: EnvSpec | None = None) -> None:
        self.config = config
        algorithm, self.env = sections_of(config)
        self.spec = spec or spec_of(self.env)
        self.policy = algorithm_class(config).make_policy(algorithm, self.spec)
        self.sizes = group_sizes(self.env.num_envs, self.env.group_size)
        self._groups: dict[int, Group] = {}
        self._at: dict[int, str] = {}  # digest of the state each group is in

    def group(self, number: int) -> Group:
        """The group of this number, made at its first use."""
        if number not in self._groups:
            self._groups[number] = make_group(
                self.env,
                self.spec,
                seed=self.config.seed,
                group=number,
                size=self.sizes[number],
            )
            self._at[number] = _digest(self._groups[number].state_dict())
        return self._groups[number]

    def collect(self, weights: Mapping[str, Tensor], task: GroupTask) -> tuple[Rollout, State]:
        """One group's share of a round.

        Args:
            weights: The learner's behaviour weights.
            task: Group, vector steps, state (empty: a fresh group) and policy settings.

        Returns:
            The rollout and the group's new state.
        """
        group = self.group(task.group)
        if not task.state:
            if group.steps_taken:  # a fresh start is asked for, and the group has moved on
                group.close()
                del self._groups[task.group]
                group = self.group(task.group)
        elif _digest(task.state) != self._at[task.group]:
            group.load_state_dict(task.state)
        self.policy.load(weights)
        rollout = group.collect(task.steps, self.policy, task.settings)
        state = group.state_dict()
        self._at[task.group] = _digest(state)
        return rollout, state

    def close(self) -> None:
        """Free the environments."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()


def _digest(state: State) -> str:
    """A short name of a group's state: clock, random stream and observation at hand."""
    text = f"{state['steps_taken']}|{state['rng']}|".encode()
    seen = np.ascontiguousarray(state["observation"]).tobytes()
    return hashlib.blake2b(
        text + seen + np.asarray(state["episode"]).tobytes(), digest_size=16
    ).hexdigest()


class LocalCollector:
    """Collects every group in this process, one after the other.

    Args:
        config: The run's config.
        spec: The environment's spaces; None reads them.
    """

    def __init__(self, config: RunConfig, spec: EnvSpec | None = None) -> None:
        self.worker = GroupWorker(config, spec)

    def collect(
        self, weights: Mapping[str, Tensor], tasks: Sequence[GroupTask]
    ) -> list[tuple[Rollout, State]]:
        """(rollout, new state) per task, in the tasks' order."""
        results = []
        for task in tasks:
            results.append(self.worker.collect(weights, task))
            failpoints.hit("rl.group_collected")
        return results

    def close(self) -> None:
        """Free the environments."""
        self.worker.close()


class LocalUpdater:
    """The learner in this process.

    Args:
        config: The run's config.
        spec: The environment's spaces; None reads them.
    """

    def __init__(self, config: RunConfig, spec: EnvSpec | None = None) -> None:
        self.learner = make_learner(config, spec)
        self._env_step = 0

    def update(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Use one round."""
        self._env_step += sum(rollout.env_steps for rollout in rollouts)
        return self.learner.update(rollouts, env_step=self._env_step)

    def weights(self) -> Mapping[str, Tensor]:
        """Behaviour weights; views."""
        return self.learner.weights()

    def parameters(self) -> Mapping[str, Tensor]:
        """All parameters and buffers, target networks included."""
        return self.learner.parameters()

    def grad_step(self) -> int:
        """Optimizer steps so far."""
        return self.learner.grad_step

    def state_dict(self) -> State:
        """The learner's whole state."""
        return {"learner": self.learner.state_dict(), "env_step": self._env_step}

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        self.learner.load_state_dict(state["learner"])
        self._env_step = int(state["env_step"])

    def close(self) -> None:
        """Nothing to free."""


def detached(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Copies of weights on the CPU, safe to send or keep."""
    return {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
