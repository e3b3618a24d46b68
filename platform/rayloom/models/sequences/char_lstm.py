"""LSTM that predicts the next token of a text.

Hochreiter and Schmidhuber, 1997, doi:10.1162/neco.1997.9.8.1735, with the forget gate of Gers,
Schmidhuber and Cummins, 2000, doi:10.1162/089976600300015015:

    i, f, o = sigmoid(W x_t + U h_{t-1} + b),    g = tanh(W' x_t + U' h_{t-1} + b')
    c_t = f * c_{t-1} + i * g,                   h_t = o * tanh(c_t)
    p(x_{t+1} | x_1 ... x_t) = softmax(V h_t + a)

It is trained by truncated backpropagation through time (Williams and Peng, 1990,
doi:10.1162/neco.1990.2.4.490): rows are lanes of the text (`data.rows: {name: lanes}`), each batch
begins with the state that the batch before left in its lane, and no gradient crosses from one to
the other. A lane that starts anew starts with zeros, and so does every row of data without lanes.

Deviations: no peephole connections; the gates see all of h; the forget bias begins at 1 (Gers et
al.); Adam in place of plain gradient descent; gradients are clipped by the engine.

Dimension key: B lanes, T steps of a row, V tokens, H width, L layers.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Integer
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayloom.config.sections import Config, PositiveFloat, PositiveInt
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    Carry,
    DataSpec,
    Done,
    Export,
    Part,
    Player,
    Sum,
    Turn,
    operation,
)
from rayloom.data.text import tokenizer_of
from rayloom.media import Media, Text
from rayloom.models.examples import Arrays, tiny_tokens
from rayloom.nn.dropout import Dropout, dropout_from

State = dict[str, Tensor]  # h and c, (B, L, H) each
SHOWN = 4
MOST_STEPS = 1 << 14  # of a row: more would fill the memory


class CharLSTMConfig(Config):
    """Settings of an LSTM over tokens."""

    name: Literal["char-lstm"] = "char-lstm"
    embedding: PositiveInt = Field(64, description="numbers per token that goes in")
    width: PositiveInt = Field(256, description="H, cells of a layer")
    layers: PositiveInt = Field(1, description="L")
    dropout: float = Field(0.0, ge=0, lt=1, description="rate before each layer and the softmax")


class SampleSettings(Config):
    """How texts are written."""

    length: PositiveInt = Field(400, description="tokens to write")
    temperature: PositiveFloat = Field(1.0, description="logits are divided by it")


class CharLSTM(nn.Module):
    """p(x_{t+1} | x_1 ... x_t).

    Args:
        config: Settings.
        spec: The data, with the field `tokens`.

    Raises:
        UserError: The data have no tokens, or it is not known how many there are.
    """

    config_class: ClassVar[type] = CharLSTMConfig
    task: ClassVar[str] = "sequence"
    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/nats_per_token", "eval/perplexity"),
        Metric("eval/bits_per_token", "bits/token", "min", "the same in bits"),
    )
    default_metric: ClassVar[str | None] = "eval/nats_per_token"
    protocol: ClassVar[str] = "next token, each row of the evaluation from an empty state"

    @classmethod
    def example(cls) -> tuple[CharLSTMConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        return CharLSTMConfig(embedding=3, width=4, layers=2), tiny_tokens()

    def __init__(self, config: CharLSTMConfig, spec: DataSpec) -> None:
        super().__init__()
        tokens = spec.field("tokens")
        if tokens.num_classes < 2 or len(tokens.shape) != 1:
            raise UserError(
                f"data set {spec.name!r}: `tokens` {tokens.shape} of {tokens.num_classes} kinds; "
                "wanted are whole numbers below a known number (`rayloom data import` of text)"
            )
        self.config, self.num_tokens = config, tokens.num_classes
        self.dtype_in = getattr(torch, tokens.dtype)
        self.tokenizer = tokenizer_of(spec, "tokens") if "tokens" in spec.tokenizers else None
        self.embed = nn.Embedding(self.num_tokens, config.embedding)
        widths = [config.embedding, *[config.width] * config.layers]
        self.cells = nn.ModuleList(
            nn.LSTM(before, config.width, batch_first=True) for before in widths[:-1]
        )
        self.drops = nn.ModuleList(Dropout(config.dropout) for _ in widths)
        self.head = nn.Linear(config.width, self.num_tokens)
        with torch.no_grad():
            for cell in self.cells:  # torch's order of gates: i, f, g, o; two biases are added
                for bias in (cell.bias_ih_l0, cell.bias_hh_l0):
                    bias[config.width : 2 * config.width] = 0.5

    @property
    def players(self) -> tuple[Player, ...]:
        """One."""
        return (Player("model", list(self.parameters())),)

    # The parts ----------------------------------------------------------------------------------

    def memory(self, num: int) -> State:
        """The state in which a lane begins."""
        weight = self.head.weight
        shape = (num, self.config.layers, self.config.width)
        return {key: torch.zeros(shape, dtype=weight.dtype) for key in "hc"}

    def run(self, x: Integer[Tensor, "B T"], state: State) -> tuple[Float[Tensor, "B T V"], State]:
        """Logits of the next token behind each of x, and the state behind the last one."""
        features, after = self.embed(x.long()), []
        for layer, cell in enumerate(self.cells):
            begin = tuple(state[key][:, layer].unsqueeze(0).contiguous() for key in "hc")
            features, end = cell(self.drops[layer](features), begin)
            after.append(end)
        left = {
            key: torch.stack([end[which][0] for end in after], 1) for which, key in enumerate("hc")
        }
        return self.head(self.drops[-1](features)), left

    def _nats(self, batch: Batch, state: State) -> tuple[Tensor, Tensor, State]:
        """-log p of each row's tokens behind the first, how many they are, and the state."""
        tokens = batch["tokens"].long()
        if tokens.shape[1] > MOST_STEPS:
            raise UserError(
                f"a row has {tokens.shape[1]:,} tokens, at most {MOST_STEPS:,} are learnt from at "
                "once: cut the texts, such as data.rows={name: lanes, length: 128}"
            )
        logits, state = self.run(tokens[:, :-1], state)
        nats = cross_entropy(logits.mT, tokens[:, 1:], reduction="none")  # (B, T - 1)
        mask = batch.get("tokens_mask")
        real = torch.ones_like(nats) if mask is None else mask[:, 1:].to(nats)
        return (nats * real).sum(1), real.sum(1), state

    def log_prob(self, tokens: Integer[Tensor, "B T"]) -> Float[Tensor, " B"]:
        """Log p of all tokens but the first, given it, nats."""
        return -self._nats({"tokens": tokens}, self._begin(len(tokens)))[0]

    def _begin(self, num: int) -> State:
        return {key: value.to(self.head.weight) for key, value in self.memory(num).items()}

    # The objective ------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """Nats per token of a row of each lane, and the state that it leaves."""
        state = self._begin(len(batch["tokens"]))
        if "first" in batch:  # lanes; other rows have nothing to do with those of the batch before
            state = {key: batch[f"memory.{key}"] for key in "hc"}
        with dropout_from(self, rng):
            nats, counts, state = self._nats(batch, state)
        return {"loss": (nats, counts)} | {key: Carry(state[key].detach()) for key in "hc"}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """Nats and tokens; each row begins with an empty state."""
        nats, counts, _ = self._nats(batch, self._begin(len(batch["tokens"])))
        return {
            "loss": (nats, counts),
            "nats_per_token": (nats, counts),
            "nats": Sum(nats.double().sum()),
            "tokens": Sum(counts.double().sum()),
        }

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """Perplexity is of the whole split: exp of summed nats over summed tokens."""
        mean = done.sums["nats"] / done.sums["tokens"]
        return {"perplexity": mean.exp(), "bits_per_token": mean / math.log(2.0)}

    # Use ----------------------------------------------------------------------------------------

    @operation(settings=SampleSettings, takes={"prompt": "tokens"}, gives={"tokens": "tokens"})
    @torch.no_grad()
    def sample(self, batch: Batch, *, rng: Noise, settings: SampleSettings | None = None) -> Batch:
        """Texts, token after token, behind the prompt or behind a token drawn evenly."""
        settings = settings or SampleSettings()
        prompt = batch.get("prompt")
        if prompt is None:
            prompt = rng.integers("first token", self.num_tokens, 1)
        lengths = batch.get("prompt_length")
        if lengths is None:
            lengths = torch.full((len(prompt),), prompt.shape[1], device=prompt.device)
        state, written = self._begin(len(prompt)), [prompt[:, 0].long()]
        total = prompt.shape[1] + settings.length  # a shorter prompt gets a longer text
        for place in range(total - 1):
            logits, state = self.run(written[-1][:, None], state)
            scores = (logits[:, 0] / settings.temperature).softmax(-1).cumsum(-1)
            drawn = rng.uniform(f"token {place}").to(scores) * scores[:, -1]
            token = torch.searchsorted(scores, drawn[:, None])[:, 0].clamp(max=self.num_tokens - 1)
            if place + 1 < prompt.shape[1]:
                token = torch.where(place + 1 < lengths, prompt[:, place + 1].long(), token)
            written.append(token)
        tokens = torch.stack(written, 1).to(self.dtype_in)
        length = (lengths + settings.length).to(torch.int64)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        return {"tokens": tokens, "tokens_length": length, "tokens_mask": mask}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Texts that it writes, if the data have a tokenizer."""
        if self.tokenizer is None:
            return {}
        tokens = self.sample({}, rng=rng.of_length(SHOWN))["tokens"].cpu()
        return {"samples": Text([self.tokenizer.decode(row.numpy()) for row in tokens])}

    def exports(self) -> dict[str, Export]:
        """`next`: tokens to log p of the one behind them."""
        example = torch.zeros((2, 5), dtype=self.dtype_in)
        return {"next": Export(_Next(self), example)}


class _Next(nn.Module):
    def __init__(self, model: CharLSTM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, V)."""
        state = self.model._begin(tokens.shape[0])
        return self.model.run(tokens, state)[0][:, -1].log_softmax(-1)
