"""Tabular autoregressive model of a few binary pixels, learned by counting.

p(x) = prod_i p(x_i | x_<i), each conditional a table with an entry for every context: 2^n - 1
numbers for n pixels (2^(i-1) for pixel i). The maximum of the likelihood is the relative frequency.
It is smoothed by the estimator of Krichevsky and Trofimov, 1981, doi:10.1109/TIT.1981.1056331,
(ones + a) / (seen + 2a) with a = 1/2: the posterior mean under a Beta(a, a) prior. With `order` m
a pixel knows the m before it, which gives the baselines: 0 independent pixels, 1 a Markov chain.

Deviations: the paper codes one sequence whose counts grow as it is read; here one pass over the
training pictures counts, and the tables then stand still. Epochs after the first change nothing.

Dimension key: B pictures, n pixels of the block in raster order, T table entries.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from rayloom.config.sections import Config, NonNegativeInt, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Export, Player, Sum, Turn, operation
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.preprocess import to_unit

MOST_ENTRIES = 1 << 20  # T
SHOWN = 64


class TabularARConfig(Config):
    """Settings of a tabular autoregressive model."""

    name: Literal["tabular-ar"] = "tabular-ar"
    rows: PositiveInt = Field(3, description="of the block, in the middle of the picture")
    columns: PositiveInt = Field(4, description="of the block")
    stride: PositiveInt = Field(1, description="pixels from one of the block to the next")
    threshold: float = Field(0.5, ge=0, lt=1, description="a pixel is 1 above this grey value")
    order: NonNegativeInt | None = Field(None, description="pixels before that count; null: all")
    pseudo_count: float = Field(0.5, ge=0, description="a, added to each count; 0: frequencies")


class TabularAR(nn.Module):
    """Two tables of counts, and the pixels that index them.

    Args:
        config: Settings.
        spec: The data; its field `image` must have one channel and room for the block.

    Raises:
        UserError: The block does not fit, or the tables would be too large.
    """

    config_class: ClassVar[type] = TabularARConfig
    task: ClassVar[str] = "generative"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/nll_nats", "eval/bpd"),
        Metric("eval/unseen", "share", "none", "pixels whose context no training picture has"),
    )
    default_metric: ClassVar[str | None] = "eval/nll_nats"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    protocol: ClassVar[str] = "exact, block of pixels binarised at a threshold"
    ones: Int[Tensor, " T"]
    seen: Int[Tensor, " T"]

    @classmethod
    def example(cls) -> tuple[TabularARConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        return TabularARConfig(rows=2, columns=2), tiny_images()

    def __init__(self, config: TabularARConfig, spec: DataSpec) -> None:
        super().__init__()
        self.config = config
        channels, height, width = self.image_shape = spec.image.shape
        self.image_dtype = getattr(torch, spec.image.dtype)
        tall, wide = ((side - 1) * config.stride + 1 for side in (config.rows, config.columns))
        if channels != 1 or tall > height or wide > width:
            raise UserError(
                f"a block of {tall}x{wide} grey pixels does not fit into pictures of {channels} "
                f"channels and {height}x{width} pixels (model.rows, model.columns, model.stride)"
            )
        top, left = (height - tall) // 2, (width - wide) // 2
        self.block = (
            slice(top, top + tall, config.stride),
            slice(left, left + wide, config.stride),
        )
        self.num_pixels = config.rows * config.columns
        most = self.num_pixels if config.order is None else config.order
        self.known = [min(i, most) for i in range(self.num_pixels)]  # pixels that pixel i knows
        sizes = [1 << count for count in self.known]
        if sum(sizes) > MOST_ENTRIES:
            raise UserError(
                f"tables of {sum(sizes):,} entries are too large, at most {MOST_ENTRIES:,}: a "
                "smaller block (model.rows, model.columns) or a model.order"
            )
        self.offsets = [sum(sizes[:i]) for i in range(self.num_pixels)]
        for name in ("ones", "seen"):
            self.register_buffer(name, torch.zeros(sum(sizes), dtype=torch.int64))

    @property
    def players(self) -> tuple[Player, ...]:
        """One that moves no parameters: `after_step` is the update."""
        return (Player("counts"),)

    # The parts ----------------------------------------------------------------------------------

    def observe(self, image: Tensor) -> Int[Tensor, "B n"]:
        """The block's pixels, 0 or 1, in raster order."""
        grey = to_unit(image, torch.float32)[:, 0, self.block[0], self.block[1]]
        return (grey > self.config.threshold).flatten(1).long()

    def next_context(self, context: Tensor, bit: Tensor, place: int) -> Tensor:
        """The context of pixel `place + 1` from that of `place` and its value."""
        if place + 1 == self.num_pixels:
            return context
        return (2 * context + bit) & ((1 << self.known[place + 1]) - 1)

    def entries(self, x: Int[Tensor, "B n"]) -> Int[Tensor, "B n"]:
        """The table entry of each pixel's context."""
        context, found = torch.zeros_like(x[:, 0]), []
        for place in range(self.num_pixels):
            found.append(self.offsets[place] + context)
            context = self.next_context(context, x[:, place], place)
        return torch.stack(found, 1)

    def log_odds(self) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
        """Log p(0) and log p(1) of each entry; one half where nothing was seen and a = 0."""
        a = self.config.pseudo_count
        zeros, ones = (self.seen - self.ones).double() + a, self.ones.double() + a
        half = torch.full_like(ones, -math.log(2.0))
        total = (zeros + ones).log()
        known = zeros + ones > 0
        return (
            torch.where(known, zeros.log() - total, half),
            torch.where(known, ones.log() - total, half),
        )

    def log_prob(self, image: Tensor) -> Float[Tensor, " B"]:
        """Log p of the block of stored pictures, nats."""
        return self.log_prob_of(self.observe(image))

    def log_prob_of(self, x: Int[Tensor, "B n"]) -> Float[Tensor, " B"]:
        """Log p(x), nats."""
        off, on = self.log_odds()
        entries = self.entries(x)
        return torch.where(x > 0, on[entries], off[entries]).sum(1)

    # The objective ------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Sum]:
        """The counts of a batch: what the tables are a function of."""
        x = self.observe(batch["image"])
        entries, length = self.entries(x), len(self.seen)
        return {
            "seen": Sum(torch.bincount(entries.flatten(), minlength=length).double()),
            "ones": Sum(torch.bincount(entries[x > 0], minlength=length).double()),
        }

    def after_step(self, done: Done) -> None:
        """Add a batch's counts, each picture once."""
        if done.turn.epoch == 0:
            self.seen.add_(done.sums["seen"].round().long())
            self.ones.add_(done.sums["ones"].round().long())

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Tensor]:
        """Exact negative log-likelihood of the block."""
        x = self.observe(batch["image"])
        nll = -self.log_prob_of(x)
        unseen = (self.seen[self.entries(x)] == 0).double().mean(1)
        bpd = nll / (self.num_pixels * math.log(2.0))
        return {"loss": nll, "nll_nats": nll, "bpd": bpd, "unseen": unseen}

    # Use ----------------------------------------------------------------------------------------

    @operation(gives={"image": "image"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """Blocks, pixel after pixel, each from its table."""
        chance = self.log_odds()[1].exp()  # (T,), of a one
        context = torch.zeros(len(rng), dtype=torch.int64, device=self.seen.device)
        bits = []
        for place in range(self.num_pixels):
            drawn = rng.uniform(f"pixel {place}").double()
            bits.append((drawn < chance[self.offsets[place] + context]).long())
            context = self.next_context(context, bits[-1], place)
        x = torch.stack(bits, 1).to(rng.dtype)  # (B, n)
        return {"image": x.view(-1, 1, self.config.rows, self.config.columns)}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Samples, and blocks of the data."""
        block = (-1, 1, self.config.rows, self.config.columns)
        data = self.observe(batch["image"][:SHOWN]).view(block)
        samples = self.sample({}, rng=rng.of_length(SHOWN))["image"]
        return {"samples": Images(samples), "data": Images(data.to(samples))}

    def exports(self) -> dict[str, Export]:
        """Pictures to the log-probability of their block."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {"log_prob": Export(LogProb(self), example)}


class LogProb(nn.Module):
    """(B, 1, H, W) to log p of the block, (B,).

    Args:
        model: Whose tables are shared.
    """

    def __init__(self, model: TabularAR) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Log p in nats."""
        return self.model.log_prob(image)
