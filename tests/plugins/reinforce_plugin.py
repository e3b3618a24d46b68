"""REINFORCE as a plugin: an on-policy learner from outside the package (Williams, 1992).

Use: `rayloom train CONFIG --plugin tests/plugins/reinforce_plugin.py algorithm.name=reinforce`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from rayloom.config.sections import PositiveInt
from rayloom.core.seeding import stream_seed
from rayloom.functional.rl import policy_gradient_loss, returns_to_go
from rayloom.nn.mlp import MLP
from rayloom.optim import FlatParameters, make_optimizer, make_schedule
from rayloom.rl.learner import AlgorithmConfig
from rayloom.rl.policies import Categorical, NumpyMLP

CATALOGUE = {
    "algorithms": {
        "reinforce": {
            "target": "Reinforce",
            "summary": "REINFORCE with a running mean baseline (test plugin)",
            "family": "policy-gradient",
            "year": 1992,
            "capabilities": ("on-policy", "discrete-actions"),
        }
    }
}


class ReinforceConfig(AlgorithmConfig):
    """Settings of REINFORCE; gamma^t before the gradient is dropped, as in practice."""

    name: Literal["reinforce"] = "reinforce"
    gamma: float = Field(0.99, ge=0, le=1, description="discount per environment step")
    widths: list[PositiveInt] = Field([32], description="hidden widths")
    baseline_decay: float = Field(0.9, ge=0, lt=1, description="of the running mean return")

    def grad_steps(self, env_step: int) -> int:
        """One per round."""
        return env_step // self.round_env_steps


class Reinforce:
    """One gradient step per round on all its complete and cut episodes."""

    config_class = ReinforceConfig

    def __init__(self, context):
        config, spec = context.config, context.spec
        self.config, self.context, self.grad_step, self.baseline = config, context, 0, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(context.seed, "network"))
            self.net = nn.Sequential()
            self.net.body = MLP(spec.obs_dim, config.widths, spec.num_actions, activation="tanh")
        self.flat = FlatParameters(self.net.parameters())
        self.optimizer = make_optimizer(context.optimizer, self.flat)
        self.schedule = make_schedule(
            context.schedule, max(1, config.grad_steps(context.horizon_env_steps))
        )

    @staticmethod
    def make_policy(config, spec):
        return Categorical(NumpyMLP("body.", "tanh"))

    def weights(self):
        return {name: p.detach() for name, p in self.net.state_dict().items()}

    parameters = weights

    def export_module(self):
        return self.net.body

    def update(self, rollouts, *, env_step):
        losses, gains = [], []
        for rollout in rollouts:
            ended = torch.from_numpy(rollout.terminated), torch.from_numpy(rollout.truncated)
            gain = returns_to_go(torch.from_numpy(rollout.reward), *ended, gamma=self.config.gamma)
            valid = torch.from_numpy(rollout.valid)
            seen = torch.from_numpy(rollout.observation[:-1])[valid].flatten(1)
            action = torch.from_numpy(rollout.action)[valid].unsqueeze(-1)
            log_prob = self.net.body(seen).log_softmax(-1).gather(-1, action).squeeze(-1)
            losses.append(policy_gradient_loss(log_prob, gain[valid] - self.baseline))
            gains.append(gain[valid])
        loss, mean = torch.cat(losses).mean(), float(torch.cat(gains).mean())
        self.flat.backward(loss)
        self.optimizer.step(self.schedule(self.grad_step))
        self.grad_step += 1
        decay = self.config.baseline_decay
        self.baseline = decay * self.baseline + (1 - decay) * mean
        return {"loss/policy": float(loss.detach()), "train/gain_mean": mean}

    def state_dict(self):
        return {
            "flat": self.flat.data.clone(),
            "optimizer": self.optimizer.state_dict(),
            "grad_step": self.grad_step,
            "baseline": self.baseline,
        }

    def load_state_dict(self, state):
        self.flat.data.copy_(state["flat"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.grad_step, self.baseline = int(state["grad_step"]), float(state["baseline"])
