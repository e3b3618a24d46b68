"""What `rayloom new` writes runs: its tests pass, and it trains by the printed command."""

import os
import subprocess
import sys

import pytest

from rayloom_pipelines.cli import main

CASES = [
    ("model", "my-mixture", None),
    ("model", "my-vae", "vae"),
    ("model", "my-beta-vae", "beta-vae"),
    ("algorithm", "my-pg", None),
    ("algorithm", "my-dqn", "dqn"),
    ("env", "my-corridor", None),
    ("env", "my-grid", "rayloom/GridWorld-v0"),
]


@pytest.mark.timeout(280)
def test_what_new_writes_passes_its_own_tests(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind, name, source in CASES:
        assert main(["new", kind, name, *(["--from", source] if source else [])]) == 0
    said = capsys.readouterr().out
    assert "rayloom train my_vae.yaml --plugin my_vae.py" in said
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_copied_environment_keeps_its_time_limit(tmp_path, monkeypatch):
    """Without one, an agent that stands still would never end an evaluation."""
    from rayloom.catalogue.plugins import load_plugins
    from rayloom.config.sections import EnvConfig
    from rayloom.rl.envs.making import make_env

    monkeypatch.chdir(tmp_path)
    assert main(["new", "env", "my-limited", "--from", "rayloom/GridWorld-v0"]) == 0
    load_plugins(["my_limited.py"])
    assert make_env(EnvConfig(name="my-limited")).spec.max_episode_steps == 100


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "model", "mine"]) == 0
    written = (tmp_path / "mine.py").read_text()
    assert main(["new", "model", "mine"]) == 2
    assert "there already" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == written


@pytest.mark.parametrize("name", ["null", "true", "False", "none"])
def test_a_word_of_yaml_or_python_is_no_name(name, tmp_path, capsys):
    assert main(["new", "model", name, "--to", str(tmp_path)]) == 2
    assert f"'{name}' is a word of YAML or Python" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_it_is_formatted(tmp_path):
    for kind, name, source in CASES:
        words = [kind, name, "--to", str(tmp_path), *(["--from", source] if source else [])]
        assert main(["new", *words]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
