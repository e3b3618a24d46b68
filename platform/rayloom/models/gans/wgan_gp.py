"""Wasserstein GAN with gradient penalty (Gulrajani et al., 2017, arXiv:1704.00028).

The critic D, a real number and no probability, and the generator G act in turn:

    critic      minimise  E D(G(z)) - E D(x) + lambda E (|grad D(u)| - 1)^2,
                u = e x + (1 - e) G(z), e uniform in [0, 1], one a pair
    generator   minimise  -E D(G(z)),                                z ~ N(0, I)

so that E D(x) - E D(G(z)) estimates the Wasserstein-1 distance of data and samples: among functions
of slope at most 1 the best critic attains it, and its slope is 1 almost everywhere on the lines
between coupled points. The critic takes `critic_steps` steps per step of the generator, each on
fresh data; there is no batch normalisation in it, for the penalty is of one example's gradient.

Deviations from the paper: pictures are in [-1, 1] through tanh as there, but the networks are the
shared ones (strided convolutions without normalisation, leaky ReLU in the critic); evaluation and
samples use an average of the weights where `train.ema` is set.

Dimension key: B images, C channels, H height, W width, D latent dimensions.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import Config, PositiveFloat, PositiveInt
from rayloom.core.metric_table import Metric
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Export, Player, Turn, operation
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.network import ConvNetwork, MLPNetwork, NetworkConfig, make_decoder, make_encoder
from rayloom.nn.preprocess import to_unit

SHOWN, STEPS = 64, 8


class WGANGPConfig(Config):
    """Settings of a Wasserstein GAN with gradient penalty (Gulrajani et al., 2017)."""

    name: Literal["wgan-gp"] = "wgan-gp"
    latent_dim: PositiveInt = Field(64, description="D, dimensions of z")
    generator: NetworkConfig = Field(ConvNetwork(), description="mirrored: latents to pictures")
    critic: NetworkConfig = Field(
        ConvNetwork(activation="leaky-relu"), description="pictures to features"
    )
    penalty: PositiveFloat = Field(10.0, description="lambda, weight of the gradient penalty")
    critic_steps: PositiveInt = Field(5, description="steps of the critic per generator step")


class WGANGP(nn.Module):
    """Critic and generator.

    Args:
        config: Settings.
        spec: The data; its field `image` fixes C, H and W.

    Raises:
        UserError: The data hold no pictures, or too small ones for the networks.
    """

    config_class: ClassVar[type] = WGANGPConfig
    task: ClassVar[str] = "generative"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    double_backward: ClassVar[bool] = True
    default_metric: ClassVar[str | None] = None
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("eval/critic_gap", "1", "none", "E D(x) - E D(G(z)) on the split"),
        Metric(
            "eval/frechet", "squared features", "min", "Frechet distance of samples to the split"
        ),
        Metric("eval/kid", "1", "min", "kernel distance of samples to the split"),
        Metric("eval/mode_coverage", "share", "max", "classes of the split that the samples reach"),
        Metric("loss/critic/gap", "1", "none", "E D(x) - E D(G(z)): estimate of the distance"),
        Metric("loss/critic/penalty", "1", "min", "(|grad D| - 1)^2, before lambda"),
        Metric("loss/critic/slope", "1", "none", "|grad D|; 1 at the optimum"),
    )

    @classmethod
    def example(cls) -> tuple[WGANGPConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        tiny = MLPNetwork(widths=(8,), activation="tanh")
        return WGANGPConfig(latent_dim=2, generator=tiny, critic=tiny), tiny_images()

    def __init__(self, config: WGANGPConfig, spec: DataSpec) -> None:
        super().__init__()
        channels, height, width = spec.image.shape
        self.image_shape = (channels, height, width)
        self.latent_dim, self.penalty = config.latent_dim, config.penalty
        self.critic_steps = config.critic_steps
        self.generator = make_decoder(config.generator, config.latent_dim, self.image_shape)
        encoder = make_encoder(config.critic, self.image_shape)
        self.critic = nn.Sequential(encoder, nn.Linear(encoder.out_dim, 1))

    @property
    def players(self) -> tuple[Player, ...]:
        """The critic with its several steps, then the generator, which needs no new pictures."""
        return (
            Player(
                "critic",
                list(self.critic.parameters()),
                loss=self.critic_loss,
                repeats=self.critic_steps,
            ),
            Player(
                "generator",
                list(self.generator.parameters()),
                loss=self.generator_loss,
                fresh=False,
            ),
        )

    # The parts ----------------------------------------------------------------------------------

    def generate(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B C H W"]:
        """G(z), in [-1, 1]."""
        return torch.tanh(self.generator(z))

    def judge(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """D(x)."""
        return self.critic(x).squeeze(1)

    def latent(self, rng: Noise, name: str) -> Float[Tensor, "B D"]:
        """Z ~ N(0, I)."""
        return rng.normal(name, self.latent_dim).to(next(self.generator.parameters()))

    def observe(self, image: Tensor) -> Float[Tensor, "B C H W"]:
        """Stored pictures, uint8 or in [0, 1], as x in [-1, 1]."""
        return to_unit(image, next(self.generator.parameters()).dtype) * 2 - 1

    def slope(
        self, real: Float[Tensor, "B C H W"], fake: Float[Tensor, "B C H W"], rng: Noise
    ) -> Float[Tensor, " B"]:
        """|grad D(u)| at one random point u between each real picture and a sample."""
        weight = rng.uniform("between", 1, 1, 1).to(real)
        u = torch.lerp(fake, real, weight).requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.judge(u).sum(), u, create_graph=True)
        return gradient.flatten(1).square().sum(1).add(1e-12).sqrt()  # sqrt has no slope at 0

    # The objectives -----------------------------------------------------------------------------

    def critic_loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Tensor]:
        """D(G(z)) - D(x) + lambda (|grad D(u)| - 1)^2, and its parts; (B,) each."""
        real = self.observe(batch["image"])
        with torch.no_grad():
            fake = self.generate(self.latent(rng, "critic's z"))
        gap = self.judge(real) - self.judge(fake)
        slope = self.slope(real, fake, rng)
        penalty = (slope - 1).square()
        return {
            "loss": self.penalty * penalty - gap,
            "gap": gap,
            "penalty": penalty,
            "slope": slope,
        }

    def generator_loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Tensor]:
        """-D(G(z)), (B,)."""
        return {"loss": -self.judge(self.generate(self.latent(rng, "generator's z")))}

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Tensor]:
        """That of the player whose turn it is."""
        mine = self.critic_loss if turn.player == "critic" else self.generator_loss
        return mine(batch, rng=rng, turn=turn)

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor]:
        """The critic's gap, (B,): no score, for a better critic widens it."""
        fake = self.generate(self.latent(rng, "z"))
        return {"critic_gap": self.judge(self.observe(batch["image"])) - self.judge(fake)}

    # Using it -----------------------------------------------------------------------------------

    @operation(gives={"image": "image"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """G(z) for z ~ N(0, I), pixels in [0, 1]."""
        return {"image": (self.generate(self.latent(rng, "z")) + 1) / 2}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Samples, and straight lines between latents, a row each."""
        noise = rng.of_length(SHOWN)
        z = self.latent(noise, "z").view(2, -1, 1, self.latent_dim)[:, :STEPS]
        weight = torch.linspace(0, 1, STEPS).to(z).view(1, STEPS, 1)
        line = torch.lerp(z[0], z[1], weight).flatten(0, 1)
        return {
            "samples": Images(self.sample({}, rng=noise)["image"]),
            "interpolations": Images((self.generate(line) + 1) / 2, columns=STEPS),
        }

    def exports(self) -> dict[str, Export]:
        """`generator`: latents to pictures in [0, 1]."""
        return {"generator": Export(Generator(self), torch.zeros(2, self.latent_dim))}


class Generator(nn.Module):
    """(B, D) to pixels in [0, 1], (B, C, H, W).

    Args:
        model: Whose generator; shared, not copied.
    """

    def __init__(self, model: WGANGP) -> None:
        super().__init__()
        self.generator = model.generator

    def forward(self, z: Tensor) -> Tensor:
        """Pictures of latents."""
        return (torch.tanh(self.generator(z)) + 1) / 2
