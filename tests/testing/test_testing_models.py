"""The conformance checks pass what keeps the contract and name what breaks it."""

import pytest
import torch

from rayloom import catalogue
from rayloom.testing import check_env_state, check_model


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_every_catalogue_model_keeps_the_contract(name):
    model_class = catalogue.load("models", name)
    check_model(model_class, model_class.config_class())


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

    def sample(self, num, *, rng):
        torch.rand(1)
        return original(self, num, rng=rng)

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
