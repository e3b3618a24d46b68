"""What MLflow holds is what the journal holds, once, whatever happens in between."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from tracking_help import (
    forked_server,
    free_port,
    make_run,
    mlflow_client,
    only_run,
    pictures,
    plain_mlflow_ui,
    post_json,
    sent,
    write_points,
    written,
)

from rayloom.core import failpoints
from rayloom.records import RunFolder
from rayloom.tracking import MlflowFollower, ensure_parent, set_parent_results, sync_run


def follow(folder, uri, heard=None, **settings):
    settings = {"params": {}, "tags": {}, "poll_s": 0.05} | settings
    say = heard.append if heard is not None else None
    return MlflowFollower(folder.path, uri, "rayloom", say=say, **settings).start()


def forget_offset(folder):
    import json

    path = folder.path / "tracking.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"offset": 0}))


def test_mlflow_gets_what_the_journal_holds(tmp_path, uri):
    folder = make_run(tmp_path, points=700, pictures=(5, 600))
    journal = folder.journal()
    journal.scalars(700, {"loss/total": float("nan"), "loss/kl": 0.0})
    journal.tags({"note": "x"})
    video = tmp_path / "v.gif"
    video.write_bytes(b"GIF89a")
    journal.file(700, "play/video", video)
    journal.close()
    params = {"model": {"name": "vae", "k": 3}, "train": {"epochs": None, "flag": True}}
    follower = follow(folder, uri, params=params, tags={"team": "blue"})
    assert follower.flush(60)
    assert follower.close("FINISHED")
    run = only_run(uri, folder)
    assert repr(sent(uri, folder)) == repr(written(folder))  # NaN is equal to itself here
    assert run.info.status == "FINISHED"
    assert run.info.run_id == follower.mlflow_run_id
    assert run.data.params == {
        "model.name": "vae",
        "model.k": "3",
        "train.epochs": "null",
        "train.flag": "true",
    }
    tags = run.data.tags
    assert tags["team"] == "blue"
    assert tags["note"] == "x"
    assert tags["rayloom.path"] == str(folder.path)
    assert tags["mlflow.loggedImages"] == "True"
    client = mlflow_client(uri)
    top = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "run.json", "images", "files"} <= top
    (video,) = client.list_artifacts(run.info.run_id, "files/play/video")
    assert video.path == "files/play/video/step-000000700.gif"
    assert run.info.artifact_uri.startswith(f"file://{tmp_path}/mlruns/rayloom/")


def test_pictures_carry_the_names_of_mlflow_s_own_client(tmp_path, uri):
    """So that MLflow's page shows them as a grid with a step slider."""
    import re

    import numpy as np

    folder = make_run(tmp_path)
    follow(folder, uri).close("FINISHED")
    ours = pictures(uri, folder)
    client, run = mlflow_client(uri), only_run(uri, folder)
    client.log_image(run.info.run_id, np.zeros((8, 8, 3), np.uint8), key="samples/grid", step=9)
    theirs = sorted(set(pictures(uri, folder)) - set(ours))

    def pattern(name):
        name = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", name)
        return re.sub(r"\+step\+\d+\+timestamp\+\d{13}\+", "+step+N+timestamp+T+", name)

    assert [pattern(n) for n in ours] == [pattern(n) for n in theirs]
    assert len(ours) == 2
    stamp = {at for _, step, _, at in written(folder) if step == 5}
    assert abs(int(re.search(r"timestamp\+(\d+)", ours[0])[1]) - stamp.pop()) < 1000


def test_sending_everything_again_changes_nothing(tmp_path, uri):
    folder = make_run(tmp_path, points=300, pictures=(1, 2))
    assert follow(folder, uri).close("FINISHED")
    before = sent(uri, folder), pictures(uri, folder), only_run(uri, folder).info.end_time
    assert len(before[0]) == 600
    forget_offset(folder)
    assert sync_run(folder.path)
    (folder.path / "tracking.json").unlink()  # even who it was is forgotten
    assert follow(folder, uri).close("FINISHED")
    assert (sent(uri, folder), pictures(uri, folder)) == before[:2]


def test_syncing_a_finished_run_keeps_when_it_ended(tmp_path, uri):
    folder = make_run(tmp_path)
    assert follow(folder, uri).close("FAILED")
    ended = only_run(uri, folder).info.end_time
    time.sleep(0.01)
    assert sync_run(folder.path)
    info = only_run(uri, folder).info
    assert (info.end_time, info.status) == (ended, "FAILED")


def test_the_end_of_a_longer_resume_is_a_new_end(tmp_path, uri):
    folder = make_run(tmp_path)
    assert follow(folder, uri).close("FINISHED")
    first = only_run(uri, folder).info.end_time
    time.sleep(0.01)
    assert follow(folder, uri).close("FINISHED")
    assert only_run(uri, folder).info.end_time > first


def test_a_sync_after_a_kill_takes_the_status_of_the_run(tmp_path, uri):
    folder = make_run(tmp_path)
    assert follow(folder, uri).flush(60)  # and never closed
    folder.update(status="finished")
    assert sync_run(folder.path)
    assert only_run(uri, folder).info.status == "FINISHED"


def test_a_resume_goes_on_with_the_same_run(tmp_path, uri):
    folder = make_run(tmp_path, points=10)
    params = {"lr": 0.1, "train": {"epochs": 2}}
    assert follow(folder, uri, params=params).close("KILLED")
    assert only_run(uri, folder).info.status == "KILLED"
    again = RunFolder.open(folder.path)
    params = {"lr": 0.1, "train": {"epochs": 5}, "new": 1}
    follower = follow(again, uri, params=params)
    write_points(again, 5, 20)  # some of them for the second time
    assert follower.flush(30)
    assert only_run(uri, folder).info.status == "RUNNING"
    assert follower.close("FINISHED")
    run = only_run(uri, folder)
    assert sent(uri, folder) == written(folder)
    assert len(sent(uri, folder)) == 40
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "train.epochs": "2", "new": "1"}
    assert run.data.tags["changed.train.epochs"] == "5"


def test_many_and_long_params(tmp_path, uri):
    folder = make_run(tmp_path, points=1)
    params = {f"p{i}": i for i in range(250)} | {"long": "x" * 10_000, "list": [1, {"a": 2}]}
    heard = []
    assert follow(folder, uri, heard, params=params, tags={"t": "y" * 9000}).close("FINISHED")
    stored = only_run(uri, folder).data
    assert len(stored.params) == 252
    assert len(stored.params["long"]) == 6000
    assert stored.params["list"] == "[1, {'a': 2}]"
    assert len(stored.tags["t"]) == 8000
    assert heard == []


def test_children_hang_under_one_parent(tmp_path, uri):
    parent = ensure_parent(uri, "rayloom", "sweep-1", name="my sweep", params={"trials": "2"})
    assert ensure_parent(uri, "rayloom", "sweep-1") == parent
    children = [make_run(tmp_path, points=2) for _ in range(2)]
    for child in children:
        assert follow(child, uri, parent="sweep-1").close("FINISHED")
        assert only_run(uri, child).data.tags["mlflow.parentRunId"] == parent
    for _ in range(2):
        results = {"metrics": {"best": 1.5}, "tags": {"a": "b"}, "status": "FINISHED"}
        set_parent_results(uri, parent, **results, time_ms=7)
    client = mlflow_client(uri)
    assert len(client.get_metric_history(parent, "best")) == 1
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).data.params == {"trials": "2"}


def test_a_deleted_experiment_and_run_come_back(tmp_path, uri):
    folder = make_run(tmp_path)
    assert follow(folder, uri).close("KILLED")
    client, run = mlflow_client(uri), only_run(uri, folder)
    client.delete_run(run.info.run_id)
    client.delete_experiment(run.info.experiment_id)
    write_points(folder, 30, 40)
    assert follow(folder, uri).close("FINISHED")
    assert sent(uri, folder) == written(folder)


def test_another_mlflow_gets_everything(tmp_path, uri, empty_database):
    folder = make_run(tmp_path)
    assert follow(folder, uri).close("FINISHED")
    shutil.copy(empty_database, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert follow(folder, other).close("FINISHED")
    assert sent(other, folder) == written(folder) == sent(uri, folder)


def test_a_moved_run_keeps_its_mlflow_run_and_a_copy_gets_its_own(tmp_path, uri):
    first = make_run(tmp_path / "runs")
    assert follow(first, uri).close("FINISHED")
    known = only_run(uri, first).info.run_id

    shutil.move(first.path, tmp_path / "elsewhere" / first.run_id)
    moved = RunFolder.open(tmp_path / "elsewhere" / first.run_id)
    follower = follow(moved, uri)
    assert follower.close("FINISHED")
    assert follower.mlflow_run_id == known

    before = sent(uri, moved)
    renamed = RunFolder.open(shutil.copytree(moved.path, tmp_path / "a-copy"))
    same_name = RunFolder.open(shutil.copytree(moved.path, tmp_path / "backup" / moved.run_id))
    for copy in (renamed, same_name):
        write_points(copy, 30, 40)
        follower = follow(copy, uri)
        assert follower.close("FINISHED")
        own = follower.mlflow_run_id
        assert own != known
        again = follow(copy, uri)
        assert again.close("FINISHED")
        assert again.mlflow_run_id == own
    assert sent(uri, renamed) == written(renamed)
    client = mlflow_client(uri)
    steps = {m.step for m in client.get_metric_history(known, "loss/total")}
    assert steps == {step for key, step, *_ in before if key == "loss/total"}


# ---- killed ----


def train(path, uri):
    """Two attempts of this make one run; forked, so that a kill is a real one."""
    folder = RunFolder.open(path)
    follower = follow(folder, uri)
    for step in range(0, 40, 10):
        write_points(folder, step, step + 10, (step + 3,))
        assert follower.flush(60)
    folder.journal().close()
    assert follower.close("FINISHED")


def forked(path, uri, failpoint=None):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if failpoint:
                name, _, count = failpoint.partition(":")
                assert name in failpoints.FAILPOINTS
                failpoints._name, failpoints._left = name, int(count)
            train(path, uri)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


KILLS = [f"tracking.batch_sent:{count}" for count in (1, 2, 5)]
KILLS += ["tracking.run_created:1", "journal.appended:3"]


@pytest.mark.parametrize("point", KILLS)
def test_killed_and_started_again_the_history_is_unbroken(tmp_path, uri, point):
    folder = make_run(tmp_path / "runs", points=0)
    assert forked(folder.path, uri, point) == -9
    assert forked(folder.path, uri) == 0
    points = sent(uri, folder)
    assert points == written(folder)
    assert [(k, s, v) for k, s, v, _ in points] == sorted(
        [("loss/total", s, 1 / (s + 3)) for s in range(40)]
        + [("eval/elbo_nats", s, -s / 7) for s in range(40)]
    )
    assert len(pictures(uri, folder)) == 8
    assert only_run(uri, folder).info.status == "FINISHED"


def test_parallel_first_starts_make_one_schema_and_one_experiment(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folders = [make_run(tmp_path / "runs", points=0) for _ in range(3)]
    pids = []
    for folder in folders:
        pid = os.fork()
        if pid == 0:
            try:
                train(folder.path, uri)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    for folder in folders:
        assert sent(uri, folder) == written(folder)
    assert len(mlflow_client(uri).search_experiments()) == 2  # Default and ours
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db", "mlruns", "runs"}


# ---- MLflow is away ----


def test_a_locked_database_stops_nothing_and_loses_nothing(tmp_path, uri):
    folder, heard = make_run(tmp_path), []
    follower = follow(folder, uri, heard)
    assert follower.flush(30)
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    write_points(folder, 30, 60, (40,))
    assert time.monotonic() - began < 5, "training waited for MLflow"
    assert not follower.flush(0.5)
    assert not follower.close("FINISHED", timeout_s=0.5)
    assert f"rayloom resume {folder.run_id}" in heard[-1]
    assert "Nothing is lost" in heard[-1]
    threading.Timer(0.5, lambda: lock.execute("ROLLBACK")).start()
    assert sync_run(folder.path, say=heard.append)
    lock.close()
    assert sent(uri, folder) == written(folder)
    assert only_run(uri, folder).info.status == "FINISHED"
    assert len(heard) == 1


@pytest.mark.parametrize("in_a_hurry", [False, True])
def test_patience_at_the_end_lasts_while_something_is_sent(monkeypatch, in_a_hurry):
    from rayloom.tracking import backoff

    now, sign = [0.0], 0.0
    monkeypatch.setattr(backoff.time, "monotonic", lambda: now[0])
    patience = backoff.Patience(30.0, 10.0, 30.0 if in_a_hurry else 300.0)
    for _ in range(5):
        now[0] += 20.0
        over = patience.is_over(sign, failing=False)
        sign = now[0]
    assert over == in_a_hurry
    now[0] += 11.0
    assert patience.is_over(sign, failing=True), "a failing one is waited for less"
    assert patience.is_over(sign, failing=False) == in_a_hurry
    now[0] += 20.0
    assert patience.is_over(sign, failing=False)


@pytest.mark.parametrize(
    "server", [forked_server, pytest.param(plain_mlflow_ui, marks=pytest.mark.faults)]
)
def test_a_stopped_server_loses_nothing(tmp_path, monkeypatch, server):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port, heard = free_port(), []
    uri = f"http://127.0.0.1:{port}"
    folder = make_run(tmp_path / "runs", points=0)
    follower = follow(folder, uri, heard)
    write_points(folder, 0, 10)  # the server does not even run yet
    end = time.monotonic() + 60
    while not heard and time.monotonic() < end:
        assert not follower.flush(0.2)
    assert len(heard) == 1
    assert "training goes on" in heard[0]
    with server(tmp_path, port):
        while not follower.flush(10):  # a pause after a failure is not cut short
            assert time.monotonic() < end + 60
        write_points(folder, 10, 20, (12,))
        assert follower.flush(60)
    assert heard[1:] == ["MLflow is back and has everything"]
    write_points(folder, 20, 30, (25,))
    while len(heard) < 3 and time.monotonic() < end + 120:  # said after the second failure
        assert not follower.flush(0.2)
    assert not follower.close("FINISHED", timeout_s=1.0)
    assert "cannot be written" in heard[2]
    assert f"rayloom runs sync {folder.run_id}" in heard[3]
    with server(tmp_path, port):
        assert sync_run(folder.path, say=heard.append), heard
        assert sent(uri, folder) == written(folder)
        assert len(sent(uri, folder)) == 60
        assert len(pictures(uri, folder)) == 4
        assert only_run(uri, folder).info.status == "FINISHED"
        found = post_json(f"{uri}/api/2.0/mlflow/experiments/search", {"max_results": 10})
        assert "rayloom" in {e["name"] for e in found["experiments"]}


def test_a_full_disk_under_the_database(tmp_path, uri, monkeypatch):
    """MLflow raises what it likes: said once, tried again, and in the end all is there."""
    from rayloom.tracking import sender

    folder, heard = make_run(tmp_path), []
    real, calls = sender.Sender._metrics, []

    def broken(self, points):
        calls.append(1)
        if len(calls) < 4:
            raise sqlite3.OperationalError("database or disk is full")
        real(self, points)

    monkeypatch.setattr(sender.Sender, "_metrics", broken)
    follower = follow(folder, uri, heard)
    assert follower.flush(60)
    assert follower.close("FINISHED")
    assert sent(uri, folder) == written(folder)
    assert [m.split(":")[0] for m in heard[:1]] == ["MLflow at sqlite"]
    assert len(heard) == 2


# ---- quiet and lazy ----

QUIET = """
import sys, time
from pathlib import Path
from rayloom.records import RunFolder
from rayloom.tracking import MlflowFollower, resolve_uri
folder = RunFolder.create(Path("runs"), "a", config={}, info={})
began = time.monotonic()
follower = MlflowFollower(folder.path, resolve_uri(None, "."), "e", params={}, tags={}).start()
assert time.monotonic() - began < 1
time.sleep(0.7)
assert "mlflow" not in sys.modules, "imported before there was anything to send"
journal = folder.journal()
journal.scalars(1, {"x": 1.0})
journal.sync()
assert follower.close("FINISHED", 120)
import mlflow
assert mlflow.active_run() is None
assert mlflow.MlflowClient("sqlite:///mlflow.db").search_experiments()[0].name == "e"
"""


def test_it_is_lazy_quiet_and_leaves_no_fluent_state(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", QUIET], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
