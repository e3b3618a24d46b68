"""VQ-VAE: an autoencoder whose latents are codes of a book.

Van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv:1711.00937. The encoder gives a map of vectors
z_e; each is replaced by the nearest code e_k; the gradient passes straight through to the encoder.
Minimised is, per image,

    -log p(x | e) + beta |z_e - sg[e]|^2,

and the book follows its vectors by the moving averages of the paper's appendix A.1,

    N_k <- decay N_k + (1 - decay) n_k,  m_k <- decay m_k + (1 - decay) sum of z_e,  e_k = m_k / N_k

with n_k and sums over the global batch, so that books are equal on all ranks.

Deviations from the paper: the book starts at vectors of the first batch, and codes that fall out of
use are revived: each takes half of one of the most used codes and a place beside it (Linde, Buzo
and Gray, 1980). Counts are smoothed as in the paper's code (Laplace).

Dimension key: B images, C channels, H height, W width, K codes, D dimensions of a code, P places.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import Config, NonNegativeInt, PositiveInt
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    DataSpec,
    Done,
    Export,
    Part,
    Player,
    Sum,
    Turn,
    operation,
)
from rayloom.distributions.base import Distribution
from rayloom.distributions.likelihoods import GaussianConfig, LikelihoodConfig, make_likelihood
from rayloom.functional.codes import entropy_of_counts, nearest_codes, revived
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.conv import ResidualConv, conv_sizes, down_stages, up_stages
from rayloom.nn.method import Method
from rayloom.nn.network import ConvNetwork
from rayloom.nn.state import keep_state

SHOWN = 32


class VQVAEConfig(Config):
    """Settings of a VQ-VAE (van den Oord et al., 2017, arXiv:1711.00937)."""

    name: Literal["vq-vae"] = "vq-vae"
    num_codes: PositiveInt = Field(128, description="K, codes in the book")
    code_dim: PositiveInt = Field(16, description="D, dimensions of a code")
    network: ConvNetwork = Field(ConvNetwork(), description="encoder; the decoder mirrors it")
    residual: NonNegativeInt = Field(1, description="residual blocks at the coarse size, each side")
    likelihood: LikelihoodConfig = Field(
        GaussianConfig(scale="fixed", std=0.25), description="p(x|codes)"
    )
    beta: float = Field(0.25, ge=0, description="weight of the commitment of z_e to its code")
    decay: float = Field(0.99, gt=0, lt=1, description="of the book's moving averages")
    revive_below: float = Field(
        0.5, ge=0, description="mean uses per batch below which a code is revived; 0: never"
    )


class VQVAE(nn.Module):
    """Encoder, book of codes, decoder.

    Args:
        config: Settings.
        spec: The data; its field `image` fixes C, H and W.

    Raises:
        UserError: The data hold no pictures, or too small ones for the network.
    """

    config_class: ClassVar[type] = VQVAEConfig
    task: ClassVar[str] = "representation"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/reconstruction_nats"),
        Metric("eval/commitment", "squared latents", "min", "|z_e - e|^2 per image"),
        Metric("eval/code_perplexity", "codes", "max", "exp of the entropy of the codes in use"),
        Metric("eval/unigram_nats", "nats/example", "none", "entropy of the codes taken alone"),
        Metric("loss/reconstruction_nats", "nats/example", "min", "-log p(x | codes)"),
        Metric("loss/commitment", "squared latents", "min", "|z_e - e|^2 per image"),
    )
    default_metric: ClassVar[str | None] = "eval/loss"
    codebook: Float[Tensor, "K D"]
    uses: Float[Tensor, " K"]
    mass: Float[Tensor, "K D"]

    @classmethod
    def example(cls) -> tuple[VQVAEConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        small = ConvNetwork(channels=(4, 6))
        return VQVAEConfig(num_codes=5, code_dim=3, network=small), tiny_images()

    def __init__(self, config: VQVAEConfig, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.image_shape = config, spec.image.shape
        self.image_dtype = getattr(torch, spec.image.dtype)
        channels, height, width = self.image_shape
        widths, activation = config.network.channels, config.network.activation
        self.grid = conv_sizes(height, width, len(widths))[-1]
        self.likelihood = make_likelihood(config.likelihood)
        blocks = [ResidualConv(widths[-1], activation=activation) for _ in range(config.residual)]
        self.encoder = nn.Sequential(
            down_stages(channels, widths, activation=activation),
            *blocks,
            nn.Conv2d(widths[-1], config.code_dim, 1),
        )
        blocks = [ResidualConv(widths[-1], activation=activation) for _ in range(config.residual)]
        out_shape = (channels * self.likelihood.params_per_channel, height, width)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, widths[-1], 1),
            *blocks,
            up_stages(out_shape, widths, activation=activation),
        )
        book = torch.randn(config.num_codes, config.code_dim)
        self.register_buffer("codebook", book)
        keep_state(self, "uses", torch.ones(config.num_codes))
        keep_state(self, "mass", book.clone())

    @property
    def players(self) -> tuple[Player, ...]:
        """One: encoder and decoder descend together; the book follows."""
        return (Player("model", list(self.parameters())),)

    @property
    def protocol(self) -> str:
        """What the reported nats are about."""
        return self.likelihood.protocol

    # The parts ----------------------------------------------------------------------------------

    def observe(self, image: Tensor, rng: Noise | None) -> Float[Tensor, "B C H W"]:
        """The modelled variable of stored images."""
        return self.likelihood.observe(image, rng, self.codebook.dtype)

    def vectors(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P D"]:
        """z_e, place by place in the order of reading."""
        return self.encoder(x).flatten(2).transpose(1, 2)

    def codes_of(self, image: Tensor, *, rng: Noise | None = None) -> Int[Tensor, "B P"]:
        """The codes of stored images."""
        return nearest_codes(self.vectors(self.observe(image, rng)), self.codebook)

    def decode(self, e: Float[Tensor, "B P D"]) -> Distribution:
        """p(x | e)."""
        return self.likelihood(self.decoder(e.transpose(1, 2).unflatten(2, self.grid)))

    def decode_codes(self, codes: Int[Tensor, "B P"]) -> Float[Tensor, "B C H W"]:
        """E[x | codes] as pixels in [0, 1]."""
        return self.likelihood.to_picture(self.decode(self.codebook[codes]).mean)

    def terms(self, image: Tensor, rng: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-log p(x | e) and |z_e - e|^2 per image; z_e and its codes."""
        x = self.observe(image, rng)
        z = self.vectors(x)
        codes = nearest_codes(z.detach(), self.codebook)
        e = self.codebook[codes]
        straight = z + (e - z).detach()  # forward e, backward z
        reconstruction = -self.decode(straight).log_prob(x)
        return reconstruction, (z - e).square().sum((1, 2)), z.detach(), codes

    # The contract -------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, batch: Batch, *, rng: Noise) -> None:
        """The book starts at vectors of a batch, chosen without repetition while there are any."""
        z = self.vectors(self.observe(batch["image"], rng)).flatten(0, 1)
        order = rng.shared("first codes", len(z)).argsort()
        order = order.repeat(-(-self.config.num_codes // len(z)))[: self.config.num_codes]
        self.codebook.copy_(z[order])
        self.mass.copy_(self.codebook)
        self.uses.fill_(1.0)

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """The two terms, and what the book needs of the batch: n_k and the sums of z_e."""
        reconstruction, commitment, z, codes = self.terms(batch["image"], rng)
        counts = torch.bincount(codes.flatten(), minlength=len(self.codebook)).to(z.dtype)
        sums = torch.zeros_like(self.mass).index_add_(0, codes.flatten(), z.flatten(0, 1))
        return {
            "loss": reconstruction + self.config.beta * commitment,
            "reconstruction_nats": reconstruction,
            "commitment": commitment,
            "counts": Sum(counts),
            "sums": Sum(sums),
        }

    def after_step(self, done: Done) -> None:
        """The book follows its vectors, and codes out of use are revived."""
        weight = 1.0 - self.config.decay
        self.uses.lerp_(done.sums["counts"].to(self.uses), weight)
        self.mass.lerp_(done.sums["sums"].to(self.mass), weight)
        if self.config.revive_below:
            noise = done.rng.shared("revival", *self.mass.shape).to(self.mass)
            uses, mass = revived(self.uses, self.mass, noise, below=self.config.revive_below)
            self.uses.copy_(uses)
            self.mass.copy_(mass)
        total, small = self.uses.sum(), 1e-5
        smoothed = (self.uses + small) / (total + len(self.uses) * small) * total
        self.codebook.copy_(self.mass / smoothed[:, None])

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """The terms per image, and how often each code is used."""
        reconstruction, commitment, _, codes = self.terms(batch["image"], rng)
        return {
            "loss": reconstruction + self.config.beta * commitment,
            "reconstruction_nats": reconstruction,
            "commitment": commitment,
            "uses": Sum(torch.bincount(codes.flatten(), minlength=len(self.codebook))),
        }

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """Perplexity of the codes in use, and the nats of an image's codes taken alone."""
        entropy = entropy_of_counts(done.sums["uses"])
        return {
            "code_perplexity": entropy.exp(),
            "unigram_nats": entropy * math.prod(self.grid),
        }

    @operation(reads=("image",), gives={"codes": "tokens"})
    @torch.no_grad()
    def encode(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The codes of pictures, in the order of reading."""
        return {"codes": self.codes_of(batch["image"], rng=rng)}

    @operation(reads=("image",), gives={"image": "image"})
    @torch.no_grad()
    def reconstruct(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """What is left of pictures in their codes."""
        return {"image": self.decode_codes(self.codes_of(batch["image"], rng=rng))}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Originals beside their reconstructions, four pairs a row."""
        image = batch["image"][:SHOWN]
        x = self.observe(image, rng.rows(0, len(image)))
        again = self.decode_codes(nearest_codes(self.vectors(x), self.codebook))
        pairs = torch.stack([self.likelihood.to_picture(x), again], 1)
        return {"reconstructions": Images(pairs.flatten(0, 1), columns=8)}

    def exports(self) -> dict[str, Export]:
        """`codes`: images to their codes, (B, P) int64."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {"codes": Export(Method(self, "codes_of"), example)}
