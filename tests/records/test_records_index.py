"""Finding, comparing, exporting and clearing runs."""

import csv
import json
import zipfile

import pytest
import torch

from rayloom.core.errors import RunLockedError, UserError
from rayloom.records import (
    RunFolder,
    collect,
    compare,
    export_run,
    find_waste,
    history,
    list_runs,
    remove_run,
    resolve_run,
)
from rayloom.records.checkpoints import Checkpoints


def make(storage, name="a", *, config=None, points=5, status="finished", **info):
    folder = RunFolder.create(storage, name, config=config or {"lr": 0.1}, info=info)
    journal = folder.journal()
    for step in range(points):
        journal.scalars(step, {"loss/total": 1.0 / (step + 1), "time/x": step})
    journal.close()
    if status == "finished":
        folder.update(status=status, summary={"step": points, "metrics": {"loss/total": 0.25}})
    else:
        folder.update(status=status)
    return folder


def test_runs_of_one_second_keep_their_order(tmp_path):
    made = [make(tmp_path, points=1).run_id for _ in range(12)]
    assert [summary.run_id for summary in list_runs(tmp_path)] == made
    assert resolve_run("latest", tmp_path).name == made[-1]


def test_the_list_is_by_age_and_says_how_each_one_stands(tmp_path):
    done, killed, live, smoke = (
        make(tmp_path, "done", seed=4),
        make(tmp_path, "killed", status="running"),
        make(tmp_path, "live", status="running"),
        make(tmp_path, "smoke", smoke=True),
    )
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{")
    (tmp_path / "file").write_text("")
    with live.lock():
        found = {s.run_id: s for s in list_runs(tmp_path)}
    assert set(found) == {done.run_id, killed.run_id, live.run_id}
    assert found[done.run_id].status == "finished"
    assert found[done.run_id].step == 5
    assert found[done.run_id].metrics == {"loss/total": 0.25}
    assert found[done.run_id].seed == 4
    assert found[killed.run_id].status == "killed"
    assert found[killed.run_id].step == 4, "read from the journal's tail"
    assert found[killed.run_id].metrics["loss/total"] == 0.2
    assert found[live.run_id].status == "running"
    assert smoke.run_id in {s.run_id for s in list_runs(tmp_path, smoke=True)}
    assert list_runs(tmp_path / "none") == []


DAMAGED = {
    "empty": b"",
    "zeros": bytes(200),
    "torn": b'{"schema_version":1,"run_id":"a","na',
    "another-type": b"[1]",
    "without-head": b"{}",
    "wrong-types": b'{"run_id":"a","name":null,"created":7,"status":5}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_run_is_left_out_and_named_and_stops_no_command(tmp_path, damage):
    good, bad = make(tmp_path, "good"), make(tmp_path, "bad")
    (bad.path / "run.json").write_bytes(DAMAGED[damage])
    heard = []
    assert [s.run_id for s in list_runs(tmp_path, say=heard.append)] == [good.run_id]
    assert len(heard) == 1
    assert bad.run_id in heard[0]
    assert resolve_run("latest", tmp_path) == good.path
    assert find_waste(tmp_path) == []
    with pytest.raises(UserError):
        RunFolder.open(bad.path)
    with pytest.raises(UserError):
        compare([good.path, bad.path])


@pytest.mark.parametrize(
    "summary",
    [7, {"step": "x"}, {"step": 1, "metrics": [1]}, {"step": 1, "metrics": {"a": [1]}}],
)
def test_a_summary_that_makes_no_sense_is_read_from_the_journal(tmp_path, summary):
    folder = make(tmp_path)
    folder.update(summary=summary)
    (found,) = list_runs(tmp_path)
    assert (found.step, found.metrics["loss/total"], found.best) == (4, 0.2, None)


def test_a_run_is_found_by_what_people_type(tmp_path, monkeypatch):
    first = make(tmp_path, "vae")
    second = make(tmp_path, "dqn")
    make(tmp_path, "smoke", smoke=True)
    child = make(tmp_path, "vae", parent=second.run_id)
    assert resolve_run(first.run_id, tmp_path) == first.path
    assert resolve_run("dqn", tmp_path) == second.path
    assert resolve_run(first.path, tmp_path / "elsewhere") == first.path
    assert resolve_run("latest", tmp_path) in (first.path, second.path)
    monkeypatch.chdir(tmp_path)
    assert resolve_run(f"./{first.run_id}", tmp_path) == first.path
    with pytest.raises(UserError, match="fits 2 runs") as error:
        resolve_run("vae", tmp_path)
    assert first.run_id in str(error.value)
    assert child.run_id in str(error.value)
    with pytest.raises(UserError, match=f"did you mean '{first.run_id[:-1]}"):
        resolve_run("x" + first.run_id[1:], tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        resolve_run("/nowhere/at/all", tmp_path)
    with pytest.raises(UserError, match="no runs"):
        resolve_run("latest", tmp_path / "none")


def test_latest_is_the_newest(tmp_path):
    import os

    folders = []
    for day in ("20260101-000000", "20260301-000000", "20260201-000000"):
        folder = make(tmp_path, "a")
        target = tmp_path / f"a-{day}-xxxxx"
        os.rename(folder.path, target)
        folders.append(target)
    assert resolve_run("latest", tmp_path) == folders[1]


def test_comparison_shows_what_differs(tmp_path):
    one = make(tmp_path, config={"lr": 0.1, "model": {"name": "vae", "k": 1}})
    two = make(tmp_path, config={"lr": 0.2, "model": {"name": "vae"}}, points=3)
    found = compare([one.path, two.path])
    assert found.differences == {"lr": ["0.1", "0.2"], "model.k": ["1", None]}
    assert found.metrics == {"loss/total": [(0.2, 0.2, 4), (1 / 3, 1 / 3, 2)]}
    journal = two.journal()
    journal.scalars(9, {"loss/total": 7.0, "eval/return_mean": 1.0})
    journal.scalars(10, {"eval/return_mean": -1.0})
    journal.close()
    found = compare([one.path, two.path])
    assert found.metrics["loss/total"][1] == (7.0, 1 / 3, 2)
    assert found.metrics["eval/return_mean"] == [None, (-1.0, 1.0, 9)]
    with pytest.raises(UserError):
        compare([tmp_path])


@pytest.fixture
def with_checkpoints(tmp_path):
    folder = make(tmp_path / "runs")
    store = folder.checkpoints()
    for step, score in {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.2}.items():
        store.save(step, {"x": torch.full((500,), step)}, metrics={}, score=score)
    return folder


def test_best_in_a_comparison_is_finite():
    from rayloom.records.index import _ends

    values = [float("-inf"), 2.0, float("inf"), 1.0, float("nan")]
    assert _ends(range(5), values, "max")[1:] == (2.0, 1)
    assert _ends(range(5), values, "min")[1:] == (1.0, 3)
    assert _ends([7], [float("inf")], "max") == (float("inf"), float("inf"), 7)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_exported_run_is_a_run(tmp_path, with_checkpoints, kind):
    target = export_run(with_checkpoints.path, tmp_path / "out", kind)
    if kind == "zip":
        zipfile.ZipFile(target).extractall(tmp_path / "unpacked")
        target = tmp_path / "unpacked" / with_checkpoints.run_id
    copy = RunFolder.open(target)
    assert copy.read()["run_id"] == with_checkpoints.run_id
    assert copy.checkpoints().latest().step == 2, "the best one goes along"
    assert copy.checkpoints().load(2)["x"][0] == 2
    assert history(target)["loss/total"][1].tolist() == [1 / (s + 1) for s in range(5)]
    assert not (target / "lock.json").exists()
    with pytest.raises(UserError, match="exists"):
        export_run(with_checkpoints.path, tmp_path / "out", kind)


def test_curves_as_csv_and_json(tmp_path, with_checkpoints):
    path = with_checkpoints.path
    with open(export_run(path, tmp_path / "c.csv", "csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["value"]) for r in rows if r["key"] == "loss/total"] == [
        1 / (s + 1) for s in range(5)
    ]
    tree = json.loads(export_run(path, tmp_path / "c.json", "json").read_text())
    assert tree["metrics"]["loss/total"]["step"] == [0, 1, 2, 3, 4]
    assert tree["run"]["run_id"] == path.name


def test_gc_shows_first_and_never_takes_the_newest_or_the_best(tmp_path, with_checkpoints):
    storage = with_checkpoints.path.parent
    orphan = storage / ".making-old"
    orphan.mkdir()
    (orphan / "x").write_text("xx")
    import os

    os.utime(orphan, (0, 0))
    young = storage / ".making-young"
    young.mkdir()
    home = with_checkpoints.path / "checkpoints"
    (home / "quarantine" / "step-9").mkdir(parents=True)
    running = make(storage, "b", status="running")
    for step in (1, 2, 3):
        running.checkpoints().save(step, {}, metrics={})
    waste = find_waste(storage)
    older = ["step-000000000001", "step-000000000003"]
    assert sorted(w.path.name for w in waste) == [".making-old", *older, "step-9"]
    assert all(w.path.exists() for w in waste), "looking deletes nothing"
    with with_checkpoints.lock():
        assert {w.path.name for w in find_waste(storage)} == {".making-old"}
        assert collect(waste) == 2, "a run that is being written is skipped"
    assert collect(find_waste(storage)) > 4000
    assert find_waste(storage) == []
    assert [c.step for c in Checkpoints(home).complete()] == [2, 4]
    assert len(running.checkpoints().complete()) == 3
    assert young.exists()


def test_a_run_can_be_removed_unless_somebody_writes_it(tmp_path):
    folder = make(tmp_path)
    with RunFolder.open(folder.path).lock(), pytest.raises(RunLockedError):
        remove_run(folder.path)
    assert remove_run(folder.path) > 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError):
        remove_run(folder.path)


def test_listing_reads_little(tmp_path, monkeypatch):
    """Only run.json, and at most a journal's tail: never the whole journal."""
    folder = make(tmp_path, points=20_000, status="running")
    assert folder.journal_path.stat().st_size > 1_000_000
    import os

    before = int(open("/proc/self/io").read().split("rchar: ")[1].split()[0])
    (summary,) = list_runs(tmp_path)
    after = int(open("/proc/self/io").read().split("rchar: ")[1].split()[0])
    assert summary.step == 19_999
    assert after - before < 100_000
    assert os.path.exists(folder.path)
