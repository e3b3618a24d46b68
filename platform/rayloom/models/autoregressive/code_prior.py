"""A Transformer over the codes of a VQ-VAE: its prior, told a class where there are classes.

log p(codes | y) = sum_t log p(c_t | c_<t, y), van den Oord et al., 2017, arXiv:1711.00937, with the
causal Transformer of Vaswani et al., 2017, arXiv:1706.03762, in the place of the PixelCNN. The
first stage is a trained VQ-VAE and frozen; codes are read line by line. Samples are drawn code by
code with a cache of keys and values, and are decoded by the first stage.

Deviations: the Transformer; learned positions; normalisation before each part.

Dimension key: B images, P places, K codes, D model dimensions, Y classes.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayloom.config.references import RunReference
from rayloom.config.sections import Config, PositiveFloat, PositiveInt
from rayloom.core.errors import UserError
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
from rayloom.functional.codes import entropy_of_counts
from rayloom.media import Images, Media
from rayloom.models.autoencoders.vq_vae import VQVAE
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.attention import TransformerBlock
from rayloom.nn.dropout import Dropout, dropout_from
from rayloom.nn.method import Method

SHOWN = 64


class CodePriorConfig(Config):
    """Settings of a Transformer prior over codes."""

    name: Literal["code-prior"] = "code-prior"
    first_stage: RunReference = Field(description="a trained vq-vae")
    dim: PositiveInt = Field(96, description="D, dimensions of the model")
    layers: PositiveInt = Field(3, description="Transformer blocks")
    heads: PositiveInt = Field(4, description="of the attention; divides dim")
    dropout: float = Field(0.1, ge=0, lt=1, description="rate of the embeddings and in each block")


class SampleSettings(Config):
    """How to sample."""

    temperature: PositiveFloat = Field(1.0, description="divides the logits")


class CodePrior(nn.Module):
    """p(codes | class), and with the decoder of the first stage pictures.

    Args:
        config: Settings.
        spec: The data: a field `image`, and a field `label` if there are classes.
        stages: The first stage.

    Raises:
        UserError: The first stage is no VQ-VAE, or heads do not divide the dimensions.
    """

    config_class: ClassVar[type] = CodePriorConfig
    task: ClassVar[str] = "generative"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/nll_nats"),
        Metric("eval/unigram_nats", "nats/example", "none", "entropy of the codes taken alone"),
    )
    default_metric: ClassVar[str | None] = "eval/nll_nats"

    @classmethod
    def example(cls) -> tuple[CodePriorConfig, Arrays]:
        """Tiny settings and data, for laws and checks; the first stage is the VQ-VAE's example."""
        return CodePriorConfig(first_stage="vq-vae", dim=8, layers=2, heads=2), tiny_images()

    def __init__(
        self, config: CodePriorConfig, spec: DataSpec, *, stages: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        first = stages["first_stage"]
        if not isinstance(first, VQVAE):
            raise UserError(f"model.first_stage must be a vq-vae, not a {type(first).__name__}")
        if config.dim % config.heads:
            raise UserError(f"model.heads {config.heads} must divide model.dim {config.dim}")
        self.first_stage = first
        self.num_codes, self.length = len(first.codebook), math.prod(first.grid)
        label = spec.fields.get("label")
        self.num_classes = label.num_classes if label is not None else 0
        self.reads = ("image", "label") if self.num_classes else ("image",)
        self.start = nn.Embedding(max(1, self.num_classes), config.dim)
        self.embed = nn.Embedding(self.num_codes, config.dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.length, config.dim))
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.dim, config.heads, causal=True, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm, self.head = nn.LayerNorm(config.dim), nn.Linear(config.dim, self.num_codes)
        for table in (self.start, self.embed):
            nn.init.normal_(table.weight, std=0.02)

    @property
    def players(self) -> tuple[Player, ...]:
        """One; the first stage is frozen."""
        frozen = {id(p) for p in self.first_stage.parameters()}
        return (Player("model", [p for p in self.parameters() if id(p) not in frozen]),)

    @property
    def protocol(self) -> str:
        """What the nats are about."""
        told = ", given the class" if self.num_classes else ""
        return f"{self.length} codes of {self.num_codes}{told}"

    # The distribution ---------------------------------------------------------------------------

    def logits(
        self, codes: Int[Tensor, "B P"], label: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B P K"]:
        """Of each code, given those before it and the class."""
        before = self.embed(codes[:, :-1])
        h = torch.cat([self._started(len(codes), label), before], 1) + self.position
        h = self.drop(h)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))

    def log_prob(
        self, codes: Int[Tensor, "B P"], label: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """Log p(codes | class), nats."""
        logits = self.logits(codes, label)
        return -cross_entropy(logits.mT, codes, reduction="none").sum(1)

    def log_prob_of(self, image: Tensor) -> Float[Tensor, " B"]:
        """Log p of the codes of images, of class 0 where there are classes."""
        return self.log_prob(self.first_stage.codes_of(image))

    def _started(self, rows: int, label: Tensor | None) -> Float[Tensor, "B 1 D"]:
        if label is None or not self.num_classes:
            label = torch.zeros(rows, dtype=torch.int64, device=self.position.device)
        return self.start(label)[:, None]

    def draw(
        self, uniform: Float[Tensor, "B P"], label: Int[Tensor, " B"] | None, temperature: float
    ) -> Int[Tensor, "B P"]:
        """Codes by inversion of each conditional distribution, one place after the other.

        Args:
            uniform: Numbers in [0, 1), one a place.
            label: Classes.
            temperature: Divides the logits.
        """
        rows, length = uniform.shape
        caches = [block.attention.cache(rows, length) for block in self.blocks]
        h, codes = self._started(rows, label), []
        for place in range(length):
            h = h + self.position[place]
            for block, cache in zip(self.blocks, caches, strict=True):
                h = block(h, cache)
            codes.append(_inverted(self.head(self.norm(h))[:, 0] / temperature, uniform[:, place]))
            h = self.embed(codes[-1])[:, None]
        return torch.stack(codes, 1)

    # The contract -------------------------------------------------------------------------------

    def nats(self, batch: Batch, rng: Noise) -> tuple[Float[Tensor, " B"], Int[Tensor, "B P"]]:
        """-log p of the codes of images, and the codes."""
        with torch.no_grad():
            codes = self.first_stage.codes_of(batch["image"], rng=rng)
        return -self.log_prob(codes, batch.get("label")), codes

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """-log p(codes | class) per image, nats."""
        with dropout_from(self, rng):
            return {"loss": self.nats(batch, rng)[0]}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """Nats per image, and how often each code is used."""
        nats, codes = self.nats(batch, rng)
        uses = torch.bincount(codes.flatten(), minlength=self.num_codes)
        return {"loss": nats, "nll_nats": nats, "uses": Sum(uses)}

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """What a model would pay that knew no more than how often each code is used."""
        return {"unigram_nats": self.length * entropy_of_counts(done.sums["uses"])}

    @operation(settings=SampleSettings, takes=("label",), gives={"image": "image"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: SampleSettings | None = None) -> Batch:
        """Draw codes, of the classes that are given or of any, and decode them."""
        label = batch.get("label")
        if label is None and self.num_classes:
            label = rng.integers("label", self.num_classes)
        uniform = rng.uniform("codes", self.length).to(self.position)
        temperature = settings.temperature if settings is not None else 1.0
        codes = self.draw(uniform, label, temperature)
        return {"image": self.first_stage.decode_codes(codes), "codes": codes}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Samples, class by class where there are classes."""
        many = rng.of_length(SHOWN)
        given = {}
        if self.num_classes:
            given["label"] = torch.arange(SHOWN, device=self.position.device) % self.num_classes
        columns = min(self.num_classes, 16) or None
        return {"samples": Images(self.sample(given, rng=many)["image"], columns=columns)}

    def exports(self) -> dict[str, Export]:
        """`log_prob`: images to log p of their codes, under class 0 where there are classes."""
        shape, dtype = self.first_stage.image_shape, self.first_stage.image_dtype
        return {
            "log_prob": Export(Method(self, "log_prob_of"), torch.zeros((2, *shape), dtype=dtype))
        }


def _inverted(logits: Float[Tensor, "B K"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The code at which the cumulated probability passes `uniform`."""
    cumulated = logits.double().softmax(-1).cumsum(-1)
    wanted = uniform.double()[:, None].contiguous()
    found = torch.searchsorted(cumulated, wanted, right=True)[:, 0]
    return found.clamp(max=logits.shape[1] - 1)
