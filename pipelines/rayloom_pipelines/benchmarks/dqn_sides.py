"""One side of the DQN benchmark in a process of its own: rayloom, Stable-Baselines3 or RLlib.

`python -m rayloom_pipelines.benchmarks.dqn_sides '{"side": "rayloom", ...}'` trains on CartPole-v1
and prints one line of JSON. Timing starts after the warm-up, when every side updates; importing and
building are not in it. All sides are scored by the same code: greedy, fresh episodes, own seeds.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

ENV = "CartPole-v1"
WARM_UP = 1_000  # environment steps before the first update, not timed

# What is equal on all sides of the first table. What no library leaves to its user stays different:
# rayloom acts with one set of weights and one epsilon for rounds of 256 steps.
WIDTHS, ACTIVATION = [64, 64], "relu"  # RLlib's own default is tanh
LR, GAMMA, BATCH, CAPACITY = 1e-3, 0.99, 32, 50_000
CLIP_NORM = 10.0  # SB3's own default; RLlib's is 40, rayloom's none
EPSILON_END, EPSILON_STEPS = 0.05, 10_000
TARGET_ENV_STEPS = 1_000  # a multiple of WARM_UP: then all sides copy at the same env steps
TRAIN_EVERY = 4  # environment steps per update
Act = Callable[[np.ndarray], np.ndarray]  # observations (N, 4) to greedy actions (N,)


class Clock:
    """Wall clock and CPU time between two environment steps."""

    def __init__(self) -> None:
        self.at = 0
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def start(self, env_step: int) -> None:
        """The warm-up is over."""
        self.at, self.wall, self.cpu = env_step, time.perf_counter(), time.process_time()

    def rates(self, env_step: int) -> dict[str, float]:
        """Environment steps per second since the start."""
        steps = env_step - self.at
        return {
            "env_steps_per_s": steps / (time.perf_counter() - self.wall),
            "env_steps_per_cpu_s": steps / (time.process_time() - self.cpu),
        }


def score(act: Act, *, episodes: int = 50) -> float:
    """Mean return of `episodes` greedy episodes, one after the other, seeds from 1,000,000."""
    env = gym.make(ENV)
    returns = []
    for episode in range(episodes):
        seen, _ = env.reset(seed=1_000_000 + episode)
        total, over = 0.0, False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(int(act(seen[None])[0]))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


# rayloom ----------------------------------------------------------------------------------------


class _Silent:
    """A sink that keeps nothing."""

    def scalars(self, step: int, values: Any) -> None:
        """Nothing."""

    def image(self, step: int, key: str, pixels: Any) -> None:
        """Nothing."""

    def file(self, step: int, key: str, path: Any) -> None:
        """Nothing."""


def rayloom(num_envs: int, steps: int, seed: int, best: bool) -> dict[str, Any]:
    """Our side: matched settings, or the shipped config `rl/dqn-cartpole`."""
    from rayloom.config.resolved import config_from_dict
    from rayloom.rl.loop import RLTrainable

    tree: dict[str, Any] = {
        "algorithm": {
            "name": "dqn",
            "gamma": GAMMA,
            "double": False,
            "dueling": False,
            "n_step": 1,
            "huber_delta": 1.0,
            "batch_size": BATCH,
            "train_every": TRAIN_EVERY,
            "learning_starts": WARM_UP,
            "target_period": TARGET_ENV_STEPS // TRAIN_EVERY,
            "widths": WIDTHS,
            "activation": ACTIVATION,
            "round_env_steps": 256,
            "replay": {"capacity": CAPACITY},
            "epsilon": {"start": 1.0, "end": EPSILON_END, "env_steps": EPSILON_STEPS},
        },
        "env": {"name": ENV, "num_envs": num_envs, "group_size": num_envs},
        "optimizer": {"name": "adam", "lr": LR},
        "train": {"env_steps": steps, "clip_norm": CLIP_NORM},
        "seed": seed,
    }
    config = config_from_dict(tree)
    if best:
        from rayloom.config.resolved import load_config
        from rayloom_pipelines.shipped import find_config

        path = find_config("rl/dqn-cartpole")
        shipped = load_config(path, [f"train.env_steps={steps}", f"seed={seed}"])
        config = shipped.config
    trainable, clock, sink = RLTrainable(config), Clock(), _Silent()
    trainable.advance(WARM_UP, sink=sink, interrupted=lambda: False)
    clock.start(trainable.position())
    trainable.advance(steps, sink=sink, interrupted=lambda: False)
    rates = clock.rates(trainable.position())
    policy = trainable.policy()
    progress = trainable.progress()
    return {
        **rates,
        "env_steps": progress["env_step"],
        "updates": progress["grad_step"],
        "score": score(policy.best),
    }


# Stable-Baselines3 ------------------------------------------------------------------------------


def stable_baselines3(num_envs: int, steps: int, seed: int, best: bool) -> dict[str, Any]:
    """SB3's DQN: matched settings, or those of its zoo for CartPole-v1."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    clock = Clock()

    class Started(BaseCallback):
        def _on_step(self) -> bool:
            if not clock.at and self.num_timesteps >= WARM_UP:
                clock.start(self.num_timesteps)
            return True

    vector_steps = max(1, TRAIN_EVERY // num_envs)
    settings: dict[str, Any] = {
        "learning_rate": LR,
        "batch_size": BATCH,
        "buffer_size": CAPACITY,
        "learning_starts": WARM_UP,
        "gamma": GAMMA,
        "train_freq": vector_steps,
        "gradient_steps": vector_steps * num_envs // TRAIN_EVERY,
        "target_update_interval": TARGET_ENV_STEPS,
        "max_grad_norm": CLIP_NORM,
        "exploration_fraction": min(1.0, EPSILON_STEPS / steps),
        "exploration_final_eps": EPSILON_END,
        "policy_kwargs": {"net_arch": WIDTHS, "activation_fn": torch.nn.ReLU},
    }
    if best:
        settings = {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": WARM_UP,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        }
    env = make_vec_env(ENV, num_envs, seed=seed)
    model = DQN("MlpPolicy", env, seed=seed, device="cpu", **settings)
    model.learn(steps, callback=Started())
    rates = clock.rates(model.num_timesteps)
    return {
        **rates,
        "env_steps": model.num_timesteps,
        "updates": model._n_updates,
        "score": score(lambda seen: model.predict(seen, deterministic=True)[0]),
    }


# RLlib ------------------------------------------------------------------------------------------


def _rllib_config(num_envs: int, seed: int, best: bool) -> Any:
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    config = (
        DQNConfig()
        .environment(ENV)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .learners(num_learners=0)
        .debugging(seed=seed, log_level="ERROR")
        .reporting(min_sample_timesteps_per_iteration=500, min_time_s_per_iteration=0)
    )
    if best:  # RLlib's own example for CartPole-v1
        buffer = {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 50_000, "alpha": 0.6}
        return config.training(
            lr=5e-4,
            train_batch_size_per_learner=32,
            replay_buffer_config={**buffer, "beta": 0.4},
            n_step=(2, 5),
            double_q=True,
            dueling=True,
            num_atoms=1,
            epsilon=[(0, 1.0), (10_000, 0.02)],
        ).rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[256],
                fcnet_activation="tanh",
                fcnet_bias_initializer="zeros_",
                head_fcnet_hiddens=[256],
                head_fcnet_activation="tanh",
            )
        )
    return (
        config.env_runners(rollout_fragment_length=max(1, TRAIN_EVERY // num_envs))
        .training(
            lr=LR,
            gamma=GAMMA,
            grad_clip=CLIP_NORM,
            grad_clip_by="global_norm",
            train_batch_size_per_learner=BATCH,
            training_intensity=BATCH / TRAIN_EVERY,  # transitions trained on per one sampled
            num_steps_sampled_before_learning_starts=WARM_UP,
            target_network_update_freq=TARGET_ENV_STEPS,
            td_error_loss_fn="huber",
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": CAPACITY},
            n_step=1,
            double_q=False,
            dueling=False,
            epsilon=[(0, 1.0), (EPSILON_STEPS, EPSILON_END)],
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=WIDTHS,
                fcnet_activation=ACTIVATION,
                head_fcnet_hiddens=[],
            )
        )
    )


def rllib(num_envs: int, steps: int, seed: int, best: bool) -> dict[str, Any]:
    """Stock RLlib, one process: matched settings, or those of its CartPole example."""
    import logging

    import ray

    ray.init(
        "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    logging.disable(logging.WARNING)
    algo = _rllib_config(num_envs, seed, best).build_algo()
    clock, sampled, trained = Clock(), 0, 0.0
    while sampled < steps:
        found = algo.train()
        sampled = int(found["env_runners"]["num_env_steps_sampled_lifetime"])
        learner = found.get("learners", {}).get("__all_modules__", {})
        trained = float(learner.get("num_module_steps_trained_lifetime", trained))
        if not clock.at and sampled >= WARM_UP:
            clock.start(sampled)
    rates = clock.rates(sampled)
    module = algo.get_module()

    def act(seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out = module.forward_inference({"obs": torch.from_numpy(seen)})
        return np.asarray(out["actions"])

    result = {**rates, "env_steps": sampled, "updates": int(trained) // 32, "score": score(act)}
    algo.stop()
    ray.shutdown()
    return result


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    "rayloom": rayloom,
    "stable-baselines3": stable_baselines3,
    "rllib": rllib,
}


def main() -> None:
    """Run the side that the first argument (JSON) asks for."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    result = SIDES[given.pop("side")](**given)
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
