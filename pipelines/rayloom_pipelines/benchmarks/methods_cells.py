"""The cells of `rayloom bench methods`: what every method must do, one function each.

A cell returns a short figure for the table, or raises `Missing` with what does not hold.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rayloom import catalogue
from rayloom.catalogue import Entry
from rayloom.config.references import references
from rayloom.config.resolved import load_config
from rayloom.config.yaml_text import read
from rayloom.core.protocols import operations
from rayloom.records import RunFolder
from rayloom_pipelines.shipped import config_names

SECTIONS = ("Paper", "Equation", "Deviations", "Command", "Results")
SMALL = ("digits", "toy", "cartpole", "gridworld")  # in a config's name: seconds suffice
MODEL = [
    "train.epochs=null",
    "train.grad_steps=24",
    "train.log_every=6",
    "evaluation.every=8",
    "checkpoint.every=8",
    "evaluation.importance_samples=5",
    "data.limit=2000",
]
AGENT = [
    "train.env_steps=4096",
    "train.log_every=512",
    "evaluation.every=1024",
    "checkpoint.every=512",
    "evaluation.episodes=4",
    "evaluation.num_envs=2",
]
KILLED_AT = {"models": "train.step:17", "algorithms": "rl.round_collected:9"}
CLOSE = 1e-3  # of the largest parameter: float32 sums in another order, after 24 steps
STEP_S = 600.0  # for one command


class Missing(Exception):
    """A cell does not hold; the message says what."""


class Trial:
    """One method on its way through the cells, with a place of its own to run in.

    Args:
        entry: The method.
        root: The clone.
        scratch: An empty folder.
        ray: Starts the Ray that all share.
    """

    def __init__(self, entry: Entry, root: Path, scratch: Path, ray: Callable[[], None]) -> None:
        self.entry, self.root, self.scratch, self.ray = entry, root, scratch, ray
        self._staged = False
        self.kind = "models" if entry.name in catalogue.entries("models") else "algorithms"

    @cached_property
    def configs(self) -> list[str]:
        """Shipped configs of the method, those that need seconds first."""
        section = "model" if self.kind == "models" else "algorithm"
        found = [
            name for name, tree in _trees().items() if _name_in(tree, section) == self.entry.name
        ]
        return sorted(found, key=lambda name: (not any(word in name for word in SMALL), name))

    @property
    def small(self) -> list[str]:
        """The config that the cells train, and what makes it short."""
        if not self.configs:
            raise Missing("no shipped config names it")
        if self.kind == "models":
            self._train_stages()
        return [self.configs[0], *(MODEL if self.kind == "models" else AGENT)]

    def _train_stages(self) -> None:
        """Train the first stages that the config names by the versions of other shipped configs."""
        if self._staged:
            return
        self._staged = True
        from rayloom_pipelines import api

        named = references(load_config(config_names()[self.configs[0]]).config.model)
        for reference in named.values():
            name = reference.removeprefix("models:/").partition("@")[0]
            register = f"tracking.register_as={name}"
            api.train(name, [*MODEL, *self.places(name), register, "resources.threads=1"])

    def places(self, name: str) -> list[str]:
        """Where a run of this cell goes."""
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        return [
            f"storage={folder / 'runs'}",
            f"tracking.uri=sqlite:///{self.scratch / 'mlflow.db'}",
            f"tracking.register_as={self.entry.name}",
        ]

    def command(self, *words: str, cell: str, failpoint: str = "") -> tuple[int, str]:
        """A command in a process of its own: (exit code, what it printed)."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAYLOOM_FAILPOINT")}
        env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{self.scratch / 'mlflow.db'}"}
        if failpoint:
            env["RAYLOOM_FAILPOINT"] = failpoint
        done = subprocess.run(
            [sys.executable, "-m", "rayloom_pipelines.cli", *words],
            cwd=self.scratch / cell,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_S,
        )
        return done.returncode, done.stdout

    @cached_property
    def alone(self) -> Any:
        """The run that the others are compared with: in this process, undisturbed."""
        return _train(self, "alone", [])


@cache
def _trees() -> dict[str, Any]:
    """Every shipped config as it is written; what is wrong with one is its method's to say."""
    return {name: read(path) for name, path in config_names().items()}


def _name_in(tree: Any, section: str) -> Any:
    named = tree.get(section) if isinstance(tree, dict) else None
    return named.get("name") if isinstance(named, dict) else named


def _train(trial: Trial, cell: str, more: Sequence[str]) -> Any:
    from rayloom_pipelines import api

    config, *changes = trial.small
    run = api.train(config, [*changes, *trial.places(cell), "resources.threads=1", *more])
    if run.status != "finished":
        raise Missing(f"the run ended as {run.status}: {run.record.reason or ''}")
    return run


def config(trial: Trial) -> str:
    """Shipped configs name it, and all of them are valid."""
    if not trial.configs:
        raise Missing("no shipped config names it")
    for name in trial.configs:
        load_config(config_names()[name])
    return f"`{trial.configs[0]}`" + (f" +{len(trial.configs) - 1}" if trial.configs[1:] else "")


def page(trial: Trial) -> str:
    """Its page exists and has every section."""
    found = list((trial.root / "docs").rglob(f"{trial.entry.name}.md"))
    if not found:
        raise Missing(f"docs has no {trial.entry.name}.md")
    text = found[0].read_text()
    lacking = [part for part in SECTIONS if not re.search(rf"^## .*{part}", text, re.M)]
    if lacking:
        raise Missing(f"{found[0].name} has no section {', '.join(lacking)}")
    return found[0].relative_to(trial.root / "docs").as_posix()


RUN_LAWS = """
import sys, pytest

class Chosen:
    @pytest.hookimpl(trylast=True)  # of those that the marks leave
    def pytest_collection_modifyitems(self, config, items):
        laws = [[name for mark in item.iter_markers("law") for name in mark.args] for item in items]
        items[:] = [item for item, names in zip(items, laws) if sys.argv[1] in names]
        print(f"LAWS {len(items)}")

marks = "not learning and not gpu and not bench and not faults and not mutants"
words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marks, *sys.argv[2:]]
sys.exit(pytest.main(words, plugins=[Chosen()]))
"""


def laws(trial: Trial) -> str:
    """The tests that are marked as its laws pass."""
    name = trial.entry.name
    marked = re.compile(rf"mark\.law\([^)]*[\"']{re.escape(name)}[\"']")
    files = [p for p in (trial.root / "tests").rglob("test_*.py") if marked.search(p.read_text())]
    if not files:
        raise Missing(f'no test is marked law("{name}")')
    command = [sys.executable, "-c", RUN_LAWS, name, *map(str, files)]
    done = subprocess.run(
        command, cwd=trial.root, capture_output=True, text=True, timeout=STEP_S, check=False
    )
    count = re.search(r"LAWS (\d+)", done.stdout)
    if count is None or int(count.group(1)) == 0:
        raise Missing(f"its law tests cannot be collected: {done.stdout[-200:]}")
    if done.returncode:
        raise Missing(f"a law is broken: {done.stdout[-200:]}")
    return f"{count.group(1)} tests"


def trains(trial: Trial) -> str:
    """It trains, is scored and leaves finite figures."""
    best = trial.alone.best
    if not best:
        raise Missing("no evaluation was scored")
    return f"{best['metric']} {best['value']:.4g}"


def workers(trial: Trial) -> str:
    """Two Ray workers end where one process ends."""
    trial.ray()
    pair = _train(trial, "pair", ["resources.workers=2"])
    if pair.record.parameters_sha256 == trial.alone.record.parameters_sha256:
        return "bit-equal"
    if trial.kind == "algorithms":
        raise Missing("parameters differ in bits from those of one process")
    one, two = (run.model("last").state_dict() for run in (trial.alone, pair))
    largest = max(float(value.abs().max()) for value in one.values() if value.numel())
    apart = max(
        float((one[key].double() - two[key].double()).abs().max())
        for key in one
        if one[key].numel()
    )
    if not apart <= CLOSE * largest:
        raise Missing(f"parameters differ by {apart:.2g}, the largest is {largest:.2g}")
    return f"within {apart:.1g}"


def resume(trial: Trial) -> str:
    """Killed and resumed equals unbroken."""
    config_name, *changes = trial.small
    point = KILLED_AT[trial.kind]
    words = [config_name, *changes, *trial.places("killed"), "resources.threads=1"]
    code, said = trial.command("train", *words, cell="killed", failpoint=point)
    if code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise Missing(f"it did not reach {point}: exit code {code}: {said[-200:]}")
    folders = [path.parent for path in (trial.scratch / "killed" / "runs").glob("*/run.json")]
    code, said = trial.command("resume", str(folders[0]), cell="killed")
    if code:
        raise Missing(f"resume ended with {code}: {said[-200:]}")
    resumed = RunFolder.open(folders[0]).record
    if resumed.parameters_sha256 != trial.alone.record.parameters_sha256:
        raise Missing("parameters differ in bits from those of an unbroken run")
    return "bit-equal"


def sweep(trial: Trial) -> str:
    """A search of two trials ends with a best one."""
    from rayloom_pipelines import api

    trial.ray()
    config_name, *changes = trial.small
    search = ["seed=choice(0,1)", "sweep.trials=2", "sweep.searcher=grid", "sweep.scheduler=none"]
    done = api.sweep(config_name, [*changes, *trial.places("sweep"), *search])
    scores = [child.best["value"] for child in done.children if child.best]
    if len(scores) != 2 or done.best is None:
        raise Missing(f"{len(scores)} of 2 trials have a score")
    return "2 trials"


def registered(trial: Trial) -> str:
    """Its registered version is used in a process that knows nothing of the run."""
    if trial.alone.model_uri is None:
        raise Missing("the run registered no version")
    name = f"models:/{trial.entry.name}@champion"
    verbs = [["play", name]] if trial.kind != "models" else _uses(trial, name)
    for verb in verbs:
        ending = ".npz" if trial.kind == "models" else ".gif"
        out = trial.scratch / "alone" / f"{verb[2] if verb[0] == 'apply' else verb[0]}{ending}"
        code, said = trial.command(*verb, "--out", str(out), cell="alone")
        if code or not out.exists():
            raise Missing(f"{verb[0]} ended with {code}: {said[-200:]}")
    return ", ".join(verb[0] if verb[0] != "apply" else verb[2] for verb in verbs)


def _uses(trial: Trial, name: str) -> list[list[str]]:
    """The commands that use a model's operations, each on a few rows."""
    known = operations(catalogue.load("models", trial.entry.name)).values()
    if not known:
        raise Missing("it has no operation")
    data = trial.alone.config.data
    assert data is not None
    rows = ["--in", f"{data.eval_split}:0..3"]
    return [
        ["sample", name, "-n", "4"]
        if one.name == "sample" and not one.reads
        else ["apply", name, one.name, *(rows if one.reads else [])]
        for one in known
    ]


def result(trial: Trial) -> str:
    """A measured figure with its commit stands in `docs/results/`."""
    from rayloom_pipelines.benchmarks import results

    found = results.of_method(trial.root / "docs" / "results", trial.entry.name)
    if not found:
        raise Missing("docs/results has none")
    return results.headline(found)
