"""The conformance checks pass what keeps the contract and name what breaks it."""

import pytest
import torch

from rayloom import catalogue
from rayloom.config.references import references
from rayloom.config.sections import RunConfig, TrainConfig
from rayloom.core.declared import declared_metrics, default_metrics
from rayloom.core.metric_table import METRICS
from rayloom.core.protocols import operation
from rayloom.rl.evaluation import metric_names
from rayloom.rl.loop import RLTrainable
from rayloom.testing import check_env_state, check_model, example_of
from rayloom.training.fitting import MemorySink


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_every_catalogue_model_keeps_the_contract(name):
    check_model(catalogue.load("models", name))


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_and_on_noise_with_its_default_settings(name):
    model_class = catalogue.load("models", name)
    config, spec, _ = example_of(model_class)
    check_model(model_class, model_class.config_class(**references(config)), spec)


@pytest.mark.parametrize("name", catalogue.names("algorithms"))
def test_every_learner_runs_its_example_and_writes_what_it_declares(name):
    """Rounds of a tiny run: the learner's own metrics are all declared."""
    learner_class = catalogue.load("algorithms", name)
    algorithm, env = learner_class.example()
    train = TrainConfig(env_steps=64, log_every=16)
    trainable = RLTrainable(RunConfig(algorithm=algorithm, env=env, train=train))
    sink = MemorySink()
    trainable.advance(64, sink=sink, interrupted=lambda: False)
    written = {key for _, values in sink.points for key in values} | set(metric_names())
    known = {**METRICS, **declared_metrics(learner_class)}
    assert sorted(written - set(known)) == []
    assert default_metrics(learner_class)[0] in written


def test_a_metric_that_is_not_declared_is_named(monkeypatch):
    model_class, _ = vae()
    monkeypatch.setattr(model_class, "metrics", model_class.metrics[1:])
    with pytest.raises(AssertionError, match=r"VAE.metrics does not declare eval/loss, which it"):
        check_model(model_class)


def test_a_best_that_is_not_written_is_named(monkeypatch):
    model_class, _ = vae()
    monkeypatch.setattr(model_class, "default_metric", "eval/accuracy")
    with pytest.raises(AssertionError, match="does not write its default_metric eval/accuracy"):
        check_model(model_class)


@pytest.mark.parametrize(
    ("example", "said"),
    [(None, "has no example"), (lambda: 3, "must give"), (lambda: (3, {}, 4), "must give")],
)
def test_an_example_of_another_form_is_told(example, said, monkeypatch):
    model_class, _ = vae()
    monkeypatch.setattr(model_class, "example", example)
    with pytest.raises(AssertionError, match=said):
        check_model(model_class)


def vae():
    model_class = catalogue.load("models", "vae")
    return model_class, model_class.config_class()


def broken(monkeypatch, method, replacement):
    model_class, config = vae()
    monkeypatch.setattr(model_class, method, replacement)
    return model_class, config


def test_global_noise_is_named(monkeypatch):
    model_class, config = vae()
    original = model_class.sample

    @operation(gives={"image": "image"})
    def sample(self, batch, *, rng, settings=None):
        torch.rand(1)
        return original(self, batch, rng=rng)

    monkeypatch.setattr(model_class, "sample", sample)
    with pytest.raises(AssertionError, match="global generator"):
        check_model(model_class, config)


def test_a_mean_over_the_batch_is_named(monkeypatch):
    def loss(self, batch, *, rng, turn):
        reconstruction, kl = self.terms(batch["image"], rng)
        return {"loss": reconstruction.mean() + kl}

    with pytest.raises(AssertionError, match="differs between one slice and two"):
        check_model(*broken(monkeypatch, "loss", loss))


def test_a_scalar_loss_is_named(monkeypatch):
    def loss(self, batch, *, rng, turn):
        return {"loss": sum(self.terms(batch["image"], rng)).mean()}

    with pytest.raises(AssertionError, match="one value an example"):
        check_model(*broken(monkeypatch, "loss", loss))


def test_a_forgotten_gradient_is_named(monkeypatch):
    def loss(self, batch, *, rng, turn):
        return {"loss": self.terms(batch["image"], rng)[1]}  # only the KL: no decoder

    with pytest.raises(AssertionError, match="no gradient of player 'model' reaches decoder"):
        check_model(*broken(monkeypatch, "loss", loss))


def test_a_forgotten_variable_of_an_environment_is_named():
    from rayloom_envs.gridworld import GridWorld

    check_env_state(GridWorld)

    class Forgetful(GridWorld):
        def set_state(self, state):
            """Restores nothing."""

    with pytest.raises(AssertionError, match="differ"):
        check_env_state(Forgetful)
