"""The same VAE in rayloom and in pythae 0.1.2: one network, one set of weights, equal outputs.

pythae's default networks are one hidden layer of 512 with ReLU on either side; rayloom's
`network: mlp, widths: [512]` is the same. pythae gives (mean, log variance) and probabilities,
rayloom (mean, log std) and logits; the log variance's weights are halved on the way over.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rayloom.core.protocols import DataSpec
from rayloom.models.autoencoders.vae import VAE, VAEConfig

LATENT_DIM, HIDDEN = 16, 512


def make_ours(spec: DataSpec, seed: int) -> VAE:
    """A VAE of rayloom with pythae's default network, binarised at one half."""
    config = VAEConfig(
        latent_dim=LATENT_DIM,
        network={"name": "mlp", "widths": (HIDDEN,)},  # type: ignore[arg-type]
        likelihood={"name": "bernoulli", "binarise": "threshold"},  # type: ignore[arg-type]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAE(config, spec)


def make_theirs(spec: DataSpec) -> Any:
    """A VAE of pythae with its default networks and Bernoulli reconstruction."""
    from pythae.models import VAE as TheirVAE
    from pythae.models import VAEConfig as TheirConfig

    return TheirVAE(
        TheirConfig(
            input_dim=tuple(spec.image.shape), latent_dim=LATENT_DIM, reconstruction_loss="bce"
        )
    )


def _pairs(ours: VAE, theirs: Any) -> Iterator[tuple[Tensor, Tensor, float]]:
    """(our slice, their parameter, factor from ours to theirs)."""
    head = ours.posterior.linear
    for name in ("weight", "bias"):
        yield getattr(ours.encoder.layers[0], name), getattr(theirs.encoder.layers[0][0], name), 1
        yield getattr(head, name)[:LATENT_DIM], getattr(theirs.encoder.embedding, name), 1
        yield getattr(head, name)[LATENT_DIM:], getattr(theirs.encoder.log_var, name), 2
        for place in (0, 1):
            mine = ours.decoder.layers[2 * place]
            yield getattr(mine, name), getattr(theirs.decoder.layers[place][0], name), 1


@torch.no_grad()
def to_theirs(ours: VAE, theirs: Any) -> None:
    """Copy rayloom's weights into pythae's model."""
    for mine, other, factor in _pairs(ours, theirs):
        other.copy_(mine * factor)


@torch.no_grad()
def to_ours(theirs: Any, ours: VAE) -> None:
    """Copy pythae's weights into rayloom's model."""
    for mine, other, factor in _pairs(ours, theirs):
        mine.copy_(other / factor)


@torch.no_grad()
def assert_equal(ours: VAE, theirs: Any, image: Tensor) -> None:
    """Both models say the same of some images.

    Raises:
        AssertionError: A mean, standard deviation, probability or loss term differs.
    """
    x = ours.observe(image, None)
    q, out = ours.posterior_of(x), theirs.encoder(x)
    torch.testing.assert_close(q.mean, out.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(q.log_std, out.log_covariance / 2, rtol=1e-4, atol=1e-5)
    decoded, other = ours.decode(q.mean), theirs.decoder(q.mean)["reconstruction"]
    torch.testing.assert_close(decoded.mean, other, rtol=1e-4, atol=1e-5)
    _, recon, kl = theirs.loss_function(other, x, out.embedding, out.log_covariance, q.mean)
    torch.testing.assert_close(-decoded.log_prob(x).mean(), recon, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(q.kl().mean(), kl, rtol=1e-4, atol=1e-4)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send the progress bars and log lines of pythae nowhere."""
    logging.getLogger("pythae").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def train_theirs(
    theirs: Any, x: Tensor, *, epochs: int, batch_size: int, lr: float, seed: int
) -> Any:
    """Train with pythae's own trainer and return the model that it keeps.

    Args:
        theirs: pythae's model.
        x: Binarised training images, float (N, C, H, W).
        epochs: Passes.
        batch_size: Examples per step.
        lr: Adam's learning rate.
        seed: pythae's seed of order and noise.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    with tempfile.TemporaryDirectory() as folder, quiet():
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=lr,
            per_device_train_batch_size=batch_size,
            optimizer_cls="Adam",
            seed=seed,
            no_cuda=True,
        )
        trainer = BaseTrainer(
            theirs, train_dataset=BaseDataset(x, torch.zeros(len(x))), training_config=config
        )
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("pythae"):
                logging.getLogger(name).setLevel(logging.ERROR)
        trainer.train()
        return trainer._best_model
