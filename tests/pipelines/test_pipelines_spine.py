"""Run folders that an early rayloom wrote (tests/fixtures/spine) are of use, whatever moves.

Each was trained half way, then again to `length` by the same old version: what that gave stands in
`expected.json`. The VAE has an average of its weights, the beta-VAE a multiplier, the DQN a replay.
"""

import json
import shutil
from pathlib import Path

import pytest

import rayloom
from rayloom.core.errors import UserError
from rayloom_pipelines.cli import dispatch
from rayloom_pipelines.facade import Run

SPINE = Path(__file__).resolve().parents[1] / "fixtures" / "spine"
EXPECTED = json.loads((SPINE / "expected.json").read_text())
MODELS = [name for name, facts in EXPECTED.items() if "sample" in facts]


@pytest.fixture
def spine(place, tmp_path):
    """Gives a copy of a spine run by its name: reading one may change nothing, a resume does."""

    def copied(name: str) -> Run:
        about = json.loads((SPINE / name / "run.json").read_text())
        return rayloom.load(shutil.copytree(SPINE / name, tmp_path / about["run_id"]))

    return copied


@pytest.mark.parametrize("name", EXPECTED)
def test_it_loads_and_evaluates_to_the_same_numbers(spine, name):
    run = spine(name)
    size = {"episodes": 4} if name == "dqn" else {}
    again = run.evaluate(seed=1, **size)
    assert run.status == "finished"
    assert run.exit_code == 0
    assert run.best["value"] == max(run.history([run.best["metric"]])[run.best["metric"]].dropna())
    known = EXPECTED[name]["evaluate"]
    assert {key: again[key] for key in known} == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_it_samples_the_same_pictures(spine, name):
    drawn = spine(name).sample(2, seed=3).flatten()[:12].tolist()
    assert drawn == pytest.approx(EXPECTED[name]["sample"], abs=2e-6)


def test_it_plays(spine, tmp_path):
    returns = spine("dqn").play(tmp_path / "film.gif", seed=1)
    assert len(returns) == 1
    assert returns[0] >= 1
    assert (tmp_path / "film.gif").stat().st_size > 1000


@pytest.mark.parametrize("name", EXPECTED)
def test_runs_show_and_list_tell_of_it(spine, name, capsys):
    run = spine(name)
    assert dispatch(["runs", "show", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert f"{run.id}  finished: " in shown
    assert run.about["parameters_sha256"] in shown
    assert dispatch(["runs", "list", "--storage", str(run.path.parent)]) == 0
    assert f"{run.id}  finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXPECTED)
def test_a_resume_is_bit_equal_or_refused_in_words(spine, name):
    """Bits are asked for where this machine reproduces the first half, else six digits."""
    run, facts = spine(name), EXPECTED[name]
    config = run.config.model_dump(mode="json")
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    refused = ""
    try:
        rayloom.resume(run, [facts["length"]])
    except UserError as error:
        refused = str(error)
    if refused:
        assert len(refused) > 40, "refused without a reason"
        lost = [path for path, data in files.items() if path.read_bytes() != data]
        assert not lost, f"refused, but changed {lost}"
        return
    assert run.status == "finished"
    assert run.metrics == pytest.approx(facts["metrics"], rel=1e-4)
    half = rayloom.train(config, ["storage=again"], track=False)
    if half.about["parameters_sha256"] == facts["half"]:
        assert run.about["parameters_sha256"] == facts["whole"]
