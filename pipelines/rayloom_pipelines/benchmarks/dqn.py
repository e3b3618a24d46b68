"""DQN in environment steps per second: rayloom beside Stable-Baselines3 and stock RLlib.

First table, the same work: CartPole-v1, 1 and 16 environments, a 64x64 network, batches of 32, one
update per 4 environment steps, no double or dueling, uniform replay of 50,000, one thread each; all
of them in `dqn_sides`, and the last policy's score varies far more over seeds than over sides.
Second table: each at its own best settings (our shipped config; SB3's zoo; RLlib's own example).

Each measurement is a process of its own; the sides take turns, and the median over the turns
counts. Update counts and scores stand beside: rayloom collects 256 steps and then takes the 64
updates that are due, the peers update every 4 (or 16) steps. The rate per CPU second is less
disturbed by other work on the machine than the rate per second.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from rayloom.core.errors import RayloomError

MODULES = {"rayloom": "rayloom", "stable-baselines3": "stable_baselines3", "rllib": "ray"}
BARS = {"stable-baselines3": 2.0, "rllib": 15.0}  # how many times faster we promise to be


def run(
    *,
    num_envs: Sequence[int] = (1, 16),
    steps: int = 20_000,
    best_steps: int = 50_000,
    turns: int = 3,
    sides: Sequence[str] = tuple(MODULES),
    best: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure.

    Args:
        num_envs: Numbers of environments of the first table.
        steps: Environment steps per run of the first table.
        best_steps: Of the second table.
        turns: Runs per side and number of environments; each has its own seed.
        sides: Which sides; those that are not installed are named in `missing`.
        best: Make the second table too.
        say: Takes one line per run.

    Returns:
        `matched`: {envs: {side: row}}, `best`: {side: row}, `ratios` of env_steps_per_s and of
        env_steps_per_cpu_s, ours over theirs, and `missing`. A row has medians, and all scores.
    """
    here = [side for side in sides if find_spec(MODULES[side]) is not None]
    result: dict[str, Any] = {
        "env": "CartPole-v1",
        "steps": steps,
        "turns": turns,
        "missing": [side for side in sides if side not in here],
        "matched": {},
        "ratios": {},
    }
    for envs in num_envs:
        rows = _turns(here, envs, steps, turns, best=False, say=say)
        result["matched"][str(envs)] = rows
        result["ratios"][str(envs)] = _ratios(rows)
    if best:
        result["best_steps"] = best_steps
        result["best"] = _turns(here, 0, best_steps, 1, best=True, say=say)
        result["ratios"]["best"] = _ratios(result["best"])
    return result


def _turns(
    sides: Sequence[str],
    num_envs: int,
    steps: int,
    turns: int,
    *,
    best: bool,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """All sides in turn; medians."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(turns):
        for side in sides:
            envs = num_envs or 1
            row = _one(side, num_envs=envs, steps=steps, seed=turn, best=best)
            found[side].append(row)
            say(
                f"  {side}, {'own best settings' if best else f'{envs} envs'}, seed {turn}: "
                f"{row['env_steps_per_s']:,.0f} env steps/s, {row['updates']:,} updates, "
                f"score {row['score']:.0f}"
            )
    return {side: _summary(rows) for side, rows in found.items()}


def _one(side: str, **settings: Any) -> dict[str, Any]:
    """One run in a process of its own.

    Raises:
        RayloomError: The process failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "rayloom_pipelines.benchmarks.dqn_sides"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environ["OPENBLAS_NUM_THREADS"] = "1"
    done = subprocess.run(
        [*command, json.dumps({"side": side, **settings})],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    if done.returncode:
        raise RayloomError(f"benchmark of {side} failed:\n{done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = ("env_steps_per_s", "env_steps_per_cpu_s", "env_steps", "updates")
    return {
        **{name: statistics.median(row[name] for row in rows) for name in numbers},
        "scores": [row["score"] for row in rows],
    }


def _ratios(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    ours = rows.get("rayloom")
    if ours is None:
        return {}
    return {
        side: {name: ours[name] / row[name] for name in ("env_steps_per_s", "env_steps_per_cpu_s")}
        for side, row in rows.items()
        if side != "rayloom"
    }


def table(result: dict[str, Any]) -> str:
    """Both tables, for people."""
    lines = []
    for envs, rows in result["matched"].items():
        lines.append(f"\n{envs} environments, {result['steps']:,} env steps, the same settings")
        lines += _lines(rows, result["ratios"][envs], bars=True)
    if "best" in result:
        lines.append(f"\neach at its own best settings, {result['best_steps']:,} env steps")
        lines += _lines(result["best"], result["ratios"]["best"], bars=False)
    if result["missing"]:
        lines.append(f"\nnot installed: {', '.join(result['missing'])} (pip install '.[bench]')")
    return "\n".join(lines)


def _lines(
    rows: dict[str, dict[str, Any]], ratios: dict[str, dict[str, float]], *, bars: bool
) -> list[str]:
    lines = [
        f"  {'side':<18} {'env steps/s':>12} {'per CPU s':>10} {'updates':>8}  "
        f"{'scores':<18} rayloom is"
    ]
    for side, row in rows.items():
        scores = " ".join(f"{score:.0f}" for score in row["scores"])
        ratio = ""
        if side in ratios:
            times = ratios[side]
            ratio = f"{times['env_steps_per_s']:.1f}x ({times['env_steps_per_cpu_s']:.1f}x CPU)"
            if bars:
                ratio += f", bar {BARS[side]:g}x"
        lines.append(
            f"  {side:<18} {row['env_steps_per_s']:>12,.0f} {row['env_steps_per_cpu_s']:>10,.0f} "
            f"{row['updates']:>8,.0f}  {scores:<18} {ratio}"
        )
    return lines
