"""Variational autoencoder for images (Kingma and Welling, 2014, arXiv:1312.6114).

Maximises the evidence lower bound E_q log p(x|z) - KL(q(z|x) || N(0, I)) with one reparameterised
sample per image; q(z|x) is a diagonal Gaussian, the likelihood is one of
`rayloom.distributions.likelihoods`.

Deviations from the paper: ReLU and Adam by default instead of tanh and Adagrad; convolutions as an
option; the posterior's log standard deviation is kept within [-7, 2].

Initial weights come from torch's global generator: the caller seeds it around the constructor
(`with torch.random.fork_rng(): torch.manual_seed(seed); VAE(config, spec)`). After that nothing
here draws from a global generator.

Dimension key: B images, C channels, H height, W width, D latent dimensions, K importance samples.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from rayloom.config.renamed import plainly
from rayloom.config.sections import Config, PositiveInt
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    DataSpec,
    Export,
    Player,
    Turn,
    operation,
)
from rayloom.distributions.base import Distribution
from rayloom.distributions.gaussian import DiagonalGaussian, DiagonalGaussianHead
from rayloom.distributions.likelihoods import BernoulliConfig, LikelihoodConfig, make_likelihood
from rayloom.functional.likelihood import bits_per_dim
from rayloom.media import Images, Media
from rayloom.media.latents import COLUMNS, interpolations, latent_pictures, traversals
from rayloom.models.autoencoders.encoder_mean import EncoderMean
from rayloom.models.autoencoders.importance import CHUNK_ROWS, importance_weighted_log_prob
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.network import BESIDE, MLPNetwork, NetworkConfig, make_decoder, make_encoder


class VAESettings(Config):
    """What every VAE here can be told."""

    old_keys: ClassVar = BESIDE
    name: str = Field("", description="catalogue name; the models narrow it")
    latent_dim: PositiveInt = Field(16, description="D, dimensions of z")
    network: NetworkConfig = Field(MLPNetwork(), description="encoder; the decoder mirrors it")
    likelihood: LikelihoodConfig = Field(
        BernoulliConfig(), description="p(x|z), and what is done to the pixels before"
    )

    @model_validator(mode="before")
    @classmethod
    def _old_keys(cls, values: Any) -> Any:
        return plainly(cls, values)


class VAEConfig(VAESettings):
    """Settings of a variational autoencoder (Kingma and Welling, 2014, arXiv:1312.6114)."""

    name: Literal["vae"] = "vae"


class VAE(nn.Module):
    """Encoder, decoder, likelihood, and the objective that ties them.

    Args:
        config: Settings.
        spec: The data; its field `image` fixes C, H and W.

    Raises:
        UserError: The data hold no pictures (`core.fields`), or too small ones for the network.
    """

    config_class: ClassVar[type] = VAEConfig
    task: ClassVar[str] = "generative"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/elbo_nats", "eval/reconstruction_nats", "eval/kl_nats"),
        *shared("eval/bpd", "eval/nll_nats"),
        Metric("loss/reconstruction_nats", "nats/example", "min", "-E_q log p(x|z)"),
        Metric("loss/kl_nats", "nats/example", "none", "KL(q(z|x) || p(z))"),
    )
    default_metric: ClassVar[str | None] = "eval/elbo_nats"

    @classmethod
    def example(cls) -> tuple[VAESettings, Arrays]:
        """Tiny settings and data, for laws and checks."""
        return cls.config_class(latent_dim=2, network=MLPNetwork(widths=(8,))), tiny_images()

    def __init__(self, config: VAESettings, spec: DataSpec) -> None:
        super().__init__()
        channels, height, width = spec.image.shape
        self.config, self.latent_dim = config, config.latent_dim
        self.image_shape = (channels, height, width)
        self.image_dtype = getattr(torch, spec.image.dtype)
        self.likelihood = make_likelihood(config.likelihood)
        out_shape = (channels * self.likelihood.params_per_channel, height, width)
        self.encoder = make_encoder(config.network, self.image_shape)
        self.posterior = DiagonalGaussianHead(self.encoder.out_dim, config.latent_dim)
        self.decoder = make_decoder(config.network, config.latent_dim, out_shape)

    @property
    def players(self) -> tuple[Player, ...]:
        """One: encoder and decoder descend together."""
        return (Player("model", list(self.parameters())),)

    @property
    def protocol(self) -> str:
        """What the reported nats are about: likelihood and what is done to the pixels."""
        return self.likelihood.protocol

    # The parts ----------------------------------------------------------------------------------

    def observe(self, image: Tensor, rng: Noise | None) -> Float[Tensor, "B C H W"]:
        """The modelled variable x of stored images (binarised, dequantised, rescaled).

        Args:
            image: uint8, or floating in [0, 1], (B, C, H, W).
            rng: Noise of these rows; None gives its mean.
        """
        return self.likelihood.observe(image, rng, self.posterior.linear.weight.dtype)

    def posterior_of(self, x: Float[Tensor, "B C H W"]) -> DiagonalGaussian:
        """q(z|x) of an already observed x."""
        return self.posterior(self.encoder(x))

    def encode(self, image: Tensor, *, rng: Noise | None = None) -> DiagonalGaussian:
        """q(z|x) of stored images, (B, D)."""
        return self.posterior_of(self.observe(image, rng))

    def decode(self, z: Float[Tensor, "*batch D"]) -> Distribution:
        """p(x|z); its `mean` is in the units of the likelihood, see `decode_picture`."""
        flat = self.decoder(z.flatten(0, -2))  # (prod batch, PC, H, W)
        return self.likelihood(flat.unflatten(0, z.shape[:-1]) if z.ndim > 2 else flat)

    def decode_picture(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch C H W"]:
        """E[x|z] as pixels in [0, 1]."""
        return self.likelihood.to_picture(self.decode(z).mean)

    # The objective ------------------------------------------------------------------------------

    def terms(self, image: Tensor, rng: Noise) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """One-sample estimate of -E_q log p(x|z), and KL(q(z|x) || p(z)); nats per image."""
        x = self.observe(image, rng)
        posterior = self.posterior_of(x)
        z = posterior.sample(rng, "z")
        return -self.decode(z).log_prob(x), posterior.kl()

    def objective(self, reconstruction: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """What is minimised, from the two terms, and the parts to log; (B,) each, nats."""
        return {"loss": reconstruction + kl, "reconstruction_nats": reconstruction, "kl_nats": kl}

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Tensor]:
        """Negative ELBO per image, nats, and its two parts. See `core.protocols.Model`."""
        return self.objective(*self.terms(batch["image"], rng))

    def elbo(self, image: Tensor, *, rng: Noise) -> Float[Tensor, " B"]:
        """Evidence lower bound, one sample of z per image, nats; never weighted by a beta."""
        reconstruction, kl = self.terms(image, rng)
        return -(reconstruction + kl)

    @torch.no_grad()
    def nll(
        self, batch: Batch, *, num_samples: int, rng: Noise, chunk: int = CHUNK_ROWS
    ) -> Float[Tensor, " B"]:
        """Importance-weighted estimate of -log p(x), an upper bound, nats per image.

        Args:
            batch: Its field `image`.
            num_samples: K; the bound tightens as it grows.
            rng: Noise of these images; the same x is observed as in `elbo` under this `rng`.
            chunk: Most decoder rows in memory at once.

        Raises:
            ValueError: `num_samples` or `chunk` is not positive.
        """
        x = self.observe(batch["image"], rng)

        def log_likelihood(z: Tensor, images: slice) -> Tensor:
            return self.decode(z).log_prob(x[images])

        return -importance_weighted_log_prob(
            self.posterior_of(x), log_likelihood, num_samples=num_samples, rng=rng, chunk=chunk
        )

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor]:
        """Metrics per image of the evaluation split, (B,) each.

        `bpd` is there only where the likelihood is one of discrete (or dequantised) data.
        """
        reconstruction, kl = self.terms(batch["image"], rng)
        bound = reconstruction + kl
        values = {
            "loss": self.objective(reconstruction, kl)["loss"],
            "elbo_nats": -bound,
            "reconstruction_nats": reconstruction,
            "kl_nats": kl,
        }
        offset = self.likelihood.bits_offset
        if offset is not None:
            num_dims = batch["image"][0].numel() if len(batch["image"]) else 1
            values["bpd"] = bits_per_dim(bound + num_dims * offset, num_dims)
        return values

    # Pictures -----------------------------------------------------------------------------------

    @operation(gives={"image": "image"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """E[x|z] for z ~ N(0, I), pixels in [0, 1]."""
        return {"image": self.decode_picture(self._like(rng.normal("prior", self.latent_dim)))}

    @operation(reads=("image",), gives={"image": "image"})
    @torch.no_grad()
    def reconstruct(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """E[x|z] at the mean of q(z|x), pixels in [0, 1]."""
        return {"image": self.decode_picture(self.encode(batch["image"], rng=rng).mean)}

    @operation(reads=("image",), gives={"code": "vector"})
    @torch.no_grad()
    def embed(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The mean of q(z|x)."""
        return {"code": self.encode(batch["image"]).mean}

    @torch.no_grad()
    def interpolate(
        self, first: Tensor, second: Tensor, *, steps: int = COLUMNS
    ) -> Float[Tensor, "B steps C H W"]:
        """Pictures along the straight line between the posterior means of pairs of images."""
        start, stop = self.encode(first).mean, self.encode(second).mean
        return interpolations(self.decode_picture, start, stop, steps=steps)

    @torch.no_grad()
    def traverse(
        self, image: Tensor, dims: list[int], *, span: float = 2.5, steps: int = COLUMNS
    ) -> Float[Tensor, "rows steps C H W"]:
        """Pictures as one dimension at a time moves away from one image's posterior mean."""
        rest = self.encode(image).mean
        return traversals(self.decode_picture, rest, dims, span=span, steps=steps)

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Samples and what `latent_pictures` draws.

        Traversals show the dimensions of the largest KL on this batch.
        """
        x = self.observe(batch["image"], rng)
        posterior = self.posterior_of(x)
        shown, important = self.likelihood.to_picture(x), posterior.kl_per_dim().mean(0)
        return {
            "samples": Images(self.sample({}, rng=rng.of_length(COLUMNS * COLUMNS))["image"]),
            **latent_pictures(self.decode_picture, shown, posterior.mean, important),
        }

    def exports(self) -> dict[str, Export]:
        """`encoder`: images, uint8 or floating in [0, 1], to the mean of q(z|x)."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {
            "encoder": Export(EncoderMean(self.likelihood, self.encoder, self.posterior), example)
        }

    def _like(self, noise: Tensor) -> Tensor:
        return noise.to(self.posterior.linear.weight)
