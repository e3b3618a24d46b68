"""A run that was killed does not run for ever in MLflow."""

import os
import signal
import sys
import time

import pytest
from tracking_help import free_port, make_run, mlflow_client, only_run, sent, written

from rayloom.records import RunFolder
from rayloom.tracking import MlflowFollower, ensure_parent, left_running, sync_run, tell_killed
from rayloom.tracking.memory import read_memory
from rayloom_pipelines.cli import runs as runs_cli


@pytest.fixture
def killed(tmp_path, uri, monkeypatch):
    """A run folder whose process was killed while MLflow was told of it, and the storage."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = make_run(tmp_path / "runs", points=3)
    folder.update(status="running", tracking={"uri": uri, "experiment": "e"})
    ensure_parent(uri, "e", "a-sweep")
    pid = os.fork()
    if pid == 0:
        own = RunFolder.open(folder.path)
        own.lock().acquire()
        follower = MlflowFollower(own.path, uri, "e", params={}, tags={}, poll_s=0.02).start()
        os.kill(os.getpid(), signal.SIGKILL if follower.flush() else signal.SIGABRT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert only_run(uri, folder).info.status == "RUNNING"
    return folder


def test_the_list_of_runs_sets_it_right_once(killed, uri, capsys, monkeypatch):
    assert runs_cli.run(["list", "--storage", str(killed.path.parent)]) == 0
    said = capsys.readouterr()
    assert "killed" in said.out
    assert f"MLflow knows it now: {killed.run_id}" in said.err
    info = only_run(uri, killed).info
    assert info.status == "KILLED"
    lock = killed.path / "lock.json"
    assert info.end_time == lock.stat().st_mtime_ns // 1_000_000
    monkeypatch.setitem(sys.modules, "mlflow", None)  # nothing to do: nothing is imported
    assert runs_cli.run(["list", "--storage", str(killed.path.parent), "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_a_living_run_and_another_mlflow_are_left_alone(killed, uri, capsys, monkeypatch):
    with killed.lock():
        assert left_running([killed.path]) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # not what the folder names
    runs_cli.run(["list", "--storage", str(killed.path.parent)])
    assert f"`rayloom runs sync {killed.run_id}` sets it right" in capsys.readouterr().err
    assert only_run(uri, killed).info.status == "RUNNING"


def test_a_dead_server_holds_nobody_and_is_not_asked_again(killed):
    began = time.monotonic()
    assert tell_killed([killed.path], f"http://127.0.0.1:{free_port()}") == []
    assert time.monotonic() - began < 2
    assert left_running([killed.path]) == {}, "left alone for a while"


@pytest.mark.parametrize("status", ["running", "finished"])
def test_sync_sets_it_right_too(killed, uri, status):
    killed.update(status=status)
    assert sync_run(killed.path)
    info = only_run(uri, killed).info
    assert info.status == {"running": "KILLED", "finished": "FINISHED"}[status]
    assert abs(info.end_time - time.time() * 1000) < 120_000
    assert sent(uri, killed) == written(killed)
    assert left_running([killed.path]) == {}


def test_a_run_that_mlflow_has_lost_is_no_more_asked_about(killed, uri):
    memory = read_memory(killed.path) | {"mlflow_run_id": "0" * 32}
    from rayloom.records.files import to_json

    (killed.path / "tracking.json").write_bytes(to_json(memory))
    assert tell_killed([killed.path], uri) == []
    assert left_running([killed.path]) == {}
    assert mlflow_client(uri).get_experiment_by_name("e") is not None
