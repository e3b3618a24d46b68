"""Processes of a run's Ray are killed under it: told in words, resumed in bits, nothing left."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from kill_harness import CONFIGS, journal_points, mlflow_points, new_site, summary

from rayloom.distributed.place import own_processes

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
LONG = {"vae": ["train.epochs=20"], "dqn": ["train.env_steps=12288"]}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def temporary():
    """A TMPDIR with a short path."""
    made = tempfile.mkdtemp(prefix="rl", dir="/tmp")
    yield Path(made)
    shutil.rmtree(made)


def words_of(half, workers, site, *extra):
    places = [f"storage={site.root}/runs", f"tracking.uri=sqlite:///{site.root}/mlflow.db"]
    settings = [*CONFIGS[half], *LONG[half], *places, "resources.threads=1", *extra]
    return ["train", *settings, "--workers", str(workers)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data_root):
    made = {}

    def get(half, workers):
        if (half, workers) not in made:
            site = new_site(tmp_path_factory.mktemp("whole") / "site", None, data_root)
            done = site.command(*words_of(half, workers, site))
            assert done.returncode == 0, done.stdout + done.stderr
            made[half, workers] = site
        return made[half, workers]

    return get


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def processes_of(temporary):
    """This user's processes that have the TMPDIR in their command line, environment or files."""
    from rayloom.distributed.place import processes_of as of_folder

    folders = list(temporary.glob("rayloom-*"))
    return {pid for folder in folders for pid in of_folder(folder)} | {
        pid for pid in own_processes() if str(temporary) in command_line(pid)
    }


def run_and_kill(site, temporary, words, victim):
    """(exit code, output) of a command whose victim is killed at the first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rayloom_pipelines.cli", *words],
        cwd=site.root,
        env={**site.environment, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 400
    while not list((site.root / "runs").glob("*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
    if victim == "driver":
        victims = [process.pid]
    else:
        victims = [pid for pid in processes_of(temporary) if victim in command_line(pid)][:1]
    assert victims, [command_line(pid)[:80] for pid in processes_of(temporary)]
    os.kill(victims[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


CASES = [
    ("vae", 2, "ray::RayTrainWorker", 0, ["died", "(restart 1 of 2)"]),
    ("vae", 1, "ray::TrainController", 1, ["controller", "rayloom resume"]),
    ("vae", 1, "ray::Mailbox", 1, ["carries messages", "rayloom resume"]),
    ("vae", 2, "gcs_server", 1, ["local Ray of this run died", "rayloom resume"]),
    ("vae", 1, "raylet/raylet", 1, ["died", "rayloom resume"]),
    ("vae", 2, "driver", -9, ["died without a word", "rayloom resume"]),
    ("dqn", 2, "ray::GroupRunner", 0, ["env runner", "died"]),
    ("dqn", 1, "ray::_WrappedExecutable", 1, ["the learner died", "rayloom resume"]),
    ("dqn", 1, "raylet/raylet", 1, ["died", "rayloom resume"]),
    ("dqn", 1, "gcs_server", 1, ["died", "rayloom resume"]),
    ("dqn", 1, "driver", -9, ["died without a word", "rayloom resume"]),
]


@pytest.mark.parametrize(("half", "workers", "victim", "code", "words"), CASES)
def test_a_killed_process_is_told_and_made_up_for(
    half, workers, victim, code, words, tmp_path, temporary, data_root, unbroken
):
    site = new_site(tmp_path / "site", None, data_root)
    returned, output = run_and_kill(site, temporary, words_of(half, workers, site), victim)
    assert returned == code, output
    for word in [*words, *([site.run.name] if code else [])]:
        assert word in output, output
    for noise in ("ray.exceptions", "Traceback", "core_worker", "state-dump"):
        assert noise not in output
    assert not processes_of(temporary)
    if code:
        resumed = site.command("resume", site.run.name)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    whole = unbroken(half, workers)
    assert journal_points(site.run) == journal_points(whole.run)
    assert summary(site.run)["parameters_sha256"] == summary(whole.run)["parameters_sha256"]
    assert summary(site.run)["status"] == "finished"
    assert mlflow_points(site) == journal_points(site.run)
    assert [p for p in temporary.glob("rayloom-*") if code != 1] == []


def sweep_words(site):
    places = [f"storage={site.root}/runs", f"tracking.uri=sqlite:///{site.root}/mlflow.db"]
    search = ["optimizer.lr=loguniform(1e-4,1e-2)", "sweep.searcher=random", "sweep.trials=4"]
    search += ["sweep.scheduler=none"]  # ASHA judges by the order of arrival
    return ["sweep", *CONFIGS["vae"], *places, *search, "resources.threads=1"]


def sweep_of(site):
    runs = [p.parent for p in (site.root / "runs").glob("*/run.json")]
    (sweep,) = [run for run in runs if summary(run).get("kind") == "sweep"]
    return sweep


def ledger_of(sweep):
    path = sweep / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def table_of(sweep):
    rows = list(csv.DictReader((sweep / "trials.csv").open()))
    return [{key: value for key, value in row.items() if key != "run"} for row in rows]


def ended_trials(sweep):
    """The journal of each trial's run that the ledger knows to be over."""
    ended = [line for line in ledger_of(sweep) if line["type"] == "ended"]
    runs = [line["outcome"]["run_id"] for line in ended]
    return {run: (sweep.parent / run / "journal.jsonl").read_bytes() for run in runs}


@pytest.fixture(scope="module")
def unbroken_sweep(tmp_path_factory, data_root):
    site = new_site(tmp_path_factory.mktemp("sweep") / "site", None, data_root)
    done = site.command(*sweep_words(site))
    assert done.returncode == 0, done.stdout + done.stderr
    return sweep_of(site)


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("driver", "started"),
        ("driver", "running"),
        ("driver", "between"),
        ("driver", "registering"),
        ("group", "running"),
        ("all", "running"),
    ],
)
def test_a_sweep_killed_at_any_moment_leaves_nothing_and_goes_on(
    victim, moment, tmp_path, temporary, data_root, unbroken_sweep, monkeypatch
):
    site = new_site(tmp_path / "site", None, data_root)
    point = "sweep.trial_done:2" if moment == "between" else ""
    process = subprocess.Popen(
        [sys.executable, "-m", "rayloom_pipelines.cli", *sweep_words(site)],
        cwd=site.root,
        env={
            **site.environment,
            "TMPDIR": str(temporary),
            "RAYLOOM_FAILPOINT": point,
            "RAYLOOM_FAILPOINT_PROCESS": "driver",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def there():
        if moment == "started":
            return bool(list((site.root / "runs").glob("*/run.json")))
        if moment == "between":
            return process.poll() is not None
        if moment == "registering":
            return bool(list(temporary.glob("rayloom-*/scratch/model")))
        kinds = [line["type"] for run in site.root.glob("runs/*") for line in ledger_of(run)]
        return kinds.count("result") > 3 and kinds.count("ended") > 0

    end = time.monotonic() + 300
    while not there():
        assert time.monotonic() < end
        assert moment == "between" or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    if victim == "all":
        for pid in processes_of(temporary):
            if "distributed.witness" in command_line(pid):
                os.kill(pid, signal.SIGKILL)
    if moment != "between":  # there it has killed itself
        (os.kill if victim == "driver" else os.killpg)(process.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    sweep = sweep_of(site)
    if victim != "all" and moment != "registering":  # else the resume takes it away
        assert moment == "started" or f"rayloom resume {sweep.name}" in said
        assert not processes_of(temporary)
        assert list(temporary.glob("rayloom-*")) == []
    before = ended_trials(sweep)
    assert bool(before) == (moment != "started")
    monkeypatch.setenv("TMPDIR", str(temporary))  # where the killed one had its files
    resumed = site.command("resume", sweep.name)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert not processes_of(temporary)
    assert list(temporary.glob("rayloom-*")) == []
    assert summary(sweep)["status"] == "finished"
    assert table_of(sweep) == table_of(unbroken_sweep)
    after = ended_trials(sweep)
    assert len(after) == 4
    assert {run: after[run] for run in before} == before  # what was over is not run again
