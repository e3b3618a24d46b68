"""Runs of both halves through the Python API: train, find again, use, go on, group."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

import rayloom
from rayloom.core.errors import ConfigError, UserError
from rayloom_pipelines.console import Silent

SMALL = ["train.epochs=2", "evaluation.every=1", "evaluation.metrics=[]", "train.log_every=4"]
AGENT = [
    *("train.env_steps=2048", "evaluation.every=1024", "evaluation.episodes=2"),
    *("evaluation.num_envs=2", "train.log_every=512", "algorithm.learning_starts=256"),
]


class Listener(Silent):
    """Remembers the kinds of events."""

    def __init__(self):
        self.events = []

    def on_start(self, event):
        self.events.append(("start", dict(event)))

    def on_progress(self, event):
        self.events.append(("progress", dict(event)))

    def on_evaluation(self, event):
        self.events.append(("evaluation", dict(event)))

    def on_message(self, text):
        self.events.append(("message", text))

    def on_end(self, event):
        self.events.append(("end", dict(event)))


@pytest.fixture(scope="module")
def vae(place):
    return rayloom.train("autoencoders/vae-digits", SMALL)


@pytest.fixture(scope="module")
def agent(place):
    return rayloom.train("rl/dqn-cartpole", AGENT)


def test_a_run_is_found_by_all_its_names(vae, place):
    mlflow_id = json.loads((vae.path / "tracking.json").read_text())["mlflow_run_id"]
    for name in (vae.id, vae.id[:-2], str(vae.path), mlflow_id):
        assert rayloom.load(name).path == vae.path
    assert rayloom.load(vae.model_uri).id == vae.id


def test_the_facts_of_a_run_are_recorded(vae):
    about = vae.about
    assert about["status"] == "finished"
    assert about["command"]
    assert about["packages"]["torch"]
    assert about["machine"]["cpus"]
    assert about["choices"]["threads"] >= 1
    assert len(about["data"]["fingerprint"]) == 64
    assert len(about["parameters_sha256"]) == 64
    assert (vae.path / "config.yaml").exists()


def test_what_the_nats_are_about_is_recorded(vae):
    """Numbers of two protocols do not compare: binarisation, importance samples."""
    from mlflow import MlflowClient

    assert vae.about["protocol"] == "bernoulli, dynamic binarisation"
    client = MlflowClient(tracking_uri=vae.about["tracking"]["uri"])
    experiment = client.get_experiment_by_name("rayloom").experiment_id
    (found,) = client.search_runs([experiment], f"tags.`rayloom.run_id` = '{vae.id}'")
    assert found.data.tags["rayloom.protocol"] == vae.about["protocol"]


def test_history_is_a_table(vae):
    table = vae.history()
    assert table.index.name == "step"
    assert table["eval/elbo_nats"].notna().sum() == 2
    assert vae.history(["loss/total"]).columns.tolist() == ["loss/total"]
    with pytest.raises(UserError, match="loss/total"):
        vae.history(["loss/totl"])


def test_pictures_are_there(vae):
    assert {"pictures/samples", "pictures/reconstructions"} <= set(vae.pictures())
    assert vae.show("pictures/samples").size[0] > 100


def test_the_first_pictures_are_of_the_untrained_model(vae):
    from rayloom.records.journal_reader import media

    steps = [line["step"] for line in media(vae.path) if line["key"] == "pictures/samples"]
    scored = vae.history()["eval/elbo_nats"].dropna().index
    assert sorted(steps) == [0, *scored]
    first, *_, last = vae.pictures()["pictures/samples"]
    assert first.read_bytes() != last.read_bytes()


def test_samples_are_a_function_of_the_seed_and_of_nothing_else(vae):
    first, longer = vae.sample(5, seed=3), vae.sample(300, seed=3)
    assert first.shape == (5, 1, 8, 8)
    torch.testing.assert_close(longer[:5], first, rtol=0, atol=0)
    assert not torch.equal(vae.sample(5, seed=4), first)


def test_the_model_of_a_run_is_the_one_that_was_evaluated(vae):
    again = vae.evaluate()
    for key in ("eval/elbo_nats", "eval/kl_nats"):
        assert again[key] == pytest.approx(vae.metrics[key], rel=1e-6)


def test_the_registered_version_is_a_run_of_its_own(vae):
    version = rayloom.load(vae.model_uri)
    torch.testing.assert_close(version.sample(4), vae.sample(4), rtol=0, atol=0)
    assert version.path != vae.path


def test_a_finished_run_resumes_to_nothing(vae):
    before = (vae.path / "journal.jsonl").read_bytes()
    assert rayloom.resume(vae.id).exit_code == 0
    assert (vae.path / "journal.jsonl").read_bytes() == before


def test_resume_takes_a_longer_length_and_nothing_else(place):
    run = rayloom.train("autoencoders/vae-digits", [*SMALL, "train.epochs=1"], track=False)
    with pytest.raises(ConfigError, match=r"optimizer.lr"):
        rayloom.resume(run, ["optimizer.lr=1e-4"])
    longer = rayloom.resume(run, ["train.epochs=2"])
    assert longer.history(["eval/elbo_nats"]).index.tolist() == [12, 24]
    assert longer.config.train.epochs == 2


def test_a_longer_resume_equals_a_longer_run(place):
    """A constant schedule: 1 epoch, resumed to 2, ends where 2 epochs end."""
    whole = rayloom.train("autoencoders/vae-digits", SMALL, track=False)
    half = rayloom.train("autoencoders/vae-digits", [*SMALL, "train.epochs=1"], track=False)
    rayloom.resume(half, ["train.epochs=2"])
    assert half.about["parameters_sha256"] == whole.about["parameters_sha256"]


def test_an_agent_acts_and_is_evaluated(agent):
    policy = agent.policy()
    observation = torch.zeros(3, 4).numpy()
    assert policy.best(observation).shape == (3,)
    metrics = agent.evaluate(episodes=3, seed=1)
    assert metrics["eval/episodes"] == 3
    assert metrics == agent.evaluate(episodes=3, seed=1)
    assert agent.model()(torch.zeros(2, 4)).shape == (2, 2)


def test_an_agent_is_filmed(agent, tmp_path):
    returns = agent.play(tmp_path / "play.gif", episodes=1)
    assert (tmp_path / "play.gif").stat().st_size > 1000
    assert len(returns) == 1


def test_the_wrong_half_is_said(vae, agent, tmp_path):
    with pytest.raises(UserError, match="not of an agent"):
        vae.policy()
    with pytest.raises(UserError, match="is of an agent, not of a model"):
        agent.sample(2)


def test_events_tell_the_story(place):
    heard = Listener()
    rayloom.train("autoencoders/vae-digits", SMALL, track=False, observer=heard)
    kinds = [kind for kind, _ in heard.events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("evaluation") == 2
    assert kinds.count("progress") == 6


def test_fine_tuning_starts_from_the_best_weights(vae, place):
    tuned = rayloom.train(
        "autoencoders/vae-digits", [*SMALL, "optimizer.lr=1e-12"], init=vae, track=False
    )
    assert tuned.metrics["eval/elbo_nats"] == pytest.approx(vae.best["value"], abs=0.05)
    assert tuned.about["options"]["init"] == str(vae.path)


def test_fine_tuning_an_agent(agent, place):
    tuned = rayloom.train(
        "rl/dqn-cartpole", [*AGENT, "optimizer.lr=1e-12"], init=agent, track=False
    )
    observation = torch.randn(4, 4)
    torch.testing.assert_close(
        tuned.model("last")(observation), agent.model("best")(observation), rtol=1e-4, atol=1e-4
    )


def test_weights_of_another_model_are_refused(vae, place):
    with pytest.raises(UserError, match="do not fit"):
        rayloom.train("autoencoders/vae-digits", [*SMALL, "model.latent_dim=3"], init=vae)


def test_smoke_runs_are_short_and_hidden(place):
    run = rayloom.train("autoencoders/vae-digits", smoke=True)
    assert run.about["smoke"]
    assert run.about["protocol"] == "bernoulli, dynamic binarisation; 5 importance samples"
    assert run.id not in set(rayloom.runs()["id"])
    assert run.id in set(rayloom.runs(smoke=True)["id"])


def test_overfitting_a_batch_lowers_its_loss(place):
    run = rayloom.train(
        "autoencoders/vae-digits",
        ["train.epochs=20", "evaluation.every=20", "evaluation.metrics=[]"],
        overfit_batch=True,
        track=False,
    )
    loss = run.history(["loss/total"])["loss/total"].dropna()
    assert loss.iloc[-1] < 0.8 * loss.iloc[0]


def test_a_profile_is_written(place):
    run = rayloom.train("autoencoders/vae-digits", ["train.epochs=4"], profile=True, track=False)
    assert run.status == "finished"
    assert any(Path("profile").iterdir())


def test_seeds_are_grouped_and_reported(place):
    group = rayloom.train("autoencoders/vae-digits", SMALL, seeds=2)
    children = group.children
    assert [child.about["seed"] for child in children] == [0, 1]
    values = [child.best["value"] for child in children]
    assert group.metrics["seeds/best_mean"] == pytest.approx(sum(values) / 2)
    assert group.best["value"] == max(values)
    assert group.best_run.best["value"] == max(values)
    assert group.sample(2).shape == (2, 1, 8, 8)
    assert group.status == "finished"
    # MLflow: one parent with two children
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    found = client.search_runs(
        [e.experiment_id for e in client.search_experiments()],
        f"tags.`rayloom.run_id` = '{group.id}'",
    )
    assert len(found) == 1
    nested = client.search_runs(
        [found[0].info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{found[0].info.run_id}'",
    )
    assert {run.data.tags["rayloom.run_id"] for run in nested} == {c.id for c in children}
    assert found[0].data.metrics["seeds/best_mean"] == pytest.approx(sum(values) / 2)


def test_an_own_model_class_trains(place):
    from rayloom.models.autoencoders.vae import VAE, VAEConfig

    class OwnConfig(VAEConfig):
        name: Literal["own-vae"] = "own-vae"

    class OwnVAE(VAE):
        config_class = OwnConfig

    run = rayloom.train(
        {"data": {"name": "digits"}, "train": {"grad_steps": 5}}, model=OwnVAE, track=False
    )
    assert run.config.model.name == "own-vae"
    with pytest.raises(UserError, match="--plugin"):
        rayloom.train(
            {"data": {"name": "digits"}, "resources": {"workers": 2}}, model=OwnVAE, track=False
        )


def test_an_own_environment_trains(place):
    from rayloom_envs.gridworld import GridWorld

    class OwnGrid(GridWorld):
        """An environment of the caller's."""

    # A greedy policy may walk in a circle: without a limit its evaluation never ends.
    limit = "env.wrappers=[{name: TimeLimit, max_episode_steps: 50}]"
    run = rayloom.train(
        "rl/dqn-cartpole", [*AGENT, "evaluation.video=false", limit], env=OwnGrid, track=False
    )
    assert run.config.env.name == "OwnGrid"
    assert run.status == "finished"


def test_a_failed_attempt_tells_its_cause_everywhere_until_the_next_begins(
    place, monkeypatch, capsys
):
    """run.json, log.txt, MLflow's tag, the command line; and then none of them."""
    from mlflow import MlflowClient

    from rayloom.models.autoencoders.vae import VAE
    from rayloom_pipelines.cli import main

    def tag(run):
        known = json.loads((run.path / "tracking.json").read_text())
        found = MlflowClient(known["uri"]).get_run(known["mlflow_run_id"])
        return found.info.status, found.data.tags.get("rayloom.cause")

    def broken(self, batch, **named):
        try:
            return {}["picture"]
        except KeyError as error:
            raise RuntimeError("no batch") from error

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "loss", broken)
        with pytest.raises(RuntimeError, match="no batch") as caught:
            rayloom.train("autoencoders/vae-digits", [*SMALL, "train.epochs=1"])
        assert isinstance(caught.value.__cause__, KeyError)
        run = rayloom.load("latest")
        cause = run.about["cause"]
        assert cause.startswith("KeyError: 'picture' at ")
        assert "test_pipelines_runs.py:" in cause
        assert "(told as RuntimeError: no batch)" in cause
        log = (run.path / "log.txt").read_text()
        assert "Traceback (most recent call last)" in log
        assert "direct cause of" in log
        assert str(run.path / "log.txt") in "".join(caught.value.__notes__)
        assert run.about["ended"]
        assert tag(run) == ("FAILED", cause)
        with pytest.raises(UserError):  # refused: it is still the failed run that it was
            rayloom.resume(run, ["resources.workers=2", "resources.address=127.0.0.1:1"])
        assert tag(run) == ("FAILED", run.about["cause"])
    assert main(["runs", "show", run.id]) == 0
    assert f"traceback          {run.path / 'log.txt'}" in capsys.readouterr().out
    rayloom.resume(run, ["train.time_limit_s=1e-9"])  # ends at once, well
    assert "cause" not in run.about
    assert run.attempts[0]["cause"] == cause
    assert not tag(run)[1]


def test_a_failed_run_says_so(place, monkeypatch):
    from rayloom.core.errors import NonFiniteError
    from rayloom.models.autoencoders.vae import VAE

    monkeypatch.setattr(
        VAE, "loss", lambda self, batch, **k: {"loss": self.terms(batch["image"], k["rng"])[0] / 0}
    )
    with pytest.raises(NonFiniteError):
        rayloom.train("autoencoders/vae-digits", SMALL, track=False)
    newest = rayloom.runs().iloc[-1]
    assert newest["status"] == "failed"


def test_changed_data_stops_a_resume(place, monkeypatch):
    run = rayloom.train("autoencoders/vae-digits", [*SMALL, "train.epochs=1"], track=False)
    run.folder.update(data=run.about["data"] | {"fingerprint": "0" * 64})
    with pytest.raises(UserError, match="has changed since"):
        rayloom.resume(run, ["train.epochs=2"])
