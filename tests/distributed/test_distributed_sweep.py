"""Sweeps on Tune: searchers, ASHA, ledger, resume, failures."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.config.sections import ResourcesConfig
from rayloom.config.spaces import Space
from rayloom.core.errors import UserError
from rayloom.distributed.cluster import Cluster
from rayloom.distributed.ledger import Ledger
from rayloom.distributed.searchers import make_proposer
from rayloom.distributed.sweep import SweepSpec, concurrency, demand_of, proposer_of, run_sweep

HERE = Path(__file__).parent
SPACES = {
    "x": Space("uniform", 0.0, 6.0),
    "lr": Space("loguniform", 1e-5, 1e-2),
    "n": Space("int", 1, 4),
    "c": Space("choice", values=("a", [1, 2], None)),
}


def spec(**changes):
    settings = {"spaces": {"x": SPACES["x"]}, "metric": "eval/loss", "mode": "min"}
    return SweepSpec(**{**settings, "searcher": "random", "trials": 4, "evaluations": 4, **changes})


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_proposals_lie_in_their_spaces_and_follow_the_seed(searcher):
    def proposals(seed):
        proposer = make_proposer(searcher, SPACES, mode="min", seed=seed)
        found = []
        for number in range(12):
            values = proposer.propose(number)
            proposer.tell(f"{number:04d}", (values["x"] - 3) ** 2)
            found.append(values)
        return found

    first = proposals(0)
    assert first == proposals(0)
    assert first != proposals(1)
    for values in first:
        assert 0 <= values["x"] <= 6
        assert 1e-5 <= values["lr"] <= 1e-2
        assert values["n"] in (1, 2, 3, 4)
        assert values["c"] in ("a", [1, 2], None)


def test_a_told_searcher_goes_on_as_the_unbroken_one(tmp_path):
    """Optuna after a restart proposes what it would have proposed."""
    whole = make_proposer("optuna", SPACES, mode="min", seed=3)
    ledger = Ledger(tmp_path, "min")
    for number in range(8):
        values = whole.propose(number)
        ledger.suggested(f"{number:04d}", values)
        score = (values["x"] - 3) ** 2
        whole.tell(f"{number:04d}", score)
        ledger.ended(f"{number:04d}", "done", {"score": score})
    ledger.close()
    again = make_proposer("optuna", SPACES, mode="min", seed=3)
    for record in Ledger(tmp_path, "min").trials.values():
        again.repeat(record)
    assert again.propose(8) == whole.propose(8)


def test_a_grid_is_every_combination_once():
    spaces = {"n": SPACES["n"], "c": SPACES["c"]}
    grid = make_proposer("grid", spaces, mode="min", seed=0)
    points = [json.dumps(grid.propose(number)) for number in range(12)]
    assert len(set(points)) == 12
    assert grid.propose(12) is None
    with pytest.raises(UserError, match=r"x: a grid needs choice"):
        make_proposer("grid", SPACES, mode="min", seed=0)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_trial_without_a_finite_score_is_never_the_best(tmp_path, mode):
    ledger = Ledger(tmp_path, mode)
    bad = [float("nan"), float("inf"), float("-inf")]
    for number, score in enumerate([*bad, -3.0, *bad]):
        trial = f"{number:04d}"
        ledger.suggested(trial, {"x": 1.0})
        ledger.result(trial, step=1, score=score, metrics={})
        ledger.ended(trial, "done", {})
    ledger.suggested("0007", {"x": 1.0})  # its best evaluation is fine, its final word is not
    ledger.result("0007", step=1, score=-3.0, metrics={})
    ledger.ended("0007", "done", {"score": float("nan")})
    assert ledger.best().trial == "0003"
    ledger.close()
    assert Ledger(tmp_path, mode).best().trial == "0003"


def test_a_ledger_survives_a_torn_line_and_refuses_a_corrupt_one(tmp_path):
    ledger = Ledger(tmp_path, "max")
    ledger.suggested("0000", {"x": 1.0})
    ledger.result("0000", step=10, score=2.5, metrics={"m": 2.5})
    ledger.close()
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "ended", "trial": "00')
    again = Ledger(tmp_path, "max")
    assert again.trials["0000"].status == "running"
    assert again.result("0000", step=10, score=9.9, metrics={}) == 1  # known: the first wins
    assert again.trials["0000"].results == [(10, 2.5)]
    again.close()
    assert path.read_bytes() == whole
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(UserError, match=r"ledger\.jsonl:1"):
        Ledger(tmp_path, "max")


@pytest.mark.parametrize(
    "line",
    [
        "5",
        '{"type": "suggested"}',
        '{"type": "suggested", "trial": "../1", "values": {}}',
        '{"type": "suggested", "trial": "0001", "values": 5}',
        '{"type": "result", "trial": "0009", "step": 1, "score": 1.0, "metrics": {}}',
        '{"type": "result", "trial": "0000", "step": -1, "score": 1.0, "metrics": {}}',
        '{"type": "result", "trial": "0000", "step": true, "score": 1.0, "metrics": {}}',
        '{"type": "result", "trial": "0000", "step": 1, "score": 1%s, "metrics": {}}' % ("0" * 400),
        '{"type": "ended", "trial": "0000", "status": "done", "score": 1.0}',
        '{"type": "ended", "trial": "0000", "status": "done", "score": 1.0, "outcome": '
        '{"run_id": "../../elsewhere"}}',
        '{"type": "shell", "trial": "0000"}',
    ],
)
def test_a_stranger_s_ledger_is_read_as_data(tmp_path, line):
    ledger = Ledger(tmp_path, "max")
    ledger.suggested("0000", {"x": 1.0})
    ledger.close()
    with open(tmp_path / "ledger.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"ledger\.jsonl:2: not a line of a sweep's ledger"):
        Ledger(tmp_path, "max")


def test_a_linked_ledger_is_not_written(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "ledger.jsonl").symlink_to(outside)
    with pytest.raises(UserError, match="is a link, which is not followed"):
        Ledger(tmp_path / "sweep", "max")
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    ("workers", "cpus_per_worker", "trainable", "expected"),
    [(0, 1, "engine", 8), (0, 3, "rollouts", 2), (2, 1, "engine", 4), (2, 2, "rollouts", 2)],
)
def test_concurrency_is_computed(workers, cpus_per_worker, trainable, expected):
    cluster = Cluster("", "", True, cpus=8, gpus=0, node_cpus=(8,))
    demand = demand_of(ResourcesConfig(workers=workers, cpus_per_worker=cpus_per_worker), trainable)
    assert concurrency(cluster, demand) == expected
    assert concurrency(cluster, demand, cap=1) == 1
    with pytest.raises(UserError, match="one trial needs"):
        concurrency(cluster, demand_of(ResourcesConfig(workers=9), trainable))


def test_a_sweep_finds_the_best_and_one_failing_or_dying_trial_does_not_end_it(
    ray_cluster, tmp_path
):
    grid = {"x": Space("choice", values=(0.0, 2.5, 5.0, 6.0))}
    payload = {"folder": str(tmp_path / "t"), "evaluations": 3, "bad": 5.0, "die": "0000"}
    events, said = [], []
    result = run_sweep(
        spec(spaces=grid, searcher="grid"),
        "toy_entries:bowl",
        payload,
        folder=tmp_path,
        on_event=events.append,
        say=said.append,
    )
    assert said == [
        "trial 0000 died: its process was killed, or ran out of memory; it goes on from its newest"
        " checkpoint (restart 1 of 2)"
    ]
    assert result.best.trial == "0001"
    assert result.best.score == 0.25
    assert result.failed == ["0002"]
    status = {row["trial"]: row["status"] for row in result.trials}
    assert status == {"0000": "done", "0001": "done", "0002": "failed", "0003": "done"}
    assert (tmp_path / "t/0000/starts.txt").read_text() == "0\n1\n"  # died, and went on
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["x"] for row in rows] == ["0.0", "2.5", "5.0", "6.0"]
    assert rows[2]["error"] == "x: too bad"
    kinds = {event["event"] for event in events}
    assert kinds == {"trial_started", "trial_result", "trial_ended"}


def test_tune_prints_nothing(ray_cluster, tmp_path, capfd):
    """Nor for a trial that ends without a result, for which Tune's verbosity does not count."""
    payload = {"folder": str(tmp_path / "t"), "evaluations": 0}
    result = run_sweep(spec(trials=2), "toy_entries:bowl", payload, folder=tmp_path)
    assert [row["status"] for row in result.trials] == ["done", "done"]
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""


def test_a_metric_that_no_evaluation_gives_is_named(ray_cluster, tmp_path):
    payload = {"folder": str(tmp_path / "t"), "evaluations": 2}
    wrong = spec(metric="eval/nll_nats", trials=1)
    result = run_sweep(wrong, "toy_entries:bowl", payload, folder=tmp_path)
    assert result.best is None
    assert result.failed == ["0000"]
    words = "sweep.metric: no evaluation gives 'eval/nll_nats'; there are eval/loss"
    assert result.trials[0]["error"] == words


def test_an_impossible_search_is_refused_before_anything_starts():
    with pytest.raises(UserError, match="a grid needs choice"):
        proposer_of(spec(searcher="grid"))
    points = {"n": SPACES["n"]}
    with pytest.raises(UserError, match=r"4 points .* sweep.trials=4 to try them all"):
        proposer_of(spec(spaces=points, searcher="grid", trials=3))
    assert len(proposer_of(spec(spaces=points, searcher="grid", trials=4))) == 4


def test_asha_stops_bad_trials_and_writes_down_why(ray_cluster, tmp_path):
    values = tuple(3.0 + 0.5 * k for k in range(6))  # best first: later ones are cut
    asha = spec(
        spaces={"x": Space("choice", values=values)},
        searcher="grid",
        trials=6,
        scheduler="asha",
        grace=1,
        reduction=2,
        max_concurrent=1,
    )
    payload = {"folder": str(tmp_path / "t"), "evaluations": 4}
    result = run_sweep(asha, "toy_entries:bowl", payload, folder=tmp_path)
    rows = result.trials
    assert rows[0]["status"] == "done"
    assert rows[0]["evaluations"] == 4
    assert [row["status"] for row in rows[1:]] == ["stopped"] * 5
    assert all(row["evaluations"] == 1 for row in rows[1:])
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").open()]
    decided = [line["trial"] for line in lines if line["type"] == "decision"]
    assert decided == ["0001", "0002", "0003", "0004", "0005"]


SCRIPT = """
import sys
from rayloom.config.spaces import Space
from rayloom.distributed.sweep import SweepSpec, run_sweep
spec = SweepSpec({"x": Space("uniform", 0.0, 6.0)}, "eval/loss", "min", trials=3,
                 searcher="random", evaluations=6, max_concurrent=1)
def show(event):
    print(event["event"], event["trial"], event["row"]["evaluations"], flush=True)
out = run_sweep(spec, "toy_entries:bowl", {"folder": sys.argv[1] + "/t", "evaluations": 6,
                "sleep": float(sys.argv[2])}, folder=sys.argv[1], on_event=show)
print("OUT", out.signal, len(out.trials), [row["status"] for row in out.trials], flush=True)
"""


def start(folder, sleep):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(sleep)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_goes_on_from_its_ledger(tmp_path, number, ray_cluster):
    process = start(tmp_path, 0.15)
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("trial_result 0001 2"):
            process.send_signal(number)
    process.wait(timeout=60)
    if number == signal.SIGINT:
        assert lines[-1].startswith("OUT 2"), lines
        assert not [line for line in lines[:-1] if not line.startswith("trial_")], "Ray noise"
    before = (tmp_path / "ledger.jsonl").read_text()
    result = run_sweep(
        spec(trials=3, evaluations=6),
        "toy_entries:bowl",
        {"folder": str(tmp_path / "t"), "evaluations": 6},
        folder=tmp_path,
    )
    after = (tmp_path / "ledger.jsonl").read_text()
    assert after.startswith(before[: before.rfind("\n") + 1])  # only appended to
    assert [row["status"] for row in result.trials] == ["done"] * 3
    assert all(row["evaluations"] == 6 for row in result.trials)
    assert (tmp_path / "t/0000/starts.txt").read_text() == "0\n"  # done before: not run again
    assert len((tmp_path / "t/0001/starts.txt").read_text().split()) == 2
    whole = make_proposer("random", {"x": SPACES["x"]}, mode="min", seed=0)
    assert [row["x"] for row in result.trials] == [whole.propose(k)["x"] for k in range(3)]
