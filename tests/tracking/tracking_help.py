"""Helpers of the tracking tests: a database made once, runs, and what MLflow holds."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np

from rayloom.records import RunFolder
from rayloom.records.journal_reader import history


def make_run(storage, *, points=30, pictures=(5,), config=None):
    """A run folder whose journal holds curves and pictures."""
    config = config or {"model": {"name": "vae", "latent_dim": 2}, "train": {"epochs": None}}
    folder = RunFolder.create(storage, "autoencoders/vae-digits", config=config, info={"seed": 1})
    write_points(folder, 0, points, pictures)
    return folder


def write_points(folder, start, stop, pictures=()):
    journal = folder.journal()
    for step in range(start, stop):
        journal.scalars(step, {"loss/total": 1 / (step + 3), "eval/elbo_nats": -step / 7})
        if step in pictures:
            pixels = np.random.default_rng(step).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            journal.image(step, "samples/grid", pixels)
    journal.sync()


def mlflow_client(uri):
    from rayloom.tracking.client import make_client

    return make_client(uri)


def only_run(uri, folder):
    """MLflow's only run of a run folder."""
    client = mlflow_client(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`rayloom.run_id` = '{folder.run_id}'")
    assert len(runs) == 1, f"MLflow has {len(runs)} runs of {folder.run_id}"
    return runs[0]


def sent(uri, folder):
    """Every point that MLflow holds: (key, step, value, time stamp), sorted, repeats included."""
    client, run = mlflow_client(uri), only_run(uri, folder)
    points = []
    for key in run.data.metrics:
        for m in client.get_metric_history(run.info.run_id, key):
            points.append((key, m.step, m.value, m.timestamp))
    return sorted(points)


def written(folder):
    """Every point that the journal holds, in the same form."""
    return sorted(
        (key, int(step), float(value), int(at))
        for key, curve in history(folder.path).items()
        for step, value, at in zip(*curve, strict=True)
    )


def pictures(uri, folder):
    """Names of the picture files that MLflow holds, without the newest ones' second copies."""
    client, run = mlflow_client(uri), only_run(uri, folder)
    names = sorted(a.path for a in client.list_artifacts(run.info.run_id, "images"))
    return [name for name in names if not name.startswith("images/eval pictures~")]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), 0.3).close()
    except OSError:
        return False
    return True


def get(url):
    with urllib.request.urlopen(url, timeout=20) as reply:
        return reply.read()


def post_json(url, tree):
    request = urllib.request.Request(
        url, json.dumps(tree).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.loads(reply.read())


@contextmanager
def forked_server(folder, port):
    """MLflow's own server application on a folder's database, in a forked process; no start-up.

    Leaving kills it, as a crash would.
    """
    import mlflow.server  # loaded here, so that the child does not pay for it
    import werkzeug.serving

    child = os.fork()
    if child == 0:
        try:
            os.environ |= {
                "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
                "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
                "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "mlartifacts"),
                "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            }
            logging.disable(logging.CRITICAL)
            os.chdir(folder)
            app = mlflow.server.app
            werkzeug.serving.make_server("127.0.0.1", port, app, threaded=True).serve_forever()
        finally:
            os._exit(1)
    try:
        end = time.monotonic() + 30
        while not answers(port) and time.monotonic() < end:
            time.sleep(0.05)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def plain_mlflow_ui(folder, port):
    """`mlflow ui` with nothing but a port, in a folder."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"],
        cwd=folder,
        env=env | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 90
        while not answers(port) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.1)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
