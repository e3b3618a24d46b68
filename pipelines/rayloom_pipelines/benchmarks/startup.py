"""`rayloom bench startup`: what a command costs before it does anything.

CPU seconds (user and system) of light commands beyond those of a bare interpreter, and wall-clock
seconds from the start of `rayloom train` to its first optimizer step, imports included. Medians.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

LIGHT = {"help": ["--help"], "list": ["list"], "train --help": ["train", "--help"]}
FIRST_STEP = {
    "generative/vae-digits": ["train.epochs=null", "train.grad_steps=1", "evaluation.metrics=[]"],
    "rl/dqn-cartpole": ["train.env_steps=1024", "algorithm.learning_starts=1"],
}
UNPACED = """
import sys
from rayloom_pipelines import cli, console
console.PLAIN_EVERY_S = 0.0
sys.exit(cli.main())
"""  # the command `rayloom`, which tells every step
BAR_CPU_S, BAR_FIRST_STEP_S = 0.5, 5.0


def cpu_seconds(command: list[str]) -> float:
    """User and system seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def first_step_seconds(config: str, changes: list[str]) -> float:
    """Wall-clock seconds from the start of the command to the first logged optimizer step."""
    with tempfile.TemporaryDirectory(prefix="rayloom-startup-") as folder:
        command = [sys.executable, "-c", UNPACED, "train", config, *changes]
        command += ["train.log_every=1", f"storage={folder}", "--json"]
        command += [f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress" and "loss" in str(event["values"]):
                    return time.perf_counter() - began
            raise RuntimeError(f"{config} took no step: {process.communicate()[1]}")
        finally:
            process.terminate()
            process.communicate()


def run(*, turns: int = 5, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure everything.

    Args:
        turns: Times each command is measured.
        say: Told one line per measurement.

    Returns:
        `cpu_s`: beyond the interpreter, by command; `first_step_s` by config; `bars`.
    """
    rayloom = [sys.executable, "-m", "rayloom_pipelines.cli"]
    commands = {"interpreter": [sys.executable, "-c", "pass"]}
    commands |= {name: [*rayloom, *words] for name, words in LIGHT.items()}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(turns):
        for name, command in commands.items():
            seconds[name].append(cpu_seconds(command))
    base = statistics.median(seconds.pop("interpreter"))
    cpu = {name: statistics.median(values) - base for name, values in seconds.items()}
    for name, value in cpu.items():
        say(f"rayloom {name}: {value:.3f} s of CPU beyond the interpreter's {base:.3f} s")
    first = {}
    for config, changes in FIRST_STEP.items():
        values = [first_step_seconds(config, changes) for _ in range(turns)]
        first[config] = statistics.median(values)
        say(f"rayloom train {config}: {first[config]:.2f} s to the first optimizer step")
    return {
        "cpu_s": cpu,
        "interpreter_cpu_s": base,
        "first_step_s": first,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "turns": turns,
        "bars": {
            "cpu": max(cpu.values()) <= BAR_CPU_S,
            "first_step": max(first.values()) <= BAR_FIRST_STEP_S,
        },
    }
