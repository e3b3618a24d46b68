"""A two-stage model on Ray workers: each builds the frozen stage from the run's own copy."""

import json
import sys
from pathlib import Path

import pytest

import rayloom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from kill_harness import Site, journal_points, killed, summary

pytestmark = pytest.mark.timeout(400)
PLUGIN = str(Path(__file__).resolve().parents[1] / "plugins" / "mixture_prior_plugin.py")
PRIOR = {
    "data": {"name": "digits", "batch_size": 128},
    "optimizer": {"name": "adam", "lr": 0.03},
    "train": {"epochs": 2, "log_every": 4, "ema": {"decay": 0.9}},
    "evaluation": {"every": 1},
    "resources": {"threads": 1},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config of the second stage; the first one is trained, in a storage of its own."""
    storage = tmp_path_factory.mktemp("first")
    changes = [f"storage={storage}", "evaluation.metrics=[]", "model.widths=[32]"]
    vae = rayloom.train("autoencoders/vae-digits", ["train.epochs=2", *changes], track=False)
    rayloom.load_plugins([PLUGIN])
    return PRIOR | {"model": {"name": "mixture-prior", "first_stage": str(vae.path)}}


def train(config, folder, failpoint=None):
    """A site with one run of two workers, and what the command said."""
    folder.mkdir(parents=True)
    (folder / "prior.yaml").write_text(json.dumps(config | {"storage": str(folder / "runs")}))
    site = Site(folder, folder / "data")
    words = ["train", "prior.yaml", "--plugin", PLUGIN, "--workers", "2"]
    return site, site.command(*words, failpoint=failpoint)


@pytest.fixture(scope="module")
def pair(config, tmp_path_factory):
    site, result = train(config, tmp_path_factory.mktemp("pair") / "site")
    assert result.returncode == 0, result.stdout + result.stderr
    return site


def test_two_workers_equal_none(config, pair, tmp_path):
    alone = rayloom.train(config, [f"storage={tmp_path}"], track=False)
    expected, pictures = journal_points(alone.path)
    points, shown = journal_points(pair.run)
    assert points.keys() == expected.keys()
    assert shown.keys() == pictures.keys()
    for where, value in expected.items():  # float32 sums in another order
        assert points[where] == pytest.approx(value, rel=2e-3, abs=2e-3), where
    first = [summary(run)["stages"]["first_stage"] for run in (alone.path, pair.run)]
    assert first[0] == first[1]


@pytest.mark.faults
@pytest.mark.parametrize("point", ["train.step:18", "checkpoint.after:2"])
def test_two_workers_killed_and_resumed_equal_unbroken(config, pair, point, tmp_path):
    site, died = train(config, tmp_path / "site", failpoint=point)
    if not killed(died):  # a worker died, not the driver: it is restarted within the run
        assert died.returncode == 0, died.stdout + died.stderr
    else:
        resumed = site.command("resume", str(site.run))
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert journal_points(site.run) == journal_points(pair.run)
    assert summary(site.run)["parameters_sha256"] == summary(pair.run)["parameters_sha256"]
