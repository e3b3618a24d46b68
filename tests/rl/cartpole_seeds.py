"""CartPole-v1 with the shipped config: one attempt per seed, scored on fresh episodes.

`python tests/rl/cartpole_seeds.py 0 1 2` prints one JSON line per seed.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from rayloom.config.resolved import load_config
from rayloom.records import RunFolder
from rayloom.rl.evaluation import run_episodes
from rayloom.rl.loop import RLTrainable
from rayloom.training.driver import Nowhere, drive
from rayloom.training.plan import Plan

CONFIG = Path(__file__).parents[2] / "configs/rl/dqn-cartpole.yaml"
EPISODES = 100


def attempt(seed, storage):
    """Train; score the checkpoint with the best in-training evaluation, and the last one."""
    config = load_config(CONFIG, [f"seed={seed}", "evaluation.video=false"]).config
    folder = RunFolder.create(storage, "cartpole", config={}, info={"seed": seed})
    trainable, started = RLTrainable(config), time.perf_counter()
    outcome = drive(trainable, Plan.from_config(config), folder=folder, sink=Nowhere())
    seconds, cpu = time.perf_counter() - started, time.process_time()
    checkpoints = folder.checkpoints()
    best = checkpoints.best()
    scores = {}
    for name, step in (("best", best.step), ("last", outcome.position)):
        back = RLTrainable(config)
        back.load_state_dict(checkpoints.load(step)["trainable"])
        found = run_episodes(
            back.policy(),
            config.env,
            episodes=EPISODES,
            num_envs=10,
            seed=1_000_000 + seed,
            greedy=True,
            settings=config.algorithm.acting(back.env_step),
            spec=back.spec,
        )
        scores[name] = float(found.returns.mean())
    return {
        "seed": seed,
        "best": scores["best"],
        "best_at": best.step,
        "last": scores["last"],
        "env_steps": outcome.position,
        "grad_steps": outcome.progress["grad_step"],
        "seconds": round(seconds, 1),
        "cpu_s_of_process": round(cpu, 1),
        "sha256": outcome.parameters_sha256[:12],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for given in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(attempt(int(given), folder)), flush=True)
