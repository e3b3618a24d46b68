"""A picture as a sum of 2-D Gaussians that prune and densify.

B. Kerbl, G. Kopanas, T. Leimkuehler, G. Drettakis, 2023, arXiv:2308.04079 (splats whose density is
controlled); X. Zhang et al., 2024, arXiv:2403.08551 (a picture as a sum, without an order in
depth); S. Rota Bulo, L. Porzi, P. Kontschieder, 2024, arXiv:2404.06109 (density that follows the
error).

    picture(p) = sum_i a_i c_i exp(-1/2 (p - m_i)^T S_i^-1 (p - m_i)),   S_i = R_i diag(s_i^2) R_i^T

with mean m, scales s = exp(.), rotation R of an angle, colour c and opacity a = sigmoid(.). What is
minimised is the squared error. Every `period` steps, until `densify_until` of the run,

    prune     splats whose opacity is below `min_opacity` give up their row;
    densify   free rows, at most a share `grow` of all, get new splats of `scale`, at pixels drawn
              in proportion to the squared error, in the colour that is missing there.

Rows of the parameters have a fixed capacity; moments of the optimizer and averages follow the rows,
new ones begin with zero moments.

Deviations from Kerbl et al.: new splats stand where the error is, not beside splats whose means
have large gradients (clones and splits reached less than fixed splats here: see the page);
opacities are not reset.

Dimension key: N capacity, C channels, H height, W width, P = H W pixels.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import Config, PositiveFloat, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Export, Player, Sum, Turn, operation
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.preprocess import to_unit


class Splats2DConfig(Config):
    """Settings of 2-D Gaussian splats (after Kerbl et al., 2023)."""

    name: Literal["splats-2d"] = "splats-2d"
    capacity: PositiveInt = Field(300, description="N, splats at most")
    start: PositiveInt = Field(100, description="splats at first")
    densify: bool = Field(True, description="false: the first ones are all there will be")
    period: PositiveInt = Field(20, description="grad_steps between densifications")
    densify_until: float = Field(0.6, gt=0, le=1, description="share of the run")
    grow: float = Field(0.15, gt=0, le=1, description="share of the capacity added at once")
    scale: PositiveFloat = Field(1.5, description="of new splats, in pixels")
    min_opacity: float = Field(0.02, ge=0, lt=1, description="below it a splat is pruned")


class Splats2D(nn.Module):
    """Splats, of which some are alive, for one picture.

    Args:
        config: Settings.
        spec: The data: one training picture, whose field `image` fixes C, H and W.

    Raises:
        UserError: There is more than one training picture, or fewer rows than splats at first.
    """

    config_class: ClassVar[type] = Splats2DConfig
    task: ClassVar[str] = "geometry"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    default_metric: ClassVar[str | None] = "eval/psnr_db"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/psnr_db"),
        Metric("eval/mse", "1", "min", "mean squared error of a pixel in [0, 1]"),
        Metric("eval/splats", "splats", "none", "how many are alive"),
        Metric("loss/splats", "splats", "none", "how many are alive"),
    )
    alive: Bool[Tensor, " N"]
    grid: Float[Tensor, "P 2"]

    @classmethod
    def example(cls) -> tuple[Splats2DConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        arrays = {name: value[:1] for name, value in tiny_images().items()}
        return Splats2DConfig(capacity=6, start=4, period=2), arrays

    def __init__(self, config: Splats2DConfig, spec: DataSpec) -> None:
        super().__init__()
        if spec.num_train > 1:
            raise UserError(
                f"splats fit one picture, the training split has {spec.num_train}: set data.limit=1"
            )
        if config.start > config.capacity:
            raise UserError(
                f"model.start is {config.start}, but model.capacity is {config.capacity}"
            )
        channels, height, width = spec.image.shape
        self.config, self.image_shape = config, (channels, height, width)
        rows, aspect = config.capacity, width / height
        spread = math.sqrt(aspect / config.start) / 2
        self.mean = nn.Parameter(torch.rand(rows, 2) * torch.tensor([aspect, 1.0]))
        self.log_scale = nn.Parameter(torch.full((rows, 2), math.log(spread)))
        self.angle = nn.Parameter(torch.rand(rows) * math.pi)
        self.colour = nn.Parameter(torch.rand(rows, channels))
        self.opacity_logit = nn.Parameter(torch.zeros(rows))
        self.register_buffer("alive", torch.arange(rows) < config.start)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([x, y], -1).view(-1, 2).add(0.5) / height  # in pictures' heights
        self.register_buffer("grid", grid, persistent=False)

    @property
    def players(self) -> tuple[Player, ...]:
        """One."""
        return (Player("model", self._rows),)

    @property
    def _rows(self) -> list[nn.Parameter]:
        return [self.mean, self.log_scale, self.angle, self.colour, self.opacity_logit]

    # Rendering ----------------------------------------------------------------------------------

    def whiten(self, mean: Float[Tensor, "N 2"], points: Float[Tensor, "P 2"]) -> Tensor:
        """S_i^(-1/2) (p - m_i) as A_i p - A_i m_i with A_i = diag(1 / s_i) R_i^T: (N, 2, P)."""
        cosine, sine = self.angle.cos(), self.angle.sin()
        turn = torch.stack([cosine, sine, -sine, cosine], 1).view(-1, 2, 2)  # R_i^T
        a = turn * (-self.log_scale).exp()[:, :, None]
        return torch.baddbmm(-(a @ mean[:, :, None]), a, points.T.expand(len(a), -1, -1))

    @property
    def opacity(self) -> Float[Tensor, " N"]:
        """a, 0 where a row is free."""
        return self.opacity_logit.sigmoid() * self.alive

    def render(
        self, points: Float[Tensor, "P 2"], mean: Tensor | None = None
    ) -> Float[Tensor, "P C"]:
        """The picture at points, in pictures' heights from its upper left corner."""
        at = self.whiten(self.mean if mean is None else mean, points)
        weight = torch.exp(-0.5 * at.square().sum(1))  # (N, P)
        return weight.T @ (self.opacity[:, None] * self.colour)

    def picture(self, mean: Tensor | None = None) -> Float[Tensor, "C H W"]:
        """The whole picture, not yet held to [0, 1]."""
        return self.render(self.grid, mean).T.reshape(self.image_shape)

    # The objective ------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Tensor | Sum]:
        """Mean squared error of a pixel, (B,), and what is missing, (C, H, W), added up."""
        missing = to_unit(batch["image"], self.mean.dtype) - self.picture()  # (B, C, H, W)
        error = missing.square().flatten(1).mean(1)
        alive = self.alive.sum().to(error).expand_as(error)
        return {"loss": error, "splats": alive, "missing": Sum(missing.detach().sum(0))}

    @torch.no_grad()
    def after_step(self, done: Done) -> None:
        """Every `period` steps prune and densify."""
        config, turn = self.config, done.turn
        early = turn.grad_step < config.densify_until * turn.horizon
        if config.densify and early and (turn.grad_step + 1) % config.period == 0:
            self.alive &= self.opacity >= config.min_opacity
            self._densify(done)

    def _densify(self, done: Done) -> None:
        """New splats in free rows, where the squared error of the last step is."""
        config, (_, height, width) = self.config, self.image_shape
        free = (~self.alive).nonzero().squeeze(1)[: max(1, int(config.grow * len(self.alive)))]
        missing = done.sums["missing"].to(self.colour) / done.rng.total
        around = nn.functional.avg_pool2d(missing[None], 3, 1, 1)[0].flatten(1)  # (C, P)
        weight = missing.square().sum(0).flatten().double().cumsum(0)  # (P,)
        if not len(free) or weight[-1] == 0:
            return
        draws = done.rng.of_length(len(free)).uniform("pixels").to(weight)
        pixels = torch.searchsorted(weight, draws * weight[-1], right=True).clamp(
            max=height * width - 1
        )
        fresh = torch.zeros_like(self.alive)
        fresh[free] = True
        done.move_rows(torch.arange(len(fresh), device=free.device), fresh, *self._rows)
        self.alive[free] = True
        self.mean[free] = self.grid[pixels].to(self.mean)
        self.log_scale[free] = math.log(config.scale / height)
        self.colour[free] = around[:, pixels].T
        self.opacity_logit[free] = 0.0

    def initialise(self, batch: Batch, *, rng: Noise) -> None:
        """Colours of the picture where the splats stand."""
        image = to_unit(batch["image"], self.mean.dtype)[0]
        height, width = self.image_shape[1:]
        x, y = (self.mean * height).long().unbind(1)
        self.colour.copy_(image[:, y.clamp(0, height - 1), x.clamp(0, width - 1)].T)

    # Looking ------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor]:
        """Mean squared error of what is shown, (B,)."""
        target = to_unit(batch["image"], self.mean.dtype)
        error = (self.picture().clamp(0, 1) - target).square().flatten(1).mean(1)
        return {"mse": error, "splats": self.alive.sum().to(error).expand_as(error)}

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """Peak signal-to-noise ratio, -10 log10 of the mean squared error."""
        return {"psnr_db": -10 * done.means["mse"].log10()}

    @operation(gives={"image": "image"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The fitted picture, as often as asked for."""
        picture = self.picture().clamp(0, 1)
        return {"image": picture.expand(len(rng), -1, -1, -1)}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """The picture beside the fitted one, and every splat as a dot of half a pixel's width."""
        target = to_unit(batch["image"], self.mean.dtype)[0]
        fitted, scale = self.picture().clamp(0, 1), self.log_scale.detach().clone()
        self.log_scale.fill_(math.log(0.5 / self.image_shape[1]))
        dots = self.picture().clamp(0, 1)
        self.log_scale.copy_(scale)
        return {"fit": Images(torch.stack([target, fitted, dots]), columns=3)}

    def exports(self) -> dict[str, Export]:
        """`render`: points (P, 2), in pictures' heights, to colours (P, C)."""
        return {"render": Export(Render(self), self.grid[:4].clone())}


class Render(nn.Module):
    """Points to colours.

    Args:
        model: Whose splats; shared, not copied.
    """

    def __init__(self, model: Splats2D) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor) -> Tensor:
        """(P, 2) to (P, C), held to [0, 1]."""
        return self.model.render(points).clamp(0, 1)
