"""`rayloom bench startup`: what a command costs besides training.

CPU seconds (user and system) of light commands beyond those of a bare interpreter; wall-clock
seconds from the start of `rayloom train` to its first optimizer step, imports included; and a run
of half a second of training, in its own process and on two workers: seconds from its last
evaluation to the registered model, from the event `end` to the end of the process, and in all.
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

from rayloom_pipelines.console import PLAIN_EVERY_S

LIGHT = {"help": ["--help"], "list": ["list"], "train --help": ["train", "--help"]}
FIRST_STEP = {
    "autoencoders/vae-digits": ["train.epochs=null", "train.grad_steps=1", "evaluation.metrics=[]"],
    "rl/dqn-cartpole": ["train.env_steps=1024", "algorithm.learning_starts=1"],
}
UNPACED = """
import sys
from rayloom_pipelines import cli, console
console.PLAIN_EVERY_S = 0.0
sys.exit(cli.main())
"""  # the command `rayloom`, which tells every step
SHORT = ("autoencoders/vae-digits", "train.epochs=2")
WORKERS = (0, 2)
BAR_CPU_S, BAR_FIRST_STEP_S = 0.5, 5.0
BAR_REGISTER_S, BAR_EXIT_S, BAR_TWO_WORKERS_S = 1.5, 0.3, 18.0


def cpu_seconds(command: list[str]) -> float:
    """User and system seconds of a process."""
    before = _children_s()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


def whole_run(workers: int) -> dict[str, float]:
    """A short run from its command to the end of its process.

    Args:
        workers: Ray workers; 0: in the command's process.

    Returns:
        `register_s`: from the last evaluation to the message that the model is registered;
        `exit_s`: from the event `end` to the end of the process; `whole_s`; `cpu_s` of the command
        and of what it waited for; `progress`: events of that kind.
    """
    with tempfile.TemporaryDirectory(prefix="rayloom-startup-") as folder:
        command = [sys.executable, "-m", "rayloom_pipelines.cli", "train", *SHORT, "--json"]
        command += [f"resources.workers={workers}", f"storage={folder}"]
        command += [f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        at, progress, before = dict[str, float](), 0, _children_s()
        began = time.perf_counter()
        with open(os.path.join(folder, "errors"), "w+") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
            )
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                registered = str(event.get("text", "")).startswith("registered as")
                at["registered" if registered else event["event"]] = time.perf_counter()
                progress += event["event"] == "progress"
            code = process.wait()
            ended = time.perf_counter()
            errors.seek(0)
            if code or not {"evaluation", "registered", "end"} <= at.keys():
                raise RuntimeError(f"the run on {workers} workers went wrong: {errors.read()}")
    return {
        "register_s": at["registered"] - at["evaluation"],
        "exit_s": ended - at["end"],
        "whole_s": ended - began,
        "cpu_s": _children_s() - before,
        "progress": progress,
    }


def run(*, turns: int = 5, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure everything.

    Args:
        turns: Times each command is measured.
        say: Told one line per measurement.

    Returns:
        `cpu_s`: beyond the interpreter, by command; `first_step_s` by config; `whole_run` by
        number of workers, medians; `load`: average of the last minute, before and after; `bars`.
    """
    load = os.getloadavg()[0]
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
    whole = {count: _medians([whole_run(count) for _ in range(turns)]) for count in WORKERS}
    for count, middle in whole.items():
        say(
            f"rayloom train {' '.join(SHORT)}, {count} workers: {middle['whole_s']:.2f} s in all "
            f"({middle['cpu_s']:.1f} s of CPU), {middle['register_s']:.2f} s from the last "
            f"evaluation to the registered model, {middle['exit_s']:.2f} s from `end` to the exit, "
            f"{middle['progress']:.0f} progress events"
        )
    say(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    return {
        "cpu_s": cpu,
        "interpreter_cpu_s": base,
        "first_step_s": first,
        "whole_run": whole,
        "load": [load, os.getloadavg()[0]],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "turns": turns,
        "bars": {
            "cpu": max(cpu.values()) <= BAR_CPU_S,
            "first_step": max(first.values()) <= BAR_FIRST_STEP_S,
            "register": whole[0]["register_s"] <= BAR_REGISTER_S,
            "exit": max(middle["exit_s"] for middle in whole.values()) <= BAR_EXIT_S,
            "two_workers": whole[2]["whole_s"] <= BAR_TWO_WORKERS_S,
            "progress": all(
                middle["progress"] <= middle["whole_s"] / PLAIN_EVERY_S for middle in whole.values()
            ),
        },
    }


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}
