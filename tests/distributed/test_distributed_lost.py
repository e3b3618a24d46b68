"""A Ray, a head or a worker that dies is told in words, with what to do next."""

import socket
import subprocess
from types import SimpleNamespace

import pytest
import requests

from rayloom.distributed import supervision
from rayloom.distributed.deaths import WorkerError, failure_of
from rayloom.distributed.following import Following, JobLostError
from rayloom.distributed.pulse import ClusterLostError, Pulse, listener_of


@pytest.fixture
def head():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, f"127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_head_is_given_some_seconds_then_told(head):
    server, address = head
    now = [0.0]
    pulse = Pulse(address, grace_s=10.0, clock=lambda: now[0])
    pulse.check()
    server.close()
    for now[0] in (2.0, 6.0, 11.0):
        pulse.check()
    now[0] = 12.0
    with pytest.raises(ClusterLostError, match=f"the head of the cluster at {address} died"):
        pulse.check()


def test_a_head_that_answers_again_is_forgiven(head):
    server, address = head
    now = [0.0]
    pulse = Pulse(address, grace_s=10.0, clock=lambda: now[0])
    server.close()
    now[0] = 2.0
    pulse.check()
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        now[0] = 9.0
        pulse.check()
    now[0] = 13.0
    pulse.check()


@pytest.mark.parametrize(
    ("local", "words"), [(True, "local Ray of this run"), (False, "its raylet")]
)
def test_a_killed_raylet_is_told_at_once(head, local, words):
    raylet = subprocess.Popen(["sleep", "60"])
    pulse = Pulse(head[1], raylet.pid, local=local)
    pulse.check()
    raylet.kill()
    raylet.wait()
    error = RuntimeError("library words")
    lost = pulse.explain(error)
    assert words in str(lost)
    assert "newest checkpoint" in str(lost)
    assert lost.__cause__ is error


def test_an_error_while_the_cluster_lives_is_not_the_clusters(head):
    assert Pulse(head[1]).explain(RuntimeError("a bug")) is None


def test_the_raylets_process_is_told_by_its_socket(tmp_path):
    import os

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert listener_of(path) == os.getpid()
    assert listener_of(str(tmp_path / "none")) == 0


def following(said, patience_s=0.0):
    return Following(
        "a-job", "http://h:1", "a-run", "/storage/a-run", said.append, patience_s=patience_s
    )


def silent():
    raise requests.exceptions.ConnectionError("HTTPConnectionPool(host='h', port=1): Max retries")


def test_a_killed_head_under_a_followed_job_is_told_with_run_folder_and_next_command():
    with pytest.raises(JobLostError) as caught:
        following([]).ask(silent)
    words = str(caught.value)
    for part in (
        "job a-job: the head at http://h:1 has not answered",
        "run a-run, in /storage/a-run",
        "`rayloom jobs logs a-job --follow --address http://h:1`",
        "`rayloom submit --address http://h:1 -- resume a-run`",
        "`rayloom resume a-run`",
    ):
        assert part in words
    assert "HTTPConnectionPool" not in words
    assert caught.value.exit_code == 1


def test_a_head_that_was_started_anew_is_told_as_that():
    def forgot():
        raise RuntimeError("Request failed with status code 404: Job a-job does not exist")

    with pytest.raises(JobLostError, match="was started anew"):
        following([], 60.0).ask(forgot)


def test_a_head_that_comes_back_is_followed_on(monkeypatch):
    monkeypatch.setattr("rayloom.distributed.following.SAY_AFTER_S", 0.0)
    monkeypatch.setattr("rayloom.distributed.following.EVERY_S", 0.01)
    answers, said = [silent, silent, lambda: "log"], []
    assert following(said, 60.0).ask(lambda: answers.pop(0)()) == "log"
    assert [text.partition(";")[0] for text in said] == [
        "the head at http://h:1 does not answer",
        "the head at http://h:1 answers again",
    ]


def test_deaths_are_told_once_per_restart_and_the_last_one_as_the_last(monkeypatch):
    said = []
    monkeypatch.setattr(Pulse, "of_this_process", lambda local: Pulse(""))
    here = SimpleNamespace(local=True)
    watch = supervision.Watch("worker", here, said.append, restarts=1)
    watch.hear({"_ray": "began"})
    watch.hear({"_ray": "works", "who": "workers"})
    assert watch.at_work
    assert not watch.nobody_works()
    died = {"_ray": "died", "failures": 1, "restarts": True}
    assert watch.hear({**died, "text": "worker 1 died: killed"})
    assert not watch.at_work
    assert watch.nobody_works()  # until they are up again
    watch.look()
    assert watch.hear({**died, "text": "worker 0 died: killed", "failures": 2, "restarts": False})
    watch.look()  # Ray ends by itself
    assert watch.hear({**died, "text": "a worker died while it was starting", "failures": 3})
    with pytest.raises(WorkerError, match=r"failed 3 times \(1 restarts allowed\), last: a worker"):
        watch.look()
    assert not watch.hear({"kind": "message"})
    assert said == [
        "worker 1 died: killed; all start again from the newest checkpoint (restart 1 of 1)",
        "worker 0 died: killed, and no restart is left",
        "a worker died while it was starting, and no restart is left",
    ]


def test_who_died_is_told_by_rank_or_as_one_that_was_starting():
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    def started(cause):
        error = WorkerGroupStartupFailedError("One of them failed:\nTraceback\nlast words")
        error.__cause__ = cause
        return ControllerError(error)

    dead, killed = RayActorError(), "its process was killed, or ran out of memory"
    echo = RuntimeError("gloo: connection closed")
    assert failure_of(WorkerGroupError("x", {0: echo, 1: dead})) == f"worker 1 died: {killed}"
    assert failure_of(WorkerGroupError("x", {0: echo})) == ""
    assert failure_of(started(dead)) == f"a worker died while it was starting: {killed}"
    assert failure_of(started(None)) == "the workers could not be started: last words"
    assert failure_of(ControllerError(ValueError("a bug"))) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The current node timed out during startup. This could", "raylet did not come up within"),
        (
            "The last 20 lines of /x/logs/dashboard.log (it contains",
            "dashboard server did not come",
        ),
        ("No space left on device.", "No space left on device"),
    ],
)
def test_a_ray_that_does_not_start_says_why_in_a_clause(text, words):
    from rayloom.distributed.cluster import why_not_started

    assert words in why_not_started(Exception(text))
    assert not why_not_started(Exception(text)).endswith(".")


def test_an_env_runner_that_dies_between_two_rounds_is_mentioned_once(ray_cluster):
    """No call fails then: Ray has started it again before the next one."""
    import os
    import signal

    import ray

    from rayloom.distributed.rllib import RemoteCollector
    from rayloom.distributed.train import wait_until

    class Runner:
        def pid(self):
            return os.getpid()

    runners = [ray.remote(num_cpus=0, max_restarts=1)(Runner).remote() for _ in range(2)]
    pids = ray.get([runner.pid.remote() for runner in runners])
    said = []
    collector = RemoteCollector(runners, said.append)
    collector._count_restarts(0.0)
    assert said == []
    os.kill(pids[1], signal.SIGKILL)

    def mentioned():
        collector._count_restarts(0.0)
        return said

    assert wait_until(mentioned, timeout_s=30)
    collector._count_restarts(0.0)
    assert said == ["env runner 1 died between two rounds; it is started again"]
    for runner in runners:
        ray.kill(runner)
