"""What `run.json` says of each attempt on a run, through the Python API."""

import json

import pytest

import rayloom
from rayloom.core.errors import UserError

SMALL = ["train.epochs=1", "evaluation.every=1", "evaluation.metrics=[]", "train.log_every=6"]
NOBODY = ["resources.workers=2", "resources.address=127.0.0.1:1"]  # no Ray answers there


@pytest.fixture
def run(place):
    return rayloom.train("autoencoders/vae-digits", SMALL, track=False)


def text(run):
    return (run.path / "run.json").read_text()


def test_a_killed_resume_of_a_finished_run_is_not_finished(run, monkeypatch):
    """Nothing of the first attempt's end is told of the second one; both are remembered."""
    from rayloom_pipelines.run import attempt, ending

    first = run.about
    with monkeypatch.context() as patch:  # a kill: nothing is written down any more
        patch.setattr(attempt, "train", lambda folder, task: 1 / 0)
        patch.setattr(attempt, "give_up", lambda *words, **named: None)
        with pytest.raises(ZeroDivisionError):
            rayloom.resume(run, ["train.epochs=2"])
    now = run.about
    for key in ("ended", "reason", "exit_code", "parameters_sha256", "summary", "position"):
        assert key in first
        assert key not in now
    assert (run.status, run.exit_code) == ("killed", 1)
    assert run.best == first["summary"]["best"]
    assert rayloom.runs().set_index("id").loc[run.id, "status"] == "killed"
    done = rayloom.resume(run)  # without overrides: the longer length was noted
    assert (done.status, done.exit_code, done.about["position"]) == ("finished", 0, 24)
    assert [one["status"] for one in done.attempts] == ["finished", "killed", "finished"]
    assert done.attempts[0]["parameters_sha256"] == first["parameters_sha256"]
    assert done.about["parameters_sha256"] != first["parameters_sha256"]
    assert ending.now() >= done.about["ended"] >= done.about["attempt"]["began"]


def test_a_refused_or_needless_resume_changes_nothing(run, monkeypatch):
    before = text(run)
    for words in (["optimizer.lr=1e-4"], [*NOBODY, "train.epochs=3"], ["train.epochs=x"]):
        with pytest.raises(UserError):
            rayloom.resume(run, words)
        assert text(run) == before
    with run.folder.lock(), pytest.raises(UserError, match="is being written by"):
        rayloom.resume(run, ["train.epochs=3"])
    rayloom.resume(run)
    assert text(run) == before


def test_a_plugin_that_calls_sys_exit_has_failed(place, monkeypatch):
    from rayloom.core.errors import RayloomError
    from rayloom.models.autoencoders.vae import VAE

    monkeypatch.setattr(VAE, "loss", lambda self, batch, **named: exit(0))
    with pytest.raises(RayloomError, match=r"sys.exit was called .*test_pipelines_attempts.py"):
        rayloom.train("autoencoders/vae-digits", SMALL, track=False)
    run = rayloom.load("latest")
    assert (run.status, run.exit_code) == ("failed", 1)


def test_a_group_clears_its_end_too(place):
    group = rayloom.train("autoencoders/vae-digits", SMALL, seeds=2, track=False)
    first, before = group.about, text(group)
    with pytest.raises(UserError):
        rayloom.resume(group, ["optimizer.lr=1e-4"])
    assert json.loads(text(group)) == json.loads(before)
    rayloom.resume(group, ["train.epochs=2"])
    now = group.about
    assert [one["status"] for one in group.attempts] == ["finished", "finished"]
    assert now["attempts"][0]["best_run"] == first["best_run"]
    assert now["summary"]["step"] == 24
    assert all(len(child.attempts) == 2 for child in group.children)
