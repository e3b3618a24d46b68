"""Attempts on a run: one write clears what belongs to the last one and remembers it."""

import os

import pytest
from records_help import SmallDisk, run_forked

from rayloom.core.errors import UserError
from rayloom.records import RunFolder, attempts, list_runs
from rayloom.records.index import summarise

BEST = {"metric": "eval/elbo_nats", "value": -21.5, "step": 20}
ENDED = {
    "status": "finished",
    "ended": "2026-01-01T10:00:00+00:00",
    "reason": "2 epochs are done",
    "exit_code": 0,
    "position": 24,
    "progress": {"epoch": 2},
    "summary": {"step": 24, "metrics": {"eval/elbo_nats": -22.0}, "best": BEST},
    "parameters_sha256": "ab" * 32,
    "model": {"uri": "models:/a@champion", "name": "a", "version": "1"},
}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "generative/a", config={}, info={"seed": 3})


def test_a_new_attempt_clears_the_last_ones_end_and_keeps_it_as_history(folder):
    attempts.begin(folder, facts={})
    folder.update(**ENDED)
    attempts.begin(folder, facts={"command": "rayloom resume a"}, config_now={"b": 1})
    about = folder.read()
    assert not set(attempts.RESULTS) & set(about)
    assert (about["status"], about["seed"], about["config_now"]) == ("running", 3, {"b": 1})
    assert (about["attempt"]["number"], about["attempt"]["pid"]) == (2, os.getpid())
    (past,) = about["attempts"]
    for key in ("status", "ended", "reason", "exit_code", "position", "parameters_sha256", "model"):
        assert past[key] == ENDED[key]
    assert past["best"] == BEST
    assert past["number"] == 1
    found = summarise(folder.path)
    assert (found.status, found.best) == ("killed", BEST)  # nobody holds its lock


def test_several_kills_are_each_remembered_and_the_list_has_an_end(folder):
    for _ in range(attempts.MOST + 3):
        attempts.begin(folder, facts={})
    about = folder.read()
    numbers = [one["number"] for one in about["attempts"]]
    assert {one["status"] for one in about["attempts"]} == {"killed"}
    assert all(one["last_written"] >= one["began"] for one in about["attempts"])
    assert about["attempt"]["number"] == attempts.MOST + 3
    assert (len(numbers), numbers[0], numbers[-1]) == (attempts.MOST, 1, attempts.MOST + 2)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_an_attempt_begins_leaves_one_or_the_other(folder, moment):
    attempts.begin(folder, facts={})
    folder.update(**ENDED)

    def killed():
        real = os.replace

        def replace(*paths):
            if moment == "after":
                real(*paths)
            os.kill(os.getpid(), 9)

        os.replace = replace
        attempts.begin(folder, facts={})

    assert run_forked(killed) == -9
    about = RunFolder.open(folder.path).read()
    if moment == "before":
        assert {key: about[key] for key in ENDED} == ENDED
    else:
        assert not set(attempts.RESULTS) & set(about)
        assert about["attempts"][0]["parameters_sha256"] == ENDED["parameters_sha256"]


def test_a_refused_resume_changes_nothing_and_one_that_wrote_is_kept(folder):
    first = attempts.begin(folder, facts={})
    assert not attempts.withdraw(folder, first)  # a first attempt has nothing to go back to
    folder.update(**ENDED)
    before = (folder.path / "run.json").read_bytes()
    assert attempts.withdraw(folder, attempts.begin(folder, facts={}))
    assert (folder.path / "run.json").read_bytes() == before
    mark = attempts.begin(folder, facts={})
    folder.journal().scalars(25, {"loss/total": 1.0})
    assert not attempts.withdraw(folder, mark)
    assert folder.read()["status"] == "running"


def test_a_full_disk_refuses_the_attempt_and_the_old_end_stands(tmp_path):
    with SmallDisk(tmp_path / "disk", "256k") as disk:
        folder = RunFolder.create(disk.folder, "a", config={}, info={})
        attempts.begin(folder, facts={})
        folder.update(**ENDED)
        disk.fill()
        with pytest.raises(UserError, match=r"cannot write .*run\.json: No space left"):
            attempts.begin(folder, facts={"long": "x" * 20_000})
        assert {key: folder.read()[key] for key in ENDED} == ENDED
        assert [run.status for run in list_runs(disk.folder)] == ["finished"]


@pytest.mark.parametrize("made_by", [{}, {"attempt": "x", "attempts": {"a": 1}}, {"attempts": [3]}])
def test_run_folders_without_attempts_or_with_odd_ones_go_on(folder, made_by):
    """What an older version wrote, or somebody edited."""
    folder.update(**ENDED, **made_by)
    attempts.begin(folder, facts={})
    about = folder.read()
    assert [one["status"] for one in about["attempts"]] == ["finished"]
    assert about["attempts"][0]["began"] == about["created"]
    assert about["attempt"]["number"] == 2


@pytest.mark.parametrize(
    ("boot", "count", "words"),
    [("a", 5, "killed 2 for lack of memory"), ("a", 3, "not by this machine's kernel")],
)
def test_a_kill_for_lack_of_memory_is_told_from_another(folder, monkeypatch, boot, count, words):
    told = {"boot": "a", "count": 3}
    monkeypatch.setattr(attempts, "memory_kills", lambda: told)
    attempts.begin(folder, facts={})
    told = {"boot": boot, "count": count}
    assert words in attempts.why_killed(folder.record)
    attempts.begin(folder, facts={})
    assert words in folder.read()["attempts"][0]["cause"]
    told = {"boot": "another machine, or it was started anew", "count": 9}
    assert "or too little memory" in attempts.why_killed(folder.record)


def test_a_run_that_was_killed_before_its_first_attempt_is_killed(folder):
    """Between the folder and the lock lies a moment; a minute later nobody comes any more."""
    assert summarise(folder.path).status == "created"
    folder.update(created="2026-01-01T10:00:00+00:00")
    assert summarise(folder.path).status == "killed"
    with folder.lock():
        assert summarise(folder.path).status == "created"
    attempts.begin(folder, facts={})
    assert folder.read()["attempt"]["number"] == 1
    assert "attempts" not in folder.read()
