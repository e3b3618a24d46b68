"""The command line and the Python API may grow, not shrink. A removal needs a migration note."""

import importlib
import inspect

import pytest

import rayloom
from rayloom_pipelines.cli import VERBS, main

API = {
    "ConfigError": None,
    "Run": None,
    "Sweep": None,
    "UserError": None,
    "fit": None,
    "load": ["ref", "storage"],
    "load_config": ["source", "overrides"],
    "load_plugins": ["specs"],
    "resume": ["ref", "overrides", "plugins", "observer"],
    "runs": ["storage", "smoke"],
    "sweep": ["config", "overrides", "seeds", "smoke", "track", "observer"],
    "train": [
        *("config", "overrides", "model", "env", "seeds", "init", "smoke"),
        *("overfit_batch", "profile", "track", "name", "observer"),
    ],
}
RUN = {
    "about": None,
    "best": None,
    "best_run": None,
    "children": None,
    "config": None,
    "evaluate": ["episodes", "seed", "which", "split"],
    "exit_code": None,
    "history": ["keys"],
    "id": None,
    "metrics": None,
    "model": ["which"],
    "model_uri": None,
    "path": None,
    "pictures": [],
    "play": ["out", "episodes", "seed", "which"],
    "policy": ["which"],
    "apply": ["name", "data", "settings", "given", "num", "seed", "which", "batch_size"],
    "predict": ["data", "which"],
    "sample": ["num", "seed", "which", "settings", "given", "batch_size"],
    "show": ["key"],
    "status": None,
}
COMMANDS = {
    "list": ["--json", "--verbose"],
    "new model": ["--from", "--to"],
    "new algorithm": ["--from", "--to"],
    "new env": ["--from", "--to"],
    "train": [
        *("--workers", "--seeds", "--address", "--init", "--smoke"),
        *("--overfit-batch", "--profile", "--json"),
    ],
    "resume": ["--json"],
    "sweep": ["--workers", "--seeds", "--address", "--smoke", "--json"],
    "submit": ["--address", "--follow", "--shared-paths"],
    "jobs list": ["--address", "--json"],
    "jobs status": ["--address", "--json"],
    "jobs logs": ["--address", "--follow"],
    "jobs stop": ["--address", "--json"],
    "runs list": ["--storage", "--all", "--json"],
    "runs show": ["--storage", "--json"],
    "runs compare": ["--storage", "--json"],
    "runs export": ["--storage", "--out", "--checkpoints"],
    "runs sync": ["--storage"],
    "runs gc": ["--storage", "--keep-last", "--keep-best", "--yes"],
    "runs rm": ["--storage", "--yes"],
    "evaluate": ["--checkpoint", "--episodes", "--seed", "--split", "--json"],
    "sample": [
        *("--checkpoint", "--num", "-n", "--out", "--seed", "--workers", "--given", "--batch-size"),
    ],
    "apply": ["--checkpoint", "--in", "--out", "--seed", "--workers", "--given", "--batch-size"],
    "play": ["--checkpoint", "--episodes", "--out", "--seed"],
    "config show": ["--why", "--json"],
    "config schema": [],
    "config diff": ["--json"],
    "data prepare": ["--root", "--source", "--force"],
    "data import": [
        *("--root", "--size", "--columns", "--vector", "--keys", "--kind", "--layout"),
        *("--test-fraction", "--force"),
    ],
    "data show": ["--root", "--json"],
    "data export": ["--root", "--out", "--force"],
    "ui": ["--port", "--uri"],
    "doctor": ["--address", "--storage", "--json"],
    "bench": ["--all", "--json"],
}


@pytest.mark.parametrize("name", sorted(API))
def test_api_names_stay(name):
    value = getattr(rayloom, name)
    if API[name]:
        have = list(inspect.signature(value).parameters)
        assert set(API[name]) <= set(have)
    assert name in dir(rayloom)
    assert name in rayloom.__all__


@pytest.mark.parametrize("name", sorted(RUN))
def test_run_names_stay(name):
    if name == "path":
        assert "path" in inspect.get_annotations(rayloom.Run) or hasattr(rayloom.Run, "__init__")
        return
    value = getattr(rayloom.Run, name)
    if RUN[name] is not None:
        assert set(RUN[name]) <= set(inspect.signature(value).parameters)


def test_the_stub_says_what_the_package_hands_on():
    from pathlib import Path

    package = Path(rayloom.__file__)
    stub = package.with_suffix(".pyi").read_text()
    for name in rayloom.__all__:
        assert name in stub


def test_verbs_stay():
    assert {command.split()[0] for command in COMMANDS} == set(VERBS)
    for verb in VERBS.values():
        assert callable(importlib.import_module(f"rayloom_pipelines.cli.{verb.module}").run)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_stay(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in [*COMMANDS[command], "--plugin"]:
        assert option in shown, f"rayloom {command} lost {option}"


@pytest.mark.parametrize("command", ["new", "jobs", "runs", "config", "data"])
def test_actions_are_listed(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for name in (c.split()[1] for c in COMMANDS if c.startswith(f"{command} ")):
        assert name in shown


def test_main_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert f"  {verb} " in shown
