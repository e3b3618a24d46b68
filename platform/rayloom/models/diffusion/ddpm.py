"""Denoising diffusion (Ho, Jain and Abbeel, 2020, arXiv:2006.11239) with classifier-free guidance.

A chain q(x_t|x) = N(sqrt(abar_t) x, (1 - abar_t) I) turns data into noise; a U-Net eps(x_t, t, y)
learns to say which noise is in x_t, by |eps - eps(x_t, t, y)|^2 at a uniform t. Sampling walks back
(`functional.diffusion.reverse_chain`): DDPM's own steps, or DDIM's (Song et al., 2021,
arXiv:2010.02502), on all T times or some of them. With classes, the label is kept from a share of
the training rows, and sampling follows eps_u + w (eps_c - eps_u) (Ho and Salimans, 2022,
arXiv:2207.12598; their weight is w - 1).

Deviations: a smaller U-Net (`nn.unet`), which sees `patch` x `patch` pixels as channels; the cosine
schedule (Nichol and Dhariwal, 2021, arXiv:2102.09672) as an option; the loss is a mean over pixels.

Time: t = 0 is the picture x in [-1, 1], t = T noise.

Dimension key: B examples, C channels, H height, W width, T steps of the chain, S frames of a film.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from rayloom.config.sections import Config, NonNegativeInt, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Export, Player, Turn, operation
from rayloom.functional.diffusion import (
    SCHEDULES,
    bound_weight,
    diffuse,
    discretised_gaussian_log_prob,
    guide,
    posterior_variance,
    predict_x,
    prior_kl,
    reverse_chain,
    sampling_times,
)
from rayloom.media import Film, Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.preprocess import to_unit
from rayloom.nn.unet import UNet, UNetNetwork

SHOWN = 40  # pictures, in rows of ten
SHOWN_STEPS = 25


class DDPMConfig(Config):
    """Settings of denoising diffusion (Ho et al., 2020, arXiv:2006.11239)."""

    name: Literal["ddpm"] = "ddpm"
    num_steps: int = Field(1000, ge=2, description="T, steps of the chain")
    schedule: Literal["linear", "cosine"] = Field("linear", description="of the noise")
    network: UNetNetwork = Field(UNetNetwork(), description="eps(x_t, t, y)")
    patch: PositiveInt = Field(1, description="pixels of a side that the network sees as channels")
    conditional: bool = Field(True, description="tell it the label, where the data have one")
    label_dropout: float = Field(0.1, ge=0, le=1, description="share of rows that are not told")


class DDPMSampling(Config):
    """Settings of the sampler."""

    sampler: Literal["ddpm", "ddim"] = Field("ddim", description="ddpm draws noise at each step")
    steps: PositiveInt = Field(50, description="of the T times, evenly spaced")
    guidance: float = Field(
        2.0, ge=0, description="w: 0 without the label, 1 with it, more exaggerates it"
    )
    clip: bool = Field(True, description="keep the picture that a step aims at in [-1, 1]")
    frames: NonNegativeInt = Field(0, description="of a film of what the steps aim at; 0: none")


class DDPM(nn.Module):
    """The chain, the network that walks it back, and the objective.

    Args:
        config: Settings.
        spec: The data; its field `image` fixes C, H and W, its field `label` the classes.

    Raises:
        UserError: The data hold no pictures.
    """

    config_class: ClassVar[type] = DDPMConfig
    task: ClassVar[str] = "generative"
    metrics: ClassVar[tuple[Metric, ...]] = shared(
        "eval/loss", "eval/bpd", "eval/frechet", "eval/conditional_accuracy"
    )
    default_metric: ClassVar[str | None] = "eval/loss"  # the bound has a wide spread
    alpha_bar: Tensor

    @classmethod
    def example(cls) -> tuple[DDPMConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        network = UNetNetwork(channels=(4, 8), groups=2, heads=2)
        return DDPMConfig(num_steps=50, network=network, patch=2), tiny_images()

    def __init__(self, config: DDPMConfig, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.num_steps = config, config.num_steps
        self.image_shape = tuple(spec.image.shape)
        label = spec.fields.get("label")
        self.num_classes = label.num_classes if label is not None and config.conditional else 0
        channels = self.image_shape[0] * config.patch**2
        self.network = UNet(
            config.network, channels, channels, timed=True, num_classes=self.num_classes
        )
        alpha_bar = SCHEDULES[config.schedule](config.num_steps)
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)

    @property
    def players(self) -> tuple[Player, ...]:
        """One: the network."""
        return (Player("model", list(self.parameters())),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields that are used."""
        return ("image", "label") if self.num_classes else ("image",)

    @property
    def protocol(self) -> str:
        """What the reported bits are about."""
        told = "given the label, " if self.num_classes else ""
        return f"variational bound {told}one time an image; 256 grey levels"

    # The objective ------------------------------------------------------------------------------

    def observe(self, image: Tensor) -> Float[Tensor, "B C H W"]:
        """Stored images as x in [-1, 1]."""
        return to_unit(image, self.network.stem.weight.dtype) * 2 - 1

    def eps(
        self, x_t: Float[Tensor, "B C H W"], t: Int[Tensor, " B"], label: Tensor | None
    ) -> Float[Tensor, "B C H W"]:
        """The network's word for the noise in x_t; the label `num_classes` is "not told"."""
        p, (height, width) = self.config.patch, x_t.shape[-2:]
        folded = pixel_unshuffle(pad(x_t, (0, -width % p, 0, -height % p)), p)
        time = t.to(x_t) * (1000 / self.num_steps)
        return pixel_shuffle(self.network(folded, time=time, label=label), p)[
            ..., :height, :width
        ].to(x_t)

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Tensor]:
        """|eps - eps(x_t, t, y)|^2 per pixel, at a uniform t. See `core.protocols.Model`."""
        x, label = self.observe(batch["image"]), self.label_of(batch)
        t = rng.integers("t", self.num_steps) + 1
        eps = rng.normal("eps", *self.image_shape).to(x)
        if label is not None:
            kept = rng.uniform("label dropout") >= self.config.label_dropout
            label = label.where(kept, self.num_classes)
        said = self.eps(diffuse(x, eps, self.alpha_bar[t]), t, label)
        return {"loss": (eps - said).square().flatten(1).mean(1)}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor]:
        """The loss, and the variational bound in bits per dimension, one time an image.

        bpd >= -log2 p(x) / D: KL(q(x_T|x) || N(0, I)), then T - 1 times the KL of the step from a
        uniform t >= 2 (so it is unbiased), then the grey levels' mass under p(x|x_1).
        """
        loss = self.loss(batch, rng=rng, turn=Turn())["loss"]
        x, label = self.observe(batch["image"]), self.label_of(batch)
        t = rng.integers("bound t", self.num_steps - 1) + 2
        eps, first = (rng.normal(f"bound {k}", *self.image_shape).to(x) for k in ("eps", "x_1"))
        said = self.eps(diffuse(x, eps, self.alpha_bar[t]), t, label)
        distance = (eps - said).square().flatten(1).sum(1)
        chain = (self.num_steps - 1) * bound_weight(self.alpha_bar, t).to(x) * distance
        one = torch.ones_like(t)
        x_1 = diffuse(x, first, self.alpha_bar[one])
        mean = predict_x(x_1, self.eps(x_1, one, label), self.alpha_bar[one])
        std = math.sqrt(posterior_variance(self.alpha_bar[2], self.alpha_bar[1]))
        nats = prior_kl(x, float(self.alpha_bar[-1])) + chain
        nats = nats - discretised_gaussian_log_prob(x, mean, std)
        return {"loss": loss, "bpd": nats / (math.log(2) * math.prod(self.image_shape))}

    def label_of(self, batch: Batch) -> Int[Tensor, " B"] | None:
        """The labels of a batch; None where the model is not told any."""
        return batch["label"].long() if self.num_classes else None

    # Sampling -----------------------------------------------------------------------------------

    def guided_eps(
        self, x_t: Float[Tensor, "B C H W"], t: int, label: Tensor | None, weight: float
    ) -> Float[Tensor, "B C H W"]:
        """eps_u + w (eps_c - eps_u), both branches in one doubled batch; w = 0 and 1 need one."""
        time = torch.full((len(x_t),), t, device=x_t.device)
        if label is None:
            return self.eps(x_t, time, None)
        untold = torch.full_like(label, self.num_classes)
        if weight in (0.0, 1.0):
            return self.eps(x_t, time, label if weight else untold)
        both = self.eps(x_t.repeat(2, 1, 1, 1), time.repeat(2), torch.cat([untold, label]))
        unconditional, conditional = both.chunk(2)
        return guide(unconditional, conditional, weight)

    @operation(settings=DDPMSampling, takes=("label",), gives={"image": "image", "film": "film"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: DDPMSampling) -> Batch:
        """Walk from noise to pictures in [0, 1]; labels that are not given are drawn.

        Raises:
            UserError: More steps than the chain has, or a label for a model that knows none.
        """
        if settings.steps > self.num_steps:
            raise UserError(
                f"steps={settings.steps}: the chain has {self.num_steps}; take 1 to so many"
            )
        if "label" in batch and not self.num_classes:
            raise UserError("given label: this model was trained without labels")
        label = None
        if self.num_classes:
            drawn = rng.integers("label", self.num_classes)
            label = batch.get("label", drawn).long()
        steps = reverse_chain(
            lambda x_t, t: self.guided_eps(x_t, t, label, settings.guidance),
            rng.normal("x_T", *self.image_shape),
            sampling_times(self.num_steps, settings.steps),
            self.alpha_bar,
            eta=1.0 if settings.sampler == "ddpm" else 0.0,
            noise=lambda t: rng.normal(f"step {t}", *self.image_shape),
            clip=settings.clip,
        )
        kept = {*torch.linspace(0, settings.steps - 1, settings.frames).round().int().tolist()}
        frames: list[Tensor] = []
        for number, step in enumerate(steps):
            last = step.x_s
            if number in kept:
                frames.append(step.x)
        made = {"image": _picture(last)}
        if frames:
            made["film"] = _picture(torch.stack(frames, 1))  # (B, S, C, H, W)
        return made | ({"label": label} if label is not None else {})

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Samples, a class a column, and the film of how they came."""
        settings = DDPMSampling(steps=min(SHOWN_STEPS, self.num_steps), frames=SHOWN_STEPS)
        told = {}
        if self.num_classes:
            told["label"] = torch.arange(SHOWN, device=rng.device) % self.num_classes
        made = self.sample(told, rng=rng.of_length(SHOWN), settings=settings)
        film = Film(made["film"].transpose(0, 1), columns=10)
        return {"samples": Images(made["image"], columns=10), "denoising": film}

    def exports(self) -> dict[str, Export]:
        """`denoiser`: pictures in [-1, 1] with noise of level T / 4 to the clean ones."""
        return {"denoiser": Export(Denoiser(self), torch.zeros(2, *self.image_shape))}


class Denoiser(nn.Module):
    """x_t at t = T / 4 to the x that the model takes it for, no label told.

    Args:
        model: Its network is shared, not copied.
    """

    def __init__(self, model: DDPM) -> None:
        super().__init__()
        self.model, self.t = model, max(1, model.num_steps // 4)

    def forward(self, x_t: Tensor) -> Tensor:
        """Clean pictures, in [-1, 1]."""
        model = self.model
        t = torch.full_like(x_t[:, 0, 0, 0], self.t, dtype=torch.int64)
        label = torch.full_like(t, model.num_classes) if model.num_classes else None
        return predict_x(x_t, model.eps(x_t, t, label), model.alpha_bar[t]).clamp(-1, 1)


def _picture(x: Tensor) -> Tensor:
    return ((x + 1) / 2).clamp(0, 1)
