"""A user's mistake is answered by a message with the nearest name, exit code 2, no traceback."""

import os
import subprocess
import sys
import threading

import pytest

from rayloom_pipelines.cli import main

MISTAKES = [
    (["trian"], "did you mean 'train'"),
    (["runs", "lst"], "did you mean 'list'"),
    (["list", "modles"], "did you mean 'models'"),
    (["train"], "CONFIG"),
    (["train", "autoencoders/vae-digts"], "autoencoders/vae-digits"),
    (["train", "vae-digitz"], "autoencoders/vae-digits"),
    (["train", "nowhere.yaml"], "nowhere.yaml"),
    (["train", "autoencoders/vae-digits", "--wrokers", "2"], "did you mean '--workers'"),
    (["train", "autoencoders/vae-digits", "--work", "2"], "--work"),
    (["train", "autoencoders/vae-digits", "model.latent_dimm=3"], "latent_dim"),
    (["train", "autoencoders/vae-digits", "data=digit"], "digits"),
    (["train", "autoencoders/vae-digits", "optimizer.lr=loguniform(1e-5,1e-2)"], "rayloom sweep"),
    (["train", "autoencoders/vae-digits", "--seeds", "0"], "at least 1"),
    (["train", "autoencoders/vae-digits", "--seeds", "two"], "two"),
    (["train", "autoencoders/vae-digits", "--init", "nothing"], "nothing"),
    (["train", "rl/dqn-cartpole", "--overfit-batch"], "this is an agent"),
    (["train", "rl/dqn-cartpole", "env=CartPole-v9"], "CartPole"),
    (["train", "rl/dqn-cartpole", "env=os:CartPole-v1"], "os:CartPole-v1"),
    (["sweep", "autoencoders/vae-digits"], "nothing to search"),
    (["resume", "nothing"], "nothing"),
    (["runs", "show", "nothing"], "nothing"),
    (["sample", "nothing", "--out", "x.jpg"], ".png"),
    (["play", "nothing", "--out", "x.mp4"], "nothing"),
    (["evaluate", "nothing", "--checkpoint", "bets"], "nothing"),
    (["config", "show", "autoencoders/vae-digits", "--why", "model.latent"], "latent_dim"),
    (["config", "diff", "autoencoders/vae-digits", "nothing"], "nothing"),
    (["data", "show", "digit"], "digits"),
    (["data", "prepare", "digit"], "digits"),
    (["bench", "engin"], "did you mean 'engine'"),
    (["submit", "--", "trian"], "did you mean 'train'"),
    (["submit"], "train, sweep, resume"),
    (["new", "modle", "x"], "did you mean 'model'"),
    (["new", "model", "vae"], "already"),
    (["new", "model", "a b"], "letters"),
    (["ui", "--port", "70000"], "65535"),
    (["--plugin"], "--plugin needs"),
    (["list", "--plugin", "nowhere.py"], "no such file"),
    (["train", "autoencoders/vae-digits", "--plugin", "json"], "CATALOGUE"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_a_mistake_is_a_message(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main(words)
    shown = capsys.readouterr()
    assert code == 2, shown.out + shown.err
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.err.startswith("rayloom: ")
    assert not (tmp_path / "runs").exists(), "a mistake left a run folder behind"


def test_a_failure_is_one_paragraph(monkeypatch, capsys, tmp_path):
    from rayloom_pipelines.cli import listing

    def broken(argv):
        raise RuntimeError("a part\nis broken")

    monkeypatch.setattr(listing, "run", broken)
    assert main(["list"]) == 1
    shown = capsys.readouterr().err
    assert "RuntimeError: a part is broken" in shown
    assert len(shown.strip().splitlines()) == 1


def test_ctrl_c_before_training_is_130(monkeypatch, capsys):
    from rayloom_pipelines.cli import listing

    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "run", interrupted)
    assert main(["list"]) == 130


def test_an_interrupted_command_waits_for_its_threads(monkeypatch, capsys):
    """One in the middle of an import would print a traceback at the interpreter's end."""
    from rayloom_pipelines.cli import listing

    go_on, ended = threading.Event(), threading.Event()

    def work():
        go_on.wait(20)
        ended.set()

    def interrupted(argv):
        threading.Thread(target=work, name="rayloom-test", daemon=True).start()
        threading.Timer(0.3, go_on.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "run", interrupted)
    assert main(["list"]) == 130
    assert ended.is_set()


def test_a_closed_pipe_is_no_failure():
    command = f"{sys.executable} -m rayloom_pipelines.cli list | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == "models:\n"


def test_a_config_without_a_plugin_names_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("model: {name: own}\ndata: {name: digits}\n")
    assert main(["train", "own.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "own.yaml:1" in shown
    assert "model" in shown
