"""Linear autoencoder in closed form: principal component analysis.

Baldi and Hornik, 1989, doi:10.1016/0893-6080(89)90014-2: the squared error of a linear encoder and
a linear decoder on centred data has no local minimum but the global one, where both span the K
leading eigenvectors of the covariance. So nothing is descended: one pass adds up the second
moments, and an eigendecomposition gives encoder V (x - mean) and decoder V^T z + mean.

A plain autoencoder is no density: it has neither log_prob nor sample.

Deviations: of the many optima (any invertible K x K matrix between encoder and decoder) the one of
PCA is taken: orthonormal rows by falling variance, the largest entry of each positive. Moments are
added up in double precision whatever the model's. Epochs after the first change nothing.

Dimension key: B images, D = C H W pixels, K dimensions of the code.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import Config, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Export, Player, Sum, Turn, operation
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.preprocess import to_unit
from rayloom.nn.state import keep_state

MOST_PIXELS = 4096  # D: the moments take D^2 doubles, 134 MB
SHOWN = 32  # components, and pairs of pictures


class LinearAEConfig(Config):
    """Settings of a linear autoencoder (Baldi and Hornik, 1989)."""

    name: Literal["linear-ae"] = "linear-ae"
    latent_dim: PositiveInt = Field(16, description="K, dimensions of the code; at most D")


class LinearAE(nn.Module):
    """Mean, components, and the moments that they come from.

    Args:
        config: Settings.
        spec: The data; its field `image` fixes C, H and W.

    Raises:
        UserError: The data hold no pictures, too large ones, or fewer pixels than K.
    """

    config_class: ClassVar[type] = LinearAEConfig
    task: ClassVar[str] = "representation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/psnr_db"),
        Metric("eval/explained", "share", "max", "variance about the training mean that is kept"),
    )
    default_metric: ClassVar[str | None] = "eval/explained"
    reads: ClassVar[tuple[str, ...]] = ("image",)

    @classmethod
    def example(cls) -> tuple[LinearAEConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        return LinearAEConfig(latent_dim=3), tiny_images()

    def __init__(self, config: LinearAEConfig, spec: DataSpec) -> None:
        super().__init__()
        self.image_shape, self.image_dtype = spec.image.shape, getattr(torch, spec.image.dtype)
        num_dims = int(torch.Size(self.image_shape).numel())
        if not config.latent_dim <= num_dims <= MOST_PIXELS:
            raise UserError(
                f"pictures of {num_dims} values do not fit: latent_dim is {config.latent_dim}, and "
                f"{MOST_PIXELS} values are the most (their products take the square of it)"
            )
        self.register_buffer("mean", torch.zeros(num_dims))  # (D,)
        self.register_buffer("components", torch.zeros(config.latent_dim, num_dims))  # (K, D)
        self.register_buffer("variance", torch.zeros(config.latent_dim))  # (K,), of the codes
        doubles = {"dtype": torch.float64}
        keep_state(self, "seen", torch.zeros((), **doubles))
        keep_state(self, "total", torch.zeros(num_dims, **doubles))
        keep_state(self, "products", torch.zeros(num_dims, num_dims, **doubles))

    @property
    def players(self) -> tuple[Player, ...]:
        """One that moves no parameters: `after_step` is the update."""
        return (Player("moments"),)

    # The parts ----------------------------------------------------------------------------------

    def observe(self, image: Tensor) -> Float[Tensor, "B D"]:
        """Stored pictures as rows in [0, 1]."""
        return to_unit(image, self.mean.dtype).flatten(1)

    def encode(self, image: Tensor) -> Float[Tensor, "B K"]:
        """Z = V (x - mean)."""
        return (self.observe(image) - self.mean) @ self.components.T

    def decode(self, z: Float[Tensor, "B K"]) -> Float[Tensor, "B D"]:
        """V^T z + mean."""
        return z @ self.components + self.mean

    # The objective ------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Sum]:
        """What the solution is a function of: number, sum and second moments of the pictures."""
        x = to_unit(batch["image"], torch.float64).flatten(1)  # (B, D)
        return {
            "seen": Sum(torch.full((), float(len(x)), dtype=x.dtype, device=x.device)),
            "total": Sum(x.sum(0)),
            "products": Sum(x.T @ x),
        }

    def after_step(self, done: Done) -> None:
        """Add a batch's moments; solve once all pictures are in, or when the run ends before."""
        if done.turn.epoch > 0:
            return
        for name in ("seen", "total", "products"):
            getattr(self, name).add_(done.sums[name])
        if done.turn.epoch_ends or done.turn.grad_step + 1 == done.turn.horizon:
            self.solve()

    @torch.no_grad()
    def solve(self) -> None:
        """Mean, components and variances from the moments seen so far."""
        mean = self.total / self.seen
        covariance = self.products / self.seen - torch.outer(mean, mean)  # (D, D), rising below
        values, vectors = torch.linalg.eigh(covariance)
        count = len(self.components)
        rows = vectors.T.flip(0)[:count]  # (K, D), largest variance first
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        self.components.copy_(rows * largest.sign())
        self.mean.copy_(mean)
        self.variance.copy_(values.flip(0)[:count].clamp_min(0))

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor | tuple]:
        """Squared error per picture, and the share of the variance that is explained."""
        x = self.observe(batch["image"])
        error = (x - self.decode(self.encode(batch["image"]))).square().sum(1)  # (B,)
        whole = (x - self.mean).square().sum(1)
        return {"loss": error, "explained": (whole - error, whole)}

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """The peak signal-to-noise ratio of all pixels of the split, for a peak of 1."""
        return {"psnr_db": -10 * (done.means["loss"] / len(self.mean)).log10()}

    # Use ----------------------------------------------------------------------------------------

    def reconstruction(self, image: Tensor) -> Float[Tensor, "B C H W"]:
        """The nearest picture of the K-dimensional plane, cut to [0, 1]."""
        return self.decode(self.encode(image)).clamp(0, 1).unflatten(1, self.image_shape)

    @operation(reads=("image",), gives={"image": "image"})
    @torch.no_grad()
    def reconstruct(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The nearest picture that the code can say."""
        return {"image": self.reconstruction(batch["image"])}

    @operation(reads=("image",), gives={"code": "vector"})
    @torch.no_grad()
    def embed(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The code: projections onto the components."""
        return {"code": self.encode(batch["image"])}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Pictures beside their reconstructions, and the components around middle grey."""
        image = batch["image"][:SHOWN]
        x = to_unit(image, self.mean.dtype)
        pairs = torch.stack([x, self.reconstruction(image)], 1).flatten(0, 1)
        rows = self.components[:SHOWN]
        scaled = rows / rows.abs().amax(1, keepdim=True).clamp_min(1e-12)
        return {
            "reconstructions": Images(pairs),
            "components": Images((0.5 + 0.5 * scaled).unflatten(1, self.image_shape)),
        }

    def exports(self) -> dict[str, Export]:
        """Pictures to codes."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {"encoder": Export(Encoder(self), example)}


class Encoder(nn.Module):
    """(B, C, H, W) to codes (B, K).

    Args:
        model: Whose mean and components are shared.
    """

    def __init__(self, model: LinearAE) -> None:
        super().__init__()
        self.register_buffer("mean", model.mean)
        self.register_buffer("components", model.components)

    def forward(self, image: Tensor) -> Tensor:
        """Codes of pictures."""
        x = to_unit(image, self.mean.dtype).flatten(1)
        return (x - self.mean) @ self.components.T
