"""Deep Q-network: Q-learning with a neural network, a replay memory and a target network.

Papers: Mnih et al., 2015, doi:10.1038/nature14236 (DQN, and the target network); van Hasselt et
al., 2016, arXiv:1509.06461 (double); Wang et al., 2016, arXiv:1511.06581 (dueling); Schaul et al.,
2016, arXiv:1511.05952 (prioritised replay); Hessel et al., 2018, arXiv:1710.02298 (n-step in DQN).

Dimension key: U updates of a round, B transitions of a batch, A actions.

Deviations, also in docs/methods/rl/dqn.md:
- Experience comes in rounds of `round_env_steps` collected with one set of weights; the updates
  that are due follow in one go. All minibatches of a round are drawn at once (uniform replay).
- Epsilon stays constant within a round.
- n-step targets are not corrected for the behaviour policy, as in Rainbow.
- The dueling heads are linear on a shared body.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from rayloom.config.sections import Config, EnvConfig, NonNegativeInt, PositiveInt
from rayloom.core.errors import NonFiniteError, UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.protocols import State
from rayloom.core.seeding import numpy_stream, stream_seed
from rayloom.functional.rl import importance_weights
from rayloom.optim import FlatParameters, make_optimizer, make_schedule
from rayloom.rl.algorithms.q_kernel import make_kernel
from rayloom.rl.algorithms.q_network import NumpyQ, QNetwork
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.learner import AlgorithmConfig, LearnerContext
from rayloom.rl.policies import EpsilonGreedy
from rayloom.rl.replay.buffer import PrioritizedReplay, Replay, Transitions
from rayloom.rl.replay.n_step import NStepStream
from rayloom.rl.rollout import Rollout


class EpsilonConfig(Config):
    """Linear schedule of the exploration rate, in environment steps."""

    start: float = Field(1.0, ge=0, le=1, description="probability of a random action at step 0")
    end: float = Field(0.05, ge=0, le=1, description="the same after `env_steps`")
    env_steps: PositiveInt = Field(10_000, description="environment steps from start to end")


class ReplayConfig(Config):
    """The replay memory."""

    capacity: PositiveInt = Field(100_000, description="transitions")
    prioritized: bool = Field(False, description="draw by TD error (Schaul et al., 2016)")
    alpha: float = Field(0.6, ge=0, le=1, description="exponent of priorities; 0 is uniform")
    beta: float = Field(
        0.4, ge=0, le=1, description="importance exponent at the start, 1 at the end"
    )
    epsilon: PositiveFloat = Field(1e-6, description="added to |TD error|, in units of reward")


class DQNConfig(AlgorithmConfig):
    """Settings of deep Q-learning (Mnih et al., 2015, doi:10.1038/nature14236)."""

    name: Literal["dqn"] = "dqn"
    gamma: float = Field(0.99, ge=0, le=1, description="discount per environment step")
    batch_size: PositiveInt = Field(64, description="transitions per gradient step")
    train_every: PositiveFloat = Field(4.0, description="environment steps per gradient step")
    learning_starts: NonNegativeInt = Field(1_000, description="env steps before the first update")
    target_period: PositiveInt = Field(500, description="gradient steps between target copies")
    double: bool = Field(
        True, description="choose with the online net, evaluate with the target net"
    )
    dueling: bool = Field(False, description="value and advantage heads")
    n_step: PositiveInt = Field(1, description="rewards summed before the bootstrap")
    huber_delta: PositiveFloat = Field(1.0, description="TD error at which the loss turns linear")
    widths: tuple[PositiveInt, ...] = Field((64, 64), description="hidden widths of the network")
    activation: Literal["relu", "tanh"] = Field("relu", description="between the layers")
    epsilon: EpsilonConfig = EpsilonConfig()
    replay: ReplayConfig = ReplayConfig()

    def epsilon_at(self, env_step: int) -> float:
        """The exploration rate."""
        share = min(1.0, env_step / self.epsilon.env_steps)
        return self.epsilon.start + share * (self.epsilon.end - self.epsilon.start)

    def acting(self, env_step: int) -> dict[str, float]:
        """Epsilon of a round that starts at `env_step`."""
        return {"epsilon": self.epsilon_at(env_step)}

    def grad_steps(self, env_step: int) -> int:
        """Gradient steps due after so many environment steps."""
        return int(max(0, env_step - self.learning_starts) / self.train_every)


class DQN:
    """The learner: online and target network, optimizer, replay.

    Args:
        context: Config, spaces, optimizer section, seed.

    Raises:
        UserError: The actions are not discrete.
    """

    config_class: ClassVar[type[AlgorithmConfig]] = DQNConfig
    task: ClassVar[str] = "rl"
    capabilities: ClassVar[tuple[str, ...]] = ("off-policy", "discrete-actions")
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/return_mean", "eval/return_iqm", "eval/return_low", "eval/return_high"),
        *shared("eval/return_std", "eval/length_mean", "eval/episodes"),
        Metric("loss/td", "reward^2", "min", "mean Huber TD loss"),
        Metric("q/taken", "reward", "none", "mean Q of the actions in the batch"),
        Metric("q/target", "reward", "none", "mean TD target"),
        Metric("train/epsilon", "probability", "none", "exploration rate"),
    )
    default_metric: ClassVar[str | None] = "eval/return_mean"

    @classmethod
    def example(cls) -> tuple[DQNConfig, EnvConfig]:
        """Tiny settings and an environment, for laws and checks."""
        config = DQNConfig(widths=(8,), batch_size=4, learning_starts=8, round_env_steps=16)
        return config, EnvConfig(name="CartPole-v1", num_envs=2, group_size=1)

    def __init__(self, context: LearnerContext) -> None:
        config, spec = context.config, context.spec
        _need_discrete(spec)
        self.config, self.spec, self.context = config, spec, context
        self.grad_step = 0
        self.horizon = max(1, config.grad_steps(context.horizon_env_steps))
        seed = stream_seed(context.seed, "network")
        self.online = _network(config, spec, seed).to(context.device)
        self.target = _network(config, spec, seed).to(context.device).requires_grad_(False)
        self.flat = FlatParameters(self.online.parameters())
        self.flat_target = FlatParameters(self.target.parameters())
        self.optimizer = make_optimizer(context.optimizer, self.flat)
        self.schedule = make_schedule(context.schedule, self.horizon)
        self.kernel = make_kernel(
            self.online,
            self.flat,
            batch_size=config.batch_size,
            double=config.double,
            delta=config.huber_delta,
        )
        self.replay = _replay(config, spec, numpy_stream(context.seed, "replay"))
        self.streams: dict[int, NStepStream] = {}
        self._weights = {name: p.detach() for name, p in self.online.state_dict().items()}

    @staticmethod
    def make_policy(config: DQNConfig, spec: EnvSpec) -> EpsilonGreedy:
        """The acting side."""
        _need_discrete(spec)
        values = NumpyQ(activation=config.activation, dueling=config.dueling)
        return EpsilonGreedy(values, spec.num_actions)

    def weights(self) -> Mapping[str, Tensor]:
        """The online network's parameters; views."""
        return self._weights

    def parameters(self) -> Mapping[str, Tensor]:
        """Both networks."""
        return {
            **{f"online.{name}": value for name, value in self.online.state_dict().items()},
            **{f"target.{name}": value for name, value in self.target.state_dict().items()},
        }

    def export_module(self) -> nn.Module:
        """Observation to action values."""
        return self.online

    def update(self, rollouts: Sequence[Rollout], *, env_step: int) -> dict[str, float]:
        """Store the round and take the gradient steps that are due.

        Raises:
            NonFiniteError: The loss became NaN or infinite.
        """
        for rollout in rollouts:
            stream = self.streams.get(rollout.group)
            if stream is None:
                stream = NStepStream(self.config.n_step, self.config.gamma)
                self.streams[rollout.group] = stream
            self.replay.insert(stream.push(rollout))
        due = self.config.grad_steps(env_step) - self.grad_step
        if due <= 0 or len(self.replay) == 0:
            return {}
        td = np.empty((due, self.config.batch_size), np.float32)
        q_taken = np.empty_like(td)
        if isinstance(self.replay, PrioritizedReplay):
            self._update_prioritized(self.replay, td, q_taken)
        else:
            self._update_uniform(td, q_taken)
        return self._metrics(td, q_taken)

    def _update_uniform(self, td: np.ndarray, q_taken: np.ndarray) -> None:
        """U updates on minibatches drawn together; the target net is frozen between copies."""
        updates, b = td.shape
        batch = self.replay.sample(updates, b)
        pairs = np.stack([batch.observation, batch.next_observation], axis=1)  # (U, 2, B, ...)
        pairs = self._floats(pairs)
        done = 0
        while done < updates:
            period = self.config.target_period
            until = min(updates, done + period - self.grad_step % period)
            q_next = self._target_values(pairs[done:until, 1])  # (until - done, B, A)
            for u in range(done, until):
                td[u], q_taken[u] = self.kernel.gradient(
                    pairs[u],
                    batch.action[u],
                    batch.reward[u],
                    batch.discount[u],
                    q_next[u - done],
                    None,
                )
                self._step()
            done = until

    def _update_prioritized(
        self, replay: PrioritizedReplay, td: np.ndarray, q_taken: np.ndarray
    ) -> None:
        """Updates one by one: each draw sees the priorities that the last one left."""
        updates, b = td.shape
        for u in range(updates):
            slots, probability = replay.draw(b)
            batch: Transitions = replay.gather(slots)
            pair = self._floats(np.stack([batch.observation, batch.next_observation]))
            share = min(1.0, self.grad_step / self.horizon)
            beta = self.config.replay.beta + share * (1.0 - self.config.replay.beta)
            weight = importance_weights(torch.from_numpy(probability), len(replay), beta)
            td[u], q_taken[u] = self.kernel.gradient(
                pair,
                batch.action,
                batch.reward,
                batch.discount,
                self._target_values(pair[1][None])[0],
                weight.float().numpy(),
            )
            self._step()
            replay.set_errors(slots, td[u])

    def _floats(self, observations: np.ndarray) -> np.ndarray:
        """uint8 pictures become float32 in [0, 1] once per minibatch."""
        if observations.dtype == np.uint8:
            return observations.astype(np.float32) / np.float32(255.0)
        return observations

    def _target_values(self, next_observation: np.ndarray) -> np.ndarray:
        """Target network at (K, B, *obs_shape), one forward pass: float32 (K, B, A)."""
        k, b = next_observation.shape[:2]
        x = torch.from_numpy(np.ascontiguousarray(next_observation)).flatten(0, 1)
        with torch.no_grad():
            q = self.target(x.to(self.context.device))
        return q.cpu().numpy().reshape(k, b, -1)

    def _step(self) -> None:
        """Clip, update, copy to the target when it is time."""
        if self.context.clip_norm is not None:
            self.flat.clip_grad_norm_(self.context.clip_norm)
        self.optimizer.step(self.schedule(self.grad_step))
        self.grad_step += 1
        if self.grad_step % self.config.target_period == 0:
            self.flat_target.data.copy_(self.flat.data)

    def _metrics(self, td: np.ndarray, q_taken: np.ndarray) -> dict[str, float]:
        delta = self.config.huber_delta
        size = np.abs(td, dtype=np.float64)
        loss = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).mean()
        if not np.isfinite(loss):
            raise NonFiniteError(f"loss/td became {loss} within grad_step {self.grad_step}")
        q = float(q_taken.mean(dtype=np.float64))
        return {
            "loss/td": float(loss),
            "q/taken": q,
            "q/target": q - float(td.mean(dtype=np.float64)),
            "optim/lr": self.optimizer.lr * self.schedule(self.grad_step),
        }

    def state_dict(self) -> State:
        """Everything; tensors and arrays are copies, filled replay blocks are shared."""
        return {
            "online": self.flat.data.clone(),
            "target": self.flat_target.data.clone(),
            "optimizer": self.optimizer.state_dict(),
            "grad_step": self.grad_step,
            "horizon": self.horizon,
            "replay": self.replay.state_dict(),
            "streams": {str(group): s.state_dict() for group, s in self.streams.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Back to a state."""
        self.flat.data.copy_(torch.as_tensor(state["online"]))
        self.flat_target.data.copy_(torch.as_tensor(state["target"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.grad_step, self.horizon = int(state["grad_step"]), int(state["horizon"])
        self.schedule = make_schedule(self.context.schedule, self.horizon)
        self.replay.load_state_dict(state["replay"])
        self.streams = {}
        for group, held in state["streams"].items():
            self.streams[int(group)] = NStepStream(self.config.n_step, self.config.gamma)
            self.streams[int(group)].load_state_dict(held)


def _need_discrete(spec: EnvSpec) -> None:
    if spec.action_kind != "discrete":
        raise UserError(
            f"algorithm.name: dqn needs discrete actions; {spec.name} has a box of them"
        )


def _network(config: DQNConfig, spec: EnvSpec, seed: int) -> QNetwork:
    return QNetwork(
        spec, config.widths, activation=config.activation, dueling=config.dueling, seed=seed
    )


def _replay(config: DQNConfig, spec: EnvSpec, rng: np.random.Generator) -> Replay:
    if config.replay.prioritized:
        return PrioritizedReplay(
            config.replay.capacity,
            alpha=config.replay.alpha,
            epsilon=config.replay.epsilon,
            obs_shape=spec.obs_shape,
            obs_dtype=spec.obs_dtype,
            action_shape=spec.action_shape,
            action_dtype=spec.action_dtype,
            rng=rng,
        )
    return Replay(
        config.replay.capacity,
        obs_shape=spec.obs_shape,
        obs_dtype=spec.obs_dtype,
        action_shape=spec.action_shape,
        action_dtype=spec.action_dtype,
        rng=rng,
    )
