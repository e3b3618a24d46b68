"""The law of data parallelism for the shipped models: N ranks equal one, multiplier included.

The ranks are threads of this process, so that the test costs no start of workers; real workers are
tested where they live.
"""

import numpy as np
import pytest
import torch

from rayloom.config.sections import AdamConfig, EvaluationConfig, RunConfig, TrainConfig
from rayloom.core.collective import Solo
from rayloom.data import from_arrays, make_source
from rayloom.models.autoencoders.beta_vae import BetaVAE, BetaVAEConfig
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from thread_ranks import on_ranks

pytestmark = pytest.mark.law("vae", "beta-vae")


MODELS = {
    "mlp-bernoulli": (VAE, VAEConfig(latent_dim=3, widths=(8,))),
    "conv-gaussian": (
        VAE,
        VAEConfig(latent_dim=3, network="conv", widths=(4, 6), likelihood="gaussian"),
    ),
    "mlp-logistic": (
        VAE,
        VAEConfig(latent_dim=3, widths=(8,), likelihood="discretised-logistic"),
    ),
    "constrained": (
        BetaVAE,
        BetaVAEConfig(latent_dim=3, widths=(8,), target_kl_nats=2, multiplier_lr=0.1),
    ),
}


def build(make):
    """In one thread: torch's global generator, which draws the weights, is shared by threads."""
    cls, config = make
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    dataset = from_arrays("noise", {"train": {"image": images}})
    torch.manual_seed(0)
    return cls(config, dataset.spec).double(), dataset


def train(built, batch_size, collective):
    model, dataset = built
    run = RunConfig(
        optimizer=AdamConfig(lr=1e-2),
        train=TrainConfig(grad_steps=5, log_every=1),
        evaluation=EvaluationConfig(metrics=["nll"], importance_samples=3),
    )
    engine = Engine(
        model,
        run,
        make_source(dataset, "train", batch_size=batch_size, seed=0, shuffle=True),
        make_source(dataset, "train", batch_size=16, seed=0, shuffle=False),
        collective=collective,
    )
    engine.advance(5, sink=MemorySink(), interrupted=lambda: False)
    return model.state_dict(), engine.evaluate()


@pytest.mark.parametrize("batch_size", [7, 1])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_two_ranks_equal_one(make, batch_size):
    """Five steps in double precision, relative 1e-9; at batch size 1 one rank has no example."""
    alone, metrics = train(build(make), batch_size, Solo())
    built = [build(make), build(make)]
    for state, values in on_ranks(2, lambda rank, group: train(built[rank], batch_size, group)):
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert values == pytest.approx(metrics, rel=1e-9)
