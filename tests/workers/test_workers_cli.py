"""The same commands on Ray workers: equal results, quiet console, kill and resume."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from kill_harness import journal_points, killed, mlflow_points, new_site, summary

pytestmark = pytest.mark.timeout(1200)
MAX_LINES = 40  # of a two-worker run when piped: header, points, evaluations, result


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root):
    """One finished run for each (half, workers), made when first asked for."""
    made = {}

    def get(half, workers):
        if (half, workers) not in made:
            root = tmp_path_factory.mktemp(f"{half}-{workers}") / "site"
            site = new_site(root, None, data_root)
            result = site.train(half, *(["--workers", str(workers)] if workers else []))
            assert result.returncode == 0, result.stdout + result.stderr
            made[half, workers] = site, result
        return made[half, workers]

    return get


@pytest.mark.parametrize("half", ["vae", "dqn"])
def test_two_workers_equal_none(half, trained):
    alone, _ = trained(half, 0)
    pair, _ = trained(half, 2)
    expected, pictures = journal_points(alone.run)
    points, _ = journal_points(pair.run)
    assert points.keys() == expected.keys()
    assert journal_points(pair.run)[1].keys() == pictures.keys()
    if half == "dqn":  # groups make the actors irrelevant: equal in every bit
        assert points == expected
        assert summary(alone.run)["parameters_sha256"] == summary(pair.run)["parameters_sha256"]
    else:  # float32 sums in another order
        for where, value in expected.items():
            assert points[where] == pytest.approx(value, rel=2e-3, abs=2e-3), where


@pytest.mark.parametrize("half", ["vae", "dqn"])
def test_two_workers_are_quiet_and_tracked(half, trained):
    site, result = trained(half, 2)
    lines = (result.stdout + result.stderr).splitlines()
    assert 3 <= len(lines) <= MAX_LINES, "\n".join(lines)
    for noise in ("(pid=", "ray::", "INFO worker.py", "WARNING", "Traceback", "raylet"):
        assert noise not in result.stdout + result.stderr
    assert mlflow_points(site) == journal_points(site.run)


WORKER_POINTS = [  # where each is reached: in the driver, or in a worker
    ("vae", "checkpoint.before:2", "worker"),
    ("vae", "checkpoint.during:2", "worker"),
    ("vae", "checkpoint.before_marker:2", "worker"),
    ("vae", "checkpoint.after:2", "worker"),
    ("vae", "journal.appended:3", "worker"),
    ("vae", "tracking.run_created:1", "driver"),
    ("vae", "tracking.batch_sent:1", "driver"),
    ("vae", "train.step:17", "worker"),
    ("vae", "evaluation.middle:2", "worker"),
    ("dqn", "checkpoint.during:3", "driver"),
    ("dqn", "checkpoint.after:3", "driver"),
    ("dqn", "journal.appended:3", "driver"),
    ("dqn", "tracking.run_created:1", "driver"),
    ("dqn", "evaluation.middle:2", "driver"),
    ("dqn", "rl.round_collected:9", "driver"),
    ("dqn", "rl.group_collected:6", "worker"),
]


@pytest.mark.faults
@pytest.mark.parametrize(("half", "point", "side"), WORKER_POINTS)
def test_two_workers_killed_and_resumed_equal_unbroken(
    half, point, side, trained, tmp_path, data_root
):
    reference, _ = trained(half, 2)
    site = new_site(tmp_path / "site", None, data_root)
    died = site.train(half, "--workers", "2", failpoint=point, side=side)
    assert killed(died) == (side == "driver"), died.stdout + died.stderr
    if side == "worker":  # it is started again within the run
        assert died.returncode == 0, died.stdout + died.stderr
        said = ("resumed from the checkpoint", "no checkpoint yet", "collected again")
        assert any(words in died.stdout for words in said), f"{point} was not reached"
    else:
        resumed = site.command("resume", str(site.run))
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert journal_points(site.run) == journal_points(reference.run)
    assert mlflow_points(site) == journal_points(reference.run)
    assert summary(site.run)["parameters_sha256"] == summary(reference.run)["parameters_sha256"]
