"""The world around a run fails: signals, a full disk, a locked database, a stopped MLflow server.

No metric is lost and training does not stop for it.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from kill_harness import CONFIGS, journal_points, mlflow_points, new_site, summary


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def site(tmp_path, data_root):
    return new_site(tmp_path / "site", None, data_root)


def start(site, half, *extra, env=None):
    words = [
        *("train", *CONFIGS[half], f"storage={site.root / 'runs'}"),
        *(f"tracking.uri=sqlite:///{site.root / 'mlflow.db'}", "resources.threads=1", *extra),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "rayloom_pipelines.cli", *words],
        cwd=site.root,
        env=site.environment | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_points(site, count, timeout_s=240):
    """Wait until the run's journal has some lines."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        journals = list((site.root / "runs").glob("*/journal.jsonl"))
        if journals and journals[0].read_text().count("\n") >= count:
            return
        time.sleep(0.05)
    raise AssertionError("the run wrote no journal lines")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("half", ["vae", "dqn"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_checkpoints_and_says_how_to_go_on(site, half, sent, code):
    long = {"vae": "train.epochs=4000", "dqn": "train.env_steps=4000000"}[half]
    process = start(site, half, long, "evaluation.every=100000", "checkpoint.every=100000")
    wait_for_points(site, 3)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert f"rayloom resume {site.run.name}" in output
    assert "Traceback" not in output
    assert list((site.run / "checkpoints").glob("step-*"))
    assert summary(site.run)["status"] == "interrupted"
    # It goes on to a new, shorter end from where it stood, and the history has no hole.
    step = max(s for _, s in journal_points(site.run)[0])
    unit = {"vae": "train.grad_steps", "dqn": "train.env_steps"}[half]
    resumed = site.command("resume", str(site.run), f"{unit}={step + 1000}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert mlflow_points(site) == journal_points(site.run)


STOPS = """
import os, signal

def stop():
    os.kill(os.getpid(), getattr(signal, os.environ["STOP"]))
    signal.pthread_sigmask(signal.SIG_BLOCK, [])  # Python runs the handler here at the latest

class Unused:
    pass


CATALOGUE = {"envs": {"unused": Unused}}
"""
RAISED = "stop()"
SWALLOWED = """
try:
    stop()
except BaseException:
    pass
"""
WHILE_REGISTERING = """
import rayloom.tracking
if "STOP" in os.environ:
    rayloom.tracking.register_model = lambda *words, **more: stop()
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [RAISED, SWALLOWED], ids=["raised", "swallowed"])
@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_before_the_first_step_leaves_nothing(site, sent, code, how):
    (site.root / "stops.py").write_text(STOPS + how)
    process = start(site, "vae", "--plugin", "stops.py", env={"STOP": sent})
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert not (site.root / "runs").exists() or not list((site.root / "runs").iterdir())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("sent", "code"), [pytest.param("SIGINT", 130, marks=pytest.mark.faults), ("SIGTERM", 143)]
)
def test_a_signal_while_the_model_is_registered_is_made_up_for(site, sent, code):
    (site.root / "stops.py").write_text(STOPS + WHILE_REGISTERING)
    words = ("vae", "train.epochs=1", "--plugin", "stops.py")
    output, _ = (process := start(site, *words, env={"STOP": sent})).communicate(timeout=240)
    assert process.returncode == code, output
    assert f"rayloom resume {site.run.name}" in output
    assert "Traceback" not in output
    assert summary(site.run)["status"] == "finished"
    resumed = site.command("resume", "--plugin", "stops.py", str(site.run))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert summary(site.run)["model"]["uri"] == "models:/vae-digits@champion"
    assert mlflow_points(site) == journal_points(site.run)


@contextmanager
def small_disk(folder, megabytes):
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("half", ["vae", "dqn"])
def test_a_full_disk_does_not_stop_training_and_loses_no_metric(site, half):
    with small_disk(site.root / "runs", 24) as disk:
        process = start(site, half)
        wait_for_points(site, 2)
        filler = disk / "filler"
        with filler.open("wb") as f:  # fill it up while the run goes on
            try:
                while True:
                    f.write(b"\0" * 65536)
                    f.flush()
            except OSError:
                pass

        def relieve():
            time.sleep(3)
            filler.unlink()

        relief = threading.Thread(target=relieve)
        relief.start()
        output, _ = process.communicate(timeout=200)
        relief.join()
        assert process.returncode == 0, output
        assert "Traceback" not in output
        written = journal_points(site.run)
        assert mlflow_points(site) == written
        reference = new_site(site.root.parent / "reference", None, site.data)
        assert reference.train(half).returncode == 0
        assert written == journal_points(reference.run)


@pytest.mark.timeout(900)
def test_a_locked_database_loses_nothing(site):
    first = site.train("vae", "train.epochs=1")  # makes the database
    assert first.returncode == 0, first.stdout + first.stderr
    subprocess.run(["rm", "-r", str(site.run)], check=True)
    lock = sqlite3.connect(site.root / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    process = start(site, "vae")
    wait_for_points(site, 10)
    time.sleep(2)
    lock.execute("ROLLBACK")
    lock.close()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert mlflow_points(site) == journal_points(site.run)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def mlflow_server(root, port):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}"),
            *("--artifacts-destination", str(root / "artifacts")),
        ],
        cwd=root,
        env={**os.environ, "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(1800):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_stopped_mlflow_server_loses_nothing(site):
    """The run outlives the server by a minute, is stopped, goes on and ends with it back."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    endless = ("train.epochs=1000000", "evaluation.every=20", "checkpoint.every=20")
    with mlflow_server(site.root, port):
        process = start(site, "vae", *endless, "train.log_every=50", f"tracking.uri={uri}")
        wait_for_points(site, 3)
        wait_for_offset(site)
    before = len(journal_points(site.run)[0])
    time.sleep(60)
    assert process.poll() is None
    assert len(journal_points(site.run)[0]) > before, "training stood still"
    with mlflow_server(site.root, port):
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 130, output
        assert output.count("cannot be written") == 1, output
        assert "Traceback" not in output
        step = max(s for _, s in journal_points(site.run)[0])
        resumed = site.command("resume", str(site.run), f"train.grad_steps={step + 100}")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert mlflow_points(site, uri) == journal_points(site.run)


def wait_for_offset(site, timeout_s=240):
    """Wait until MLflow has got something of the run's journal."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        known = site.run / "tracking.json"
        if known.exists() and json.loads(known.read_text()).get("offset"):
            return
        time.sleep(0.05)
    raise AssertionError("MLflow got nothing")


@pytest.mark.timeout(120)
def test_an_unwritable_storage_is_refused_before_training(site):
    (site.root / "runs").write_text("a file where the folder should be")
    result = site.train("vae")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert str(site.root / "runs") in result.stderr
