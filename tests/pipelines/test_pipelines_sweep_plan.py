"""What a sweep writes down at its end, and what it refuses before its start."""

import pytest

from rayloom.config.resolved import resolve
from rayloom.core.errors import ConfigError, UserError
from rayloom.distributed.ledger import Ledger
from rayloom.distributed.sweep import SweepResult
from rayloom.records import RunFolder
from rayloom.records.record import record_of
from rayloom_pipelines import api
from rayloom_pipelines.console import Silent
from rayloom_pipelines.groups import sweep
from rayloom_pipelines.groups.across import across, table
from rayloom_pipelines.groups.sweep_plan import ending, settle
from rayloom_pipelines.groups.trial import _best

DQN = {"algorithm": {"name": "dqn"}, "env": {"name": "CartPole-v1"}, "train": {"env_steps": 1_000}}


def test_an_interrupted_sweeps_best_does_not_stand_in_the_way_of_a_later_one(tmp_path):
    """The journal keeps the first value of a step: two different bests need two steps."""
    spec = settle(resolve(DQN, ["optimizer.lr=loguniform(1e-4,1e-2)"], search=True))
    ledger = Ledger(tmp_path, spec.mode)
    for number in range(3):  # all have started
        ledger.suggested(f"{number:04d}", {"optimizer.lr": 0.001})
    written = []
    for number, score in enumerate((10.0, 30.0, 20.0)):
        ledger.ended(f"{number:04d}", "done", {"run_id": "r", "score": score})
        end = ending(SweepResult(ledger.best(), ledger.table(), signal=2), spec)
        written.append((end["step"], end["metrics"]["sweep/best"]))
    assert written == [(1, 10.0), (2, 30.0), (3, 30.0)]


def finished(seed, best, last):
    """The record of a finished run, which holds floats that are not finite as text."""
    best = {"metric": "eval/return_mean", "value": best, "step": 1}
    told = {"run_id": f"r{seed}", "name": "a", "created": "2026-01-01", "status": "finished"}
    summary = {"metrics": {"eval/return_mean": last}, "best": best}
    return record_of(told | {"seed": seed, "summary": summary}, "run.json")


def test_a_seed_without_a_finite_score_is_never_the_best_and_is_named():
    told = [(0, "nan", "nan"), (1, 5.0, "inf"), (2, "inf", 9.0), (3, 4.0, 3.5)]
    seeds = [finished(*one) for one in told]
    report = across(seeds)
    assert report["best_run"] == "r1"
    assert report["metrics"]["seeds/best_mean"] == 4.5
    assert report["metrics"]["seeds/last_mean"] == 3.5
    lines = table(report["seeds_table"], report["metrics"])
    assert lines[-1] == "left out, without a finite score: seed 0, 2"
    none = across([finished(0, "nan", "nan")])
    assert none["best_run"] is None
    assert "checkpoint.metric names" in table(none["seeds_table"], none["metrics"])[0]


def test_a_trial_s_score_is_of_the_sweep_s_metric_and_finite(tmp_path):
    folder = RunFolder.create(tmp_path, "t", config={}, info={})
    journal = folder.journal()
    for step, value in enumerate([float("inf"), 3.0, float("nan"), 7.0, float("-inf")]):
        journal.scalars(step, {"eval/x": value, "eval/y": float("nan")})
    journal.close()
    assert [_best(folder.path, "eval/x", mode) for mode in ("min", "max")] == [3.0, 7.0]
    assert _best(folder.path, "eval/y", "max") is _best(folder.path, "eval/z", "max") is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "there is nothing to search"),
        (["optimizer.lr=uniform(0.1,0.2)", "sweep.searcher=grid"], "a grid needs choice"),
        (["algorithm.batch_size=int(1,9)", "sweep.searcher=grid", "sweep.trials=3"], "9 points"),
        (["optimizer.lr=uniform(0.1,0.2)", "sweep.metric=eval/x"], "no metric with a direction"),
    ],
)
def test_an_impossible_search_leaves_nothing_behind(overrides, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        api.sweep(DQN, overrides)
    assert not list(tmp_path.iterdir())


def test_a_sweep_whose_trials_all_failed_tells_the_first_cause(tmp_path):
    spec = settle(resolve(DQN, ["optimizer.lr=loguniform(1e-4,1e-2)"], search=True))
    ledger = Ledger(tmp_path, spec.mode)
    for trial, cause in (("0000", "KeyError: 'x' at mine.py:3 (loss)"), ("0001", "another")):
        ledger.suggested(trial, {"optimizer.lr": 0.001})
        ledger.ended(trial, "failed", {"error": cause})
    end = ending(SweepResult(ledger.best(), ledger.table()), spec)
    assert (end["exit_code"], end["reason"]) == (1, "every trial failed")
    assert end["cause"] == "every trial failed, trial 0000 by: KeyError: 'x' at mine.py:3 (loss)"
    known = ("exit_code", "reason", "step", "metrics", "best")
    folder = RunFolder.create(tmp_path, "s", config={}, info={"kind": "sweep"})
    folder.update(status="failed", **{k: v for k, v in end.items() if k not in known})
    assert RunFolder.open(folder.path).read()["failed_trials"] == end["failed_trials"] == []
    folder.update(failed_trials=["0000", "0001"])
    assert RunFolder.open(folder.path).read()["failed_trials"] == ["0000", "0001"]


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["resources.workers=1", "sweep.trials=9", "tracking.experiment=x"], []),
        (["resources={workers: 1}", "sweep={trials: 9}"], []),
        (["train.env_steps=9"], ["train.env_steps"]),
        (["sweep={trials: 9, seed: 3}", "seed=1"], ["sweep.seed", "seed"]),
        (["optimizer.lr=uniform(1,2)"], ["optimizer.lr"]),
        (["sweep.trials_=9"], ["sweep.trials_"]),
        (["env=Pendulum-v1"], ["env.name"]),
    ],
)
def test_a_resumed_sweep_changes_nothing_but_its_size_and_its_machines(
    tmp_path, monkeypatch, flags, refused
):
    """Whether a flag names a key or a whole section; what it may not is named, all of it."""
    first = resolve(DQN, ["optimizer.lr=loguniform(1e-4,1e-2)"], search=True)
    facts = {"kind": "sweep", "task": "rl", "options": {}}
    folder = RunFolder.create(tmp_path, "s", config=first.to_dict(), info=facts)
    gone_on = []
    monkeypatch.setattr(sweep, "_go_on", lambda folder, resolved, *_: gone_on.append(resolved))
    go = lambda: sweep.resume_sweep(folder.path, flags, plugins=(), observer=Silent())  # noqa: E731
    if not refused:
        go()
        assert gone_on[0].config.sweep.trials == 9
        assert gone_on[0].config.resources.workers == 1
        return
    with pytest.raises(ConfigError) as error:
        go()
    assert all(path in str(error.value) for path in refused)
    assert not gone_on
