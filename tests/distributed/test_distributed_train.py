"""Workers on Ray Train: results, errors, deaths, signals, quiet."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_entries import all_is_free

from rayloom.config.sections import ResourcesConfig
from rayloom.core.causes import paragraph, traceback_of
from rayloom.core.errors import NonFiniteError, UserError
from rayloom.distributed.train import WorkerError, run_workers, wait_until

HERE = Path(__file__).parent


def test_entry_runs_on_every_rank_and_rank_0_answers(ray_cluster):
    events = []
    out = run_workers("toy_entries:total", {"factor": 10}, workers=2, on_event=events.append)
    assert out["total"] == 30.0  # (1 + 2) * 10
    assert (out["world"], out["rank"], out["threads"], out["attempt"]) == (2, 0, 1, 0)
    assert out["cwd"] == os.getcwd()  # Ray Train would change it
    assert [event["number"] for event in events] == [0, 1, 2]


@pytest.mark.parametrize(
    ("entry", "kind", "words", "code"),
    [
        ("user_mistake", UserError, "data.root: /nowhere does not exist", 2),
        ("not_finite", NonFiniteError, "'kl' is NaN at grad_step 7", 1),
        ("bug", WorkerError, "KeyError: 'missing'", 1),
    ],
)
def test_an_error_of_a_worker_comes_back_as_itself(ray_cluster, entry, kind, words, code):
    with pytest.raises(kind) as caught:
        run_workers(f"toy_entries:{entry}", {}, workers=2)
    assert words in str(caught.value)
    assert caught.value.exit_code == code
    assert "Traceback" not in str(caught.value)
    assert f"({entry})" in paragraph(caught.value)  # the line, in a file that is not ours
    assert "toy_entries.py:" in paragraph(caught.value)
    assert isinstance(caught.value.__cause__, KeyError if entry == "bug" else kind)
    assert f"in {entry}\n" in traceback_of(caught.value)


def test_a_killed_worker_is_replaced_and_goes_on_from_the_checkpoint(ray_cluster, tmp_path):
    out = run_workers("toy_entries:dies_once", {"folder": str(tmp_path)}, workers=2)
    assert out == {"start": 3, "attempt": 1}


def test_a_stop_that_comes_from_the_caller_reaches_the_workers(ray_cluster):
    """What a scheduler says of a trial: 15 as soon as the workers have begun."""
    begun = []
    out = run_workers(
        "toy_entries:until_told",
        {},
        workers=2,
        on_event=begun.append,
        should_stop=lambda: 15 if begun else 0,
    )
    assert out["stopped"]
    assert out["signal"] == 15


def test_workers_that_keep_dying_end_the_run(ray_cluster):
    with pytest.raises(WorkerError, match=r"failed 2 times \(1 restarts allowed\)"):
        run_workers("toy_entries:always_dies", {}, workers=1, max_failures=1)


def test_a_worker_that_dies_while_it_starts_is_told_and_counted(ray_cluster, killed_at_birth):
    """Ray Train itself counts no such death: it would start workers again for ever."""
    said = []
    killed_at_birth("ray::RayTrainWorker")
    with pytest.raises(WorkerError, match=r"failed once \(0 restarts allowed\), last: a worker"):
        run_workers("toy_entries:total", {"factor": 1}, workers=1, max_failures=0, say=said.append)
    assert said == [
        "a worker died while it was starting: its process was killed, or ran out of memory, and no"
        " restart is left"
    ]
    assert wait_until(all_is_free, timeout_s=20)


def test_more_workers_than_the_cluster_holds_is_the_users_mistake(ray_cluster):
    wide = ResourcesConfig(cpus_per_worker=1000)
    with pytest.raises(UserError, match="needs 2000 CPUs"):
        run_workers("toy_entries:total", {"factor": 1}, workers=2, resources=wide)


def test_a_dashboard_address_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="host:6379"):
        run_workers("toy_entries:total", {}, workers=1, address="http://127.0.0.1:8265")


SCRIPT = """
import json, sys
from rayloom.distributed.train import run_workers
def show(event):
    print("EVENT", event["event"], flush=True)
out = run_workers("toy_entries:until_told", {}, workers=2, on_event=show)
print("OUT", json.dumps(out), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_workers_at_a_step_and_nothing_is_left(number):
    """A process of its own: its own Ray, the signal to the whole group as a terminal sends it."""
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("EVENT running"):
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(
                number
            )
    assert process.wait(timeout=120) == 0, lines
    out = json.loads(lines[-1].removeprefix("OUT "))
    assert out["stopped"]
    assert out["signal"] == number
    assert lines[:-1] == ["EVENT running"], "Ray noise on the console"
    assert wait_until(lambda: not _session(process.pid), timeout_s=60), "processes are left"


def _session(leader):
    """Processes of a session, other than ones that are dead and not yet collected."""
    listed = subprocess.run(
        ["ps", "-o", "stat=,args=", "-s", str(leader)], capture_output=True, text=True
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]
