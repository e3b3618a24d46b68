"""beta-VAE: the weight, the constraint, the multiplier; and what training on digits must give."""

import pytest
import torch

from rayloom.config.sections import AdamConfig, DataConfig, EvaluationConfig, TrainConfig
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Turn
from rayloom.data import open_dataset
from rayloom.models.autoencoders.beta_vae import BetaVAE, BetaVAEConfig
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom.testing.models import done
from rayloom.training import fit

pytestmark = pytest.mark.law("beta-vae")

SPEC = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")}, "toy")


def make(**settings):
    torch.manual_seed(0)
    return BetaVAE(BetaVAEConfig(latent_dim=3, widths=(6,), **settings), SPEC)


def images(num=16):
    generator = torch.Generator().manual_seed(1)
    shape = (num, 1, 8, 8)
    return {"image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)}


def loss_of(model):
    return model.loss(images(), rng=Noise(0, total=16), turn=Turn())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_beta_weighs_the_kl(beta):
    parts = loss_of(make(beta=beta))
    torch.testing.assert_close(
        parts["loss"], parts["reconstruction_nats"] + beta * parts["kl_nats"]
    )


def test_beta_one_is_the_vae():
    torch.manual_seed(0)
    plain = VAE(VAEConfig(latent_dim=3, widths=(6,)), SPEC)
    torch.testing.assert_close(loss_of(make(beta=1.0))["loss"], loss_of(plain)["loss"])


def test_metrics_are_never_weighted():
    """eval/elbo_nats compares between values of beta."""
    batch, rng = images(), Noise(0, total=16)
    values = [make(beta=beta).evaluate_batch(batch, rng=rng) for beta in (1.0, 4.0)]
    torch.testing.assert_close(values[0]["elbo_nats"], values[1]["elbo_nats"])
    assert (values[1]["loss"] > values[0]["loss"]).all()


def test_fixed_beta_does_not_move():
    model = make(beta=4.0)
    model.after_step(done({"kl_nats": 100.0}))
    assert model.multiplier.item() == 4.0
    assert "multiplier" not in loss_of(model)


def test_multiplier_follows_the_residual_and_stays_at_zero():
    """beta <- max(0, beta + eta (KL - delta)): the -beta delta of the Lagrangian is in it."""
    model = make(beta=1.0, target_kl_nats=5.0, multiplier_lr=0.1)
    model.after_step(done({"kl_nats": 8.0}))
    assert model.multiplier.item() == pytest.approx(1.3)
    for _ in range(10):
        model.after_step(done({"kl_nats": 1.0}))
    assert model.multiplier.item() == 0.0
    assert model.state_dict()["multiplier"].item() == 0.0


def test_lagrangian_and_its_parts():
    model = make(beta=0.7, target_kl_nats=5.0)
    parts = loss_of(model)
    residual = parts["kl_nats"] - 5.0
    torch.testing.assert_close(parts["kl_residual_nats"], residual.detach())
    torch.testing.assert_close(parts["slackness_nats"], 0.7 * residual.detach())
    torch.testing.assert_close(parts["loss"], parts["reconstruction_nats"] + 0.7 * residual)
    torch.testing.assert_close(parts["multiplier"], torch.full((16,), 0.7))
    free = loss_of(make(beta=0.7))
    torch.testing.assert_close(parts["loss"] + 0.7 * 5.0, free["loss"])


@pytest.mark.parametrize(
    "settings", [{"beta": -1}, {"target_kl_nats": 0}, {"multiplier_lr": 0}, {"gamma": 3}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        BetaVAEConfig(**settings)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return open_dataset(DataConfig(name="digits", root=str(root)))


def train(model, digits, epochs, **about):
    return fit(
        model,
        digits,
        train=TrainConfig(epochs=epochs, log_every=20),
        optimizer=AdamConfig(lr=1e-3),
        evaluate=EvaluationConfig(every=epochs, **about),
    )


@pytest.mark.parametrize("target", [3.0, 8.0])
def test_constraint_is_met_on_digits(digits, target):
    """Reached from both sides of the unconstrained KL (about 5), multiplier >= 0 throughout."""
    torch.manual_seed(0)
    config = BetaVAEConfig(
        latent_dim=8, widths=(128,), beta=1, target_kl_nats=target, multiplier_lr=3e-3
    )
    result = train(BetaVAE(config, digits.spec), digits, epochs=60)
    multipliers = [value for _, value in result.history("loss/multiplier")]
    assert min(multipliers) >= 0
    assert result.history("loss/kl_nats")[-1][1] == pytest.approx(target, abs=0.4)
    assert result.metrics["eval/kl_nats"] == pytest.approx(target, abs=0.4)
    assert result.history("loss/slackness_nats")[-1][1] == pytest.approx(0.0, abs=0.5)
    # A tighter target has a higher price; below the VAE's own rate it is above 1, above it below.
    assert (multipliers[-1] > 1) == (target < 4)


def test_vae_learns_digits(digits):
    """Well below independent pixels (the best model that uses no latent), NLL below -ELBO."""
    torch.manual_seed(0)
    model = VAE(VAEConfig(latent_dim=8, widths=(256,)), digits.spec)
    metrics = train(model, digits, epochs=40, metrics=["nll"], importance_samples=50).metrics
    split = digits.split("train")
    mean = split.take(torch.arange(len(split)))["image"].double().mean(0) / 255
    entropy = -(torch.xlogy(mean, mean) + torch.xlogy(1 - mean, 1 - mean)).sum().item()
    assert -metrics["eval/elbo_nats"] < entropy - 3
    assert metrics["eval/nll_nats"] < -metrics["eval/elbo_nats"]
    assert metrics["eval/kl_nats"] > 2
