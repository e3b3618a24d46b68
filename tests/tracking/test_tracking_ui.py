"""`rayloom ui`: on loopback only, shows what was sent, ends cleanly."""

import os
import signal
import socket
import subprocess
import sys
import urllib.parse

import psutil
import pytest
from tracking_help import answers, free_port, get, make_run, only_run, pictures, post_json

from rayloom.core.errors import UserError
from rayloom.tracking import MlflowFollower, serve_ui
from rayloom.tracking.ui import pick_port

SERVE = """
import sys
from rayloom.tracking import serve_ui
sys.exit(serve_ui(sys.argv[1], int(sys.argv[2]), say=lambda text: print(text, flush=True)))
"""


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.faults)]
)
def test_the_pages_show_the_run_and_stop_cleanly(tmp_path, uri, stop):
    folder = make_run(tmp_path / "runs")
    follower = MlflowFollower(folder.path, uri, "rayloom", params={"a": 1}, tags={}, poll_s=0.05)
    assert follower.start().close("FINISHED")
    run, names = only_run(uri, folder), pictures(uri, folder)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, uri, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
    )
    try:
        said = process.stdout.readline()
        runs = f"/#/experiments/{run.info.experiment_id}/runs?workflowType=machine_learning"
        runs += "&viewStateShareKey=rayloom"
        assert f"http://127.0.0.1:{port}{runs} " in said, process.stderr.read()
        base = f"http://127.0.0.1:{port}"
        assert b"<html" in get(base).lower()
        servers = psutil.Process(process.pid).children(recursive=True)
        assert servers
        shown = [word for server in servers for word in server.cmdline()]
        assert not [word for word in shown if uri in word], "a database's password, for all to read"
        if stop == signal.SIGINT:
            found = post_json(
                f"{base}/api/2.0/mlflow/runs/search", {"experiment_ids": [run.info.experiment_id]}
            )
            assert [r["info"]["run_id"] for r in found["runs"]] == [run.info.run_id]
            for name in names:
                query = urllib.parse.urlencode({"path": name, "run_uuid": run.info.run_id})
                data = get(f"{base}/get-artifact?{query}")
                assert data[:4] in (b"\x89PNG", b"RIFF")
            own = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
            for address in set(own) - {"127.0.0.1"}:
                if not address.startswith("127."):
                    assert not answers(port, address), "reachable from outside"
        process.send_signal(stop)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
        assert not answers(port)
    finally:
        for left in (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ()
        ):
            left.kill()  # the server has a session of its own, and would outlive us
        process.kill()
        process.wait()


def test_a_taken_port_is_a_message_with_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} is taken; (\d+) is free"):
            pick_port(port)
    assert pick_port(None) >= 5000
    with pytest.raises(UserError, match="65535"):
        pick_port(70_000)


def test_a_server_s_pages_are_its_own(capsys):
    heard = []
    assert serve_ui("http://me:secret@host:5000", None, say=heard.append) == 0
    assert heard == ["open http://***@host:5000"]


STARTER = """
import os, sys, time
from pathlib import Path
from rayloom.tracking.ui import start_guarded
code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
server = start_guarded([sys.executable, "-c", code], Path("/"), os.environ)
print(server.pid, server.stdout.readline().decode(), flush=True)
time.sleep(60)
"""


def test_a_killed_rayloom_ui_leaves_no_server_behind():
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    both = []
    try:
        pids = [int(word) for word in starter.stdout.readline().split()]
        both = [psutil.Process(pid) for pid in pids]
        starter.kill()
        gone, alive = psutil.wait_procs(both, timeout=10)
        assert len(gone) == 2
        assert not alive
    finally:
        starter.kill()
        starter.wait()
        for left in both:
            if left.is_running():
                left.kill()
