"""Two-stage models tied by a run: found, frozen, recorded, and alone ever after."""

import json
import shutil
import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import nn

import rayloom
from rayloom import catalogue
from rayloom.config.references import RunReference
from rayloom.config.sections import Config
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.protocols import Player, operation, parameters_sha256
from rayloom.media import Images
from rayloom.records import RunFolder
from rayloom.testing import check_model
from rayloom_pipelines.groups.trial import train_trial

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from kill_harness import Site, journal_points, killed, summary

PLUGIN = str(Path(__file__).resolve().parents[1] / "plugins" / "mixture_prior_plugin.py")
VAE = [
    *("train.epochs=3", "evaluation.every=1", "evaluation.metrics=[]", "model.widths=[32]"),
    "train.ema={decay: 0.9}",
]
PRIOR = {
    "model": {"name": "mixture-prior", "first_stage": "latest"},
    "data": {"name": "digits", "batch_size": 128},
    "optimizer": {"name": "adam", "lr": 0.03},
    "train": {"epochs": 4, "log_every": 4, "ema": {"decay": 0.9}},
    "evaluation": {"every": 1},
}


@pytest.fixture(scope="module")
def place(place):
    """The working folder of the module, with the plugin known."""
    rayloom.load_plugins([PLUGIN])
    return place


@pytest.fixture(scope="module")
def vae(place):
    return rayloom.train("autoencoders/vae-digits", VAE)


@pytest.fixture(scope="module")
def prior(vae):
    return rayloom.train(PRIOR, name="prior")


def alone(run, folder):
    """A copy of the run in a storage that has no other."""
    return rayloom.load(shutil.copytree(run.path, folder / run.id))


def test_the_second_stage_trains_on_the_frozen_first(vae, prior):
    """Its run says which, from which checkpoint; the weights are those, to the bit."""
    first = vae.model().state_dict()
    noted = prior.about["stages"]["first_stage"]
    assert noted == {
        "run": vae.id,
        "step": vae.best["step"],
        "parameters_sha256": parameters_sha256(first),
        "path": str(vae.path),
    }
    assert f"first_stage: {vae.id}" in (prior.path / "config.yaml").read_text()
    inside = prior.model().first_stage.state_dict()
    assert inside.keys() == first.keys()
    assert all(torch.equal(inside[name], value) for name, value in first.items())
    losses = prior.history(["eval/loss"])["eval/loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0]
    checkpoints = prior.folder.checkpoints(read_only=True)
    state = checkpoints.load(checkpoints.latest())["trainable"]
    assert set(state["model"]) == {"logits", "mean", "log_std"}


def test_mlflow_knows_the_first_stage(vae, prior):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(prior.about["tracking"]["uri"])
    memory = json.loads((prior.path / "tracking.json").read_text())
    tags = client.get_run(memory["mlflow_run_id"]).data.tags
    assert tags["rayloom.stage.first_stage"] == vae.id


def test_it_stands_alone(prior, tmp_path):
    """Samples and metrics do not need the first run, nor the place where it was trained."""
    moved = alone(prior, tmp_path)
    assert torch.equal(moved.sample(8, seed=3), prior.sample(8, seed=3))
    assert moved.evaluate() == prior.evaluate()
    version = rayloom.load(prior.model_uri)
    assert torch.equal(version.sample(8, seed=3), prior.sample(8, seed=3))


def test_the_registered_module_holds_both_stages(prior):
    import mlflow.pytorch

    mlflow.set_tracking_uri(prior.about["tracking"]["uri"])
    module = mlflow.pytorch.load_model(prior.model_uri)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            module(images), prior.model().exports()["code_density"].module(images)
        )


def test_killed_without_the_first_run_and_resumed_equals_unbroken(vae, place, tmp_path):
    """SIGKILL in the middle; the first run is gone; the resume ends in the same bits."""
    shutil.copytree(vae.path, tmp_path / "runs" / vae.id)
    site = Site(tmp_path, tmp_path / "data")
    config = PRIOR | {"model": {"name": "mixture-prior", "first_stage": vae.id}}
    (tmp_path / "prior.yaml").write_text(json.dumps(config))
    whole = rayloom.train(config, name="prior", track=False)
    words = ["train", "prior.yaml", "--plugin", PLUGIN, "resources.threads=1"]
    died = site.command(*words, failpoint="train.step:20")
    assert killed(died), died.stdout + died.stderr
    shutil.rmtree(tmp_path / "runs" / vae.id)
    resumed = site.command("resume", str(site.run), "resources.threads=1")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert journal_points(site.run) == journal_points(whole.path)
    assert summary(site.run)["parameters_sha256"] == whole.about["parameters_sha256"]


@pytest.mark.parametrize("how", ["prefix", "path", "version", "group"])
def test_runs_are_named_as_everywhere(how, vae, prior, place, tmp_path):
    """Whatever a run is called, config.yaml names it for good."""
    group = place / "runs" / "group-20260101-000000-abcde"
    if how == "group" and not group.exists():
        group.mkdir()
        about = vae.about | {"kind": "seeds", "run_id": group.name, "best_run": vae.id}
        (group / "run.json").write_text(json.dumps(about))
        shutil.copy(vae.path / "config.yaml", group)
    elsewhere = shutil.copytree(vae.path, tmp_path / "a: folder" / vae.id)
    word, settled = {
        "prefix": (vae.id[:-3], vae.id),
        "path": (str(elsewhere), str(elsewhere)),
        "version": (vae.model_uri, "models:/vae-digits/1"),
        "group": (group.name, vae.id),
    }[how]
    config = PRIOR | {"model": {"name": "mixture-prior", "first_stage": word}}
    run = rayloom.train(config, ["train.grad_steps=2"], track=False, smoke=True)
    assert run.config.model.first_stage == settled
    noted = run.about["stages"]["first_stage"]
    assert noted["parameters_sha256"] == prior.about["stages"]["first_stage"]["parameters_sha256"]


def test_latest_is_settled_once_for_all_seeds(vae, place, tmp_path):
    storage = tmp_path / "runs"
    shutil.copytree(vae.path, storage / vae.id)
    group = rayloom.train(
        PRIOR, [f"storage={storage}", "train.epochs=1"], seeds=2, track=False, name="prior"
    )
    assert [r.about["stages"]["first_stage"]["run"] for r in group.children] == [vae.id] * 2


def test_a_trial_of_a_sweep_finds_its_first_stage(vae, place, tmp_path):
    """Also where the first stage is what is searched."""
    from dataclasses import asdict

    from rayloom.config.resolved import resolve
    from rayloom_pipelines.run.start import Options

    tree = resolve(PRIOR, [f"model.first_stage=choice({vae.id}, {vae.path})"], search=True)
    folder = RunFolder.create(tmp_path, "sweep", config={}, info={"kind": "sweep"})
    payload = {
        "tree": tree.to_dict() | {"storage": str(tmp_path)},
        **{
            "name": "prior",
            "sweep": folder.run_id,
            "seeds": 1,
            "metric": "eval/loss",
            "mode": "min",
        },
        "options": asdict(Options(smoke=True, track=False, parent=folder.run_id)),
        **{"plugins": [PLUGIN], "plugin_facts": [], "tracking_uri": None, "carried": None},
    }
    values = {"model.first_stage": str(vae.path)}
    ended = train_trial(payload, values, "0", lambda metrics, step: False)
    assert rayloom.load(tmp_path / ended["run_id"]).about["stages"]["first_stage"]["run"] == vae.id


def test_submit_sends_the_settled_name(vae, place, monkeypatch):
    from rayloom.distributed import jobs
    from rayloom_pipelines.cli import submit

    sent = {}

    def fake(command, *, files, **rest):
        sent.update(command=command, files=files)
        return 0

    monkeypatch.setattr(jobs, "submit", fake)
    monkeypatch.setattr(jobs, "check_durable", lambda **facts: None)
    config = PRIOR | {"storage": str(place / "runs")}
    config["model"] = {"name": "mixture-prior", "first_stage": vae.id[:-2]}
    (place / "prior.yaml").write_text(json.dumps(config))
    assert submit.run(["--", "train", "prior.yaml", "--plugin", PLUGIN]) == 0
    assert f"first_stage: {vae.id}" in sent["files"]["prior.yaml"]
    assert any(word.endswith("mixture_prior_plugin.py") for word in sent["command"])


def test_runs_show_names_the_first_stage(vae, prior, capsys):
    from rayloom_pipelines.cli import runs

    assert runs.run(["show", prior.id]) == 0
    assert f"first_stage        {vae.id} at step {vae.best['step']}" in capsys.readouterr().out


def test_weights_of_another_run_start_the_second_stage_alone(vae, prior):
    """`--init` gives the prior; the frozen stage is the config's."""
    other = rayloom.train("autoencoders/vae-digits", [*VAE, "seed=5"], track=False, smoke=True)
    config = PRIOR | {"model": {"name": "mixture-prior", "first_stage": str(other.path)}}
    tuned = rayloom.train(config, ["optimizer.lr=1e-30"], init=prior, track=False, smoke=True)
    assert torch.equal(tuned.model("last").mean, prior.model().mean)
    inside = tuned.model().first_stage.state_dict()
    assert parameters_sha256(inside) == parameters_sha256(other.model().state_dict())


# A third stage ------------------------------------------------------------------------------------


class ShiftConfig(Config):
    name: Literal["shift"] = "shift"
    base: RunReference
    other: RunReference | None = None


class Shift(nn.Module):
    """One number added to the codes of a two-stage model: three stages in all."""

    config_class: ClassVar[type] = ShiftConfig

    def __init__(self, config, spec, *, stages):
        super().__init__()
        assert set(stages) == {"base"}
        self.base, self.shift = stages["base"], nn.Parameter(torch.randn(()))

    @property
    def players(self):
        return (Player("model", [self.shift]),)

    def loss(self, batch, *, rng, turn):
        z = self.base.first_stage.encode(batch["image"]).mean
        return {"loss": -self.base.log_prob(z + self.shift)}

    @operation(gives={"image": "image"})
    def sample(self, batch, *, rng, settings=None):
        return self.base.sample(batch, rng=rng)

    def show(self, batch, *, rng):
        return {"samples": Images(self.sample({}, rng=rng.of_length(4))["image"])}

    def exports(self):
        return self.base.exports()


def test_stages_of_stages_travel_too(prior, tmp_path):
    config = PRIOR | {"model": {"name": "shift", "base": prior.id}}
    run = rayloom.train(config, ["train.epochs=1"], model=Shift, track=False, name="shift")
    moved = alone(run, tmp_path)
    assert torch.equal(moved.sample(4), run.sample(4))
    assert torch.equal(moved.sample(4), prior.sample(4))
    again = rayloom.resume(moved, ["train.epochs=2"])
    assert again.about["progress"]["epoch"] == 2


# Mistakes -----------------------------------------------------------------------------------------


def refusal(word, *changes, error=UserError, **more):
    config = PRIOR | {"model": {"name": "mixture-prior", "first_stage": word}}
    with pytest.raises(error) as caught:
        rayloom.train(config, changes, track=False, **more)
    return str(caught.value)


def test_an_unknown_run_is_told(vae, place):
    (place / "prior.yaml").write_text("model:\n  name: mixture-prior\n  first_stage: vae-digit5\n")
    with pytest.raises(ConfigError) as caught:
        rayloom.train("prior.yaml", ["data.name=digits"])
    assert "prior.yaml:3: model.first_stage: no run in" in str(caught.value)


def test_a_run_without_checkpoint_is_told(vae, tmp_path):
    bare = Path(shutil.copytree(vae.path, tmp_path / vae.id))
    shutil.rmtree(bare / "checkpoints")
    assert f"run {vae.id} has no checkpoint (finished)" in refusal(str(bare))


def test_a_damaged_checkpoint_is_told(vae, tmp_path):
    bare = Path(shutil.copytree(vae.path, tmp_path / vae.id))
    for file in bare.glob("checkpoints/step-*/state.safetensors"):
        file.write_bytes(file.read_bytes()[:-7])
    from rayloom.core.errors import RayloomError

    assert "no checkpoint that verifies" in refusal(str(bare), error=RayloomError)


def test_an_agent_is_no_first_stage(vae, tmp_path):
    folder = RunFolder.create(tmp_path, "dqn", config={}, info={"task": "rl"})
    assert "is of an agent; a model's is needed" in refusal(str(folder.path))


def test_a_missing_plugin_is_told(prior, monkeypatch):
    """And never loaded by itself: a config that names a run cannot bring code in."""
    table = dict(catalogue.CATALOGUE["models"])
    config = {"model": {"name": "shift", "base": str(prior.path)}, "data": {"name": "digits"}}
    del table["mixture-prior"]
    monkeypatch.setitem(catalogue.CATALOGUE, "models", table)
    with pytest.raises(ConfigError, match="it was trained with --plugin") as caught:
        rayloom.train(config, model=Shift, track=False)
    assert PLUGIN in str(caught.value)
    assert "no model is called 'mixture-prior'" in str(caught.value)


def test_a_first_run_without_a_config_is_told(vae, tmp_path):
    bare = Path(shutil.copytree(vae.path, tmp_path / vae.id))
    (bare / "config.yaml").unlink()
    assert f"the config of run {vae.id} does not load" in refusal(str(bare))


def test_other_images_are_refused(vae, tmp_path):
    other = Path(shutil.copytree(vae.path, tmp_path / vae.id))
    about = vae.about
    about["data"]["spec"]["fields"]["image"]["shape"] = [1, 28, 28]
    (other / "run.json").write_text(json.dumps(about))
    message = refusal(str(other))
    assert message.startswith(f"model.first_stage: run {vae.id} was trained on 'digits' with image")
    assert "(1, 28, 28); the data set 'digits' has uint8 (1, 8, 8)" in message


def test_a_model_that_drops_its_stage_is_refused(vae):
    class DropConfig(Config):
        name: Literal["drop"] = "drop"
        base: RunReference

    class Drop(Shift):
        config_class = DropConfig

        def __init__(self, config, spec, *, stages):
            nn.Module.__init__(self)
            self.base, self.shift = None, nn.Parameter(torch.zeros(()))

    config = PRIOR | {"model": {"name": "drop", "base": vae.id}}
    with pytest.raises(UserError, match=r"must be a submodule, such as self\.base = stages"):
        rayloom.train(config, model=Drop, track=False)


def test_a_lost_or_exchanged_copy_is_told(prior, tmp_path):
    moved = alone(prior, tmp_path)
    noted = dict(moved.about["stages"]["first_stage"], parameters_sha256="0" * 64)
    moved.folder.update(stages={"first_stage": noted})
    with pytest.raises(UserError, match="is not the copy of"):
        moved.sample(1)
    shutil.rmtree(moved.path / "stages")
    with pytest.raises(UserError, match="has lost stages/first_stage"):
        moved.sample(1)


def test_the_plugin_keeps_the_contract():
    from rayloom.testing.models import IMAGES

    rayloom.load_plugins([PLUGIN])
    first, second = (catalogue.load("models", name) for name in ("vae", "mixture-prior"))
    stages = {"first_stage": first(first.config_class(), IMAGES)}
    check_model(second, second.config_class(first_stage="a-run"), stages=stages)


def test_copies_are_no_runs(prior, vae):
    ids = set(rayloom.runs(smoke=True)["id"])
    assert {vae.id, prior.id} <= ids
    assert "first_stage" not in ids


def test_a_first_stage_that_keeps_state_for_its_training_alone(place):
    """A VQ-VAE's counts stay behind; the prior over its codes trains, resumes and samples."""
    short = [
        *("data=digits", "train.epochs=null", "train.grad_steps=6", "evaluation.every=3"),
        "resources.threads=1",
    ]
    small = ["model.num_codes=8", "model.network.channels=[4,6]"]
    first = rayloom.train("autoencoders/vq-fashion", [*short, *small])
    words = [*short, f"model.first_stage={first.id}", "model.dim=8", "model.heads=2"]
    prior = rayloom.train("autoregressive/code-prior-fashion", words)
    assert prior.about["stages"]["first_stage"]["run"] == first.id
    inside = prior.model().first_stage
    assert torch.equal(inside.codebook, first.model().codebook)
    again = rayloom.resume(str(prior.path), ["train.grad_steps=8"])
    assert again.status == "finished"
    images = again.sample(4, given={"label": [0, 1, 1, 9]})
    assert images.shape == (4, 1, 8, 8)
