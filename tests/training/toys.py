"""Toy models that exercise what a VAE does not. Import as `training.toys` (tests/ is on the path).

Each is in the dtype of torch's default at construction; `build(name)` makes model, data and config
of a named case, the same on every rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from rayloom.config.sections import (
    AdamConfig,
    AdamWConfig,
    Config,
    EMAConfig,
    GroupConfig,
    LBFGSConfig,
    RMSpropConfig,
    RunConfig,
    ScheduleConfig,
    SGDConfig,
    TrainConfig,
)
from rayloom.core.collective import Solo
from rayloom.core.protocols import Carry, Export, Group, Player, Rows, Sum
from rayloom.data import from_arrays, make_source
from rayloom.nn.across import gather_rows
from rayloom.nn.batch_norm import GlobalBatchNorm
from rayloom.nn.frozen import freeze
from rayloom.nn.state import keep_state

ROWS = 130  # two batches of 64 and one of 2
DIM = 6


class NoConfig(Config):
    pass


class Regression(nn.Module):
    """Mean squared error; the plainest model there is."""

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(DIM, 8), nn.Tanh(), nn.Linear(8, 2))

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        x = batch["x"] + 0.1 * rng.normal("jitter", DIM)
        error = (self.net(x) - batch["y"]).square()
        return {"loss": error.sum(1), "first": error[:, 0], "hits": (error[:, 0] < 1).long()}

    def exports(self):
        return {"net": Export(self.net, torch.zeros(2, DIM))}


class Adversaries(nn.Module):
    """Wasserstein GAN with a lazy gradient penalty: two players, double backward.

    The critic takes two steps a round on batches of its own; the penalty joins every second round,
    so that the named parts differ from step to step; the generator acts every round.
    """

    config_class: ClassVar[type] = NoConfig
    double_backward = True

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, DIM))
        self.critic = nn.Sequential(nn.Linear(DIM, 8), nn.Softplus(), nn.Linear(8, 1))

    @property
    def players(self):
        return (
            Player("critic", list(self.critic.parameters()), repeats=2),
            Player("generator", list(self.generator.parameters())),
        )

    def loss(self, batch, *, rng, turn):
        real = batch["x"]
        fake = self.generator(rng.normal("latent", 3))
        if turn.player == "generator":
            return {"loss": -self.critic(fake).squeeze(1)}
        fake = fake.detach()
        gap = (self.critic(fake) - self.critic(real)).squeeze(1)
        if turn.grad_step % 2:
            return {"loss": gap, "gap": gap}
        weight = rng.uniform("mix", 1)
        middle = (weight * real + (1 - weight) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(self.critic(middle).sum(), middle, create_graph=True)
        penalty = (slope.square().sum(1).add(1e-12).sqrt() - 1).square()
        return {"loss": gap + 10 * penalty, "gap": gap, "penalty": penalty}

    def evaluate_batch(self, batch, *, rng):
        fake = self.generator(rng.normal("latent", 3))
        return {"loss": (self.critic(fake) - self.critic(batch["x"])).squeeze(1)}


class PenaltyOnly(Adversaries):
    """A critic whose loss is its penalty alone: what a DDP wrapper gets wrong without a word."""

    @property
    def players(self):
        return (Player("critic", list(self.critic.parameters())),)

    def loss(self, batch, *, rng, turn):
        x = batch["x"].detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
        return {"loss": (slope.square().sum(1) - 1).square()}

    def __init__(self):
        super().__init__()
        self.generator.requires_grad_(False)


class BatchStatistics(nn.Module):
    """Batch norm over the global batch, with a gradient penalty through it."""

    config_class: ClassVar[type] = NoConfig
    double_backward = True

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(DIM, 8)
        self.norm = GlobalBatchNorm(8)
        self.last = nn.Linear(8, 1)

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def value(self, x):
        return self.last(torch.tanh(self.norm(self.first(x)))).squeeze(1)

    def loss(self, batch, *, rng, turn):
        x = batch["x"].detach().requires_grad_(True)
        y = self.value(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        error = (y - batch["y"][:, 0]).square()
        penalty = slope.square().sum(1)
        return {"loss": error + 0.1 * penalty, "penalty": penalty}

    def evaluate_batch(self, batch, *, rng):
        return {"loss": (self.value(batch["x"]) - batch["y"][:, 0]).square()}


class SecondOrder(Regression):
    """For an optimizer that evaluates several times a step; only the first may count."""

    def loss(self, batch, *, rng, turn):
        return {**super().loss(batch, rng=rng, turn=turn), "x": Sum(batch["x"].sum(0))}


class Contrast(nn.Module):
    """Contrastive: every row against all rows of the global batch; it has no `evaluate_batch`.

    Ranks evaluate different batches: talking then hung for ever, or mixed strangers' rows.
    """

    config_class: ClassVar[type] = NoConfig
    whole_batch = True
    double_backward = True

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(DIM, 2)
        self.collective = Solo()

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        x = batch["x"].detach().requires_grad_(True)
        y = torch.tanh(self.net(x))
        start = rng.start if self.collective.world > 1 else 0
        others = gather_rows(y, start, rng.total, self.collective)
        logits = -torch.cdist(y, others).square()  # (B, N)
        own = torch.arange(start, start + len(y))
        parts = {"loss": nn.functional.cross_entropy(logits, own, reduction="none")}
        if torch.is_grad_enabled():
            (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            parts["loss"] = parts["loss"] + 0.1 * slope.square().sum(1)
        return parts


class MaskedSequences(nn.Module):
    """Next-step prediction on sequences of varying length: the loss is per step, not per row."""

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(2, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def _errors(self, batch):
        s, length = batch["s"], batch["s_length"]
        if not len(s):  # torch's GRU refuses an empty batch
            zero = sum(p.sum() for p in self.parameters()) * s.new_zeros(0)
            return zero, s.new_zeros(0)
        h, _ = self.cell(s[:, :-1])
        error = (self.head(h) - s[:, 1:]).square().sum(-1)  # (B, L - 1)
        mask = torch.arange(1, s.shape[1])[None] < length[:, None]
        return (error * mask).sum(1), mask.sum(1).to(s.dtype)

    def loss(self, batch, *, rng, turn):
        sums, counts = self._errors(batch)
        return {"loss": (sums, counts), "per_row": sums}

    def evaluate_batch(self, batch, *, rng):
        return {"step_error": self._errors(batch)}


class TwoStage(nn.Module):
    """Noise prediction in the code space of a frozen first stage that another run trained.

    Args:
        first_run: Id of that run, recorded with this one.
        first_state: Its `model` state.
    """

    config_class: ClassVar[type] = NoConfig

    def __init__(self, first_run: str, first_state: dict):
        super().__init__()
        self.first_run = first_run
        self.first = Regression()
        self.first.load_state_dict(first_state)
        freeze(self.first)
        self.prior = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2))

    @property
    def players(self):
        return (Player("prior", list(self.prior.parameters())),)

    def loss(self, batch, *, rng, turn):
        with torch.no_grad():
            code = self.first.net(batch["x"])
        time, noise = rng.uniform("time", 1), rng.normal("noise", 2)
        mixed = (1 - time) * code + time * noise
        return {"loss": (self.prior(torch.cat([mixed, time], 1)) - noise).square().sum(1)}


class Constrained(nn.Module):
    """Minimises error under a constraint, by a multiplier that `after_step` moves (dual ascent)."""

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(DIM, 2)
        self.register_buffer("multiplier", torch.zeros(()))

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        y = self.net(batch["x"])
        rate = softplus(y).sum(1)
        error = (y - batch["y"]).square().sum(1)
        return {"loss": error + self.multiplier * rate, "rate": rate}

    def after_step(self, done):
        self.multiplier.add_(0.1 * (done.means["rate"] - 1.0)).clamp_(min=0)


class Moments(nn.Module):
    """No gradient at all: second moments over an epoch, and their mean when it ends."""

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(DIM))
        keep_state(self, "seen", torch.zeros((), dtype=torch.float64))
        keep_state(self, "added", torch.zeros(DIM, dtype=torch.float64))

    @property
    def players(self):
        return (Player("counter"),)

    def loss(self, batch, *, rng, turn):
        x = batch["x"] + 0.1 * rng.normal("jitter", DIM)
        error = (x - self.mean).square().sum(1)
        return {"error": error, "x": Sum(x.sum(0)), "rows": Sum(torch.tensor(float(len(x))))}

    def after_step(self, done):
        self.added.add_(done.sums["x"])
        self.seen.add_(done.sums["rows"])
        if done.turn.epoch_ends:
            self.mean.copy_(self.added / self.seen)
            self.added.zero_()
            self.seen.zero_()

    def evaluate_batch(self, batch, *, rng):
        return {"error": (batch["x"] - self.mean).square().sum(1)}


class Codebook(nn.Module):
    """A codebook moved by averages of what is assigned to it, beside an encoder with a gradient.

    Gradient statistics are a `Sum` that a hook fills; dead codes take a random row's place.
    """

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(DIM, 3)
        self.register_buffer("codes", torch.randn(5, 3))
        keep_state(self, "sizes", torch.ones(5))

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        z = self.encoder(batch["x"])
        nearest = torch.cdist(z, self.codes).argmin(1)
        one_hot = nn.functional.one_hot(nearest, 5).to(z)
        slope = torch.zeros(3, dtype=z.dtype)
        if z.requires_grad:
            z.register_hook(lambda g: (slope.add_(rng.total * g.abs().sum(0)), None)[1])
        error = (z - self.codes[nearest]).square().sum(1)
        return {
            "loss": error,
            "sizes": Sum(one_hot.sum(0)),
            "sums": Sum(one_hot.T @ z.detach()),
            "slope": Sum(slope),
        }

    def after_step(self, done):
        sizes, sums = done.sums["sizes"].to(self.codes), done.sums["sums"].to(self.codes)
        self.sizes.lerp_(sizes, 0.1)
        used = sizes > 0
        means = sums / sizes.clamp(min=1)[:, None]
        self.codes.copy_(torch.where(used[:, None], self.codes.lerp(means, 0.5), self.codes))
        self.codes.add_(1e-3 * done.rng.shared("wobble", 5, 3))
        self.codes.add_(1e-6 * done.sums["slope"].to(self.codes))


class Recurrent(nn.Module):
    """Truncated backpropagation: rows carry a state, and a third of them begin anew at each batch.

    Evaluated by a confusion matrix, whose share on the diagonal is no mean of a batch's.
    """

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(DIM, 4)
        self.head = nn.Linear(4, 2)

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def memory(self, num):
        return {"h": torch.full((num, 4), 0.5), "age": torch.zeros(num, dtype=torch.int64)}

    def loss(self, batch, *, rng, turn):
        h = self.cell(batch["x"], batch["memory.h"].to(batch["x"]))
        age = batch["memory.age"]
        error = (self.head(h) - batch["y"]).square().sum(1)
        return {"loss": error, "mean_age": age.double(), "h": Carry(h), "age": Carry(age + 1)}

    def evaluate_batch(self, batch, *, rng):
        h = self.cell(batch["x"], torch.full((len(batch["x"]), 4), 0.5).to(batch["x"]))
        said, true = self.head(h)[:, 0] > 0, batch["y"][:, 0] > 0
        pairs = nn.functional.one_hot(2 * true.long() + said.long(), 4).sum(0)
        return {"confusion": Sum(pairs.view(2, 2)), "said": Rows(said), "loss": h.sum(1)}

    def summarise(self, done):
        table = done.sums["confusion"]
        share = done.rows["said"].double().mean()
        return {"accuracy": table.trace() / table.sum(), "said": share + done.means["loss"] * 0}


class Sleeper(nn.Module):
    """A second part that wakes at step 4, with a rate of its own."""

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(DIM, 2), nn.Linear(DIM, 2)

    @property
    def players(self):
        group = Group(list(self.second.parameters()), lambda turn: turn.grad_step >= 4)
        return (Player("model", list(self.parameters()), groups={"late": group}),)

    def loss(self, batch, *, rng, turn):
        y = self.first(batch["x"]) + self.second(batch["x"])
        return {"loss": (y - batch["y"]).square().sum(1)}


class Bumps(nn.Module):
    """Radial bumps with a capacity: every third step the weakest copies the strongest."""

    config_class: ClassVar[type] = NoConfig

    def __init__(self):
        super().__init__()
        self.centre = nn.Parameter(torch.randn(6, DIM))
        self.height = nn.Parameter(torch.randn(6, 2))

    @property
    def players(self):
        return (Player("model", list(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        near = (-torch.cdist(batch["x"], self.centre).square() / DIM).exp()
        return {"loss": (near @ self.height - batch["y"]).square().sum(1), "near": Sum(near.sum(0))}

    def after_step(self, done):
        if (done.turn.grad_step + 1) % 3 == 0:
            near = done.sums["near"]
            source, fresh = torch.arange(6), torch.zeros(6, dtype=torch.bool)
            source[near.argmin()], fresh[near.argmin()] = near.argmax(), True
            done.move_rows(source, fresh, self.centre, self.height)
            self.centre[near.argmin()] += 0.1


def first_stage_state() -> dict:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return Regression().state_dict()


@dataclass
class Case:
    make: Callable[[], nn.Module]
    optimizer: Config | dict
    train: TrainConfig


CASES = {
    "regression": Case(
        Regression,
        AdamWConfig(lr=0.01, weight_decay=0.1),
        TrainConfig(
            grad_steps=40,
            clip_norm=0.5,
            log_every=3,
            ema=EMAConfig(decay=0.9),
            schedule=ScheduleConfig(name="cosine", warmup_steps=3),
        ),
    ),
    "adversaries": Case(
        Adversaries,
        {"critic": AdamConfig(lr=0.01), "generator": RMSpropConfig(lr=0.01)},
        TrainConfig(grad_steps=40, clip_norm=1.0, log_every=2, ema=EMAConfig(decay=0.9)),
    ),
    "penalty-only": Case(PenaltyOnly, AdamConfig(lr=0.01), TrainConfig(grad_steps=40)),
    "batch-statistics": Case(
        BatchStatistics,
        SGDConfig(lr=0.05, momentum=0.9),
        TrainConfig(grad_steps=40, clip_norm=1.0, log_every=3, ema=EMAConfig(decay=0.9)),
    ),
    "contrast": Case(Contrast, SGDConfig(lr=0.05), TrainConfig(grad_steps=40, log_every=3)),
    "second-order": Case(
        SecondOrder, LBFGSConfig(max_iter=3), TrainConfig(grad_steps=40, log_every=3)
    ),
    "masked-sequences": Case(
        MaskedSequences, SGDConfig(lr=0.1), TrainConfig(grad_steps=40, clip_norm=1.0, log_every=3)
    ),
    "two-stage": Case(
        lambda: TwoStage("run-of-the-first-stage", first_stage_state()),
        AdamConfig(lr=0.01),
        TrainConfig(grad_steps=40, log_every=3),
    ),
    "moments": Case(Moments, AdamConfig(), TrainConfig(grad_steps=40, log_every=3)),
    "codebook": Case(
        Codebook,
        AdamConfig(lr=0.01),
        TrainConfig(grad_steps=40, log_every=3, ema=EMAConfig(decay=0.9)),
    ),
    "recurrent": Case(
        Recurrent,
        AdamConfig(lr=0.01),
        TrainConfig(grad_steps=40, log_every=3, ema=EMAConfig(decay=0.9)),
    ),
    "sleeper": Case(
        Sleeper,
        AdamConfig(lr=0.01, weight_decay=0.1, groups={"late": GroupConfig(lr=0.03)}),
        TrainConfig(grad_steps=40, log_every=3, ema=EMAConfig(decay=0.9)),
    ),
    "bumps": Case(
        Bumps,
        AdamConfig(lr=0.03),
        TrainConfig(grad_steps=40, log_every=3, ema=EMAConfig(decay=0.9)),
    ),
    "constrained": Case(
        Constrained, SGDConfig(lr=0.05), TrainConfig(grad_steps=40, clip_norm=1.0, log_every=3)
    ),
}


def data(dtype=np.float64):
    """Vectors, targets and sequences; the same on every rank."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, DIM))
    y = np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2]], 1)
    s = [rng.normal(size=(n, 2)).cumsum(0).astype(dtype) for n in rng.integers(2, 7, ROWS)]
    rows = {"x": x.astype(dtype), "y": y.astype(dtype), "s": s, "first": x[:, 0] > 0.5}
    return from_arrays("toy", {"train": rows, "test": {k: v[:50] for k, v in rows.items()}})


def build(name: str, *, batch_size: int, **changes):
    """(model, config, training source, evaluation source) of a case, in torch's default dtype."""
    case = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = case.make()
    train = case.train.model_copy(update=changes)
    config = RunConfig(optimizer=case.optimizer, train=train, seed=7)
    kind = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    dataset = data(kind)
    limit = ROWS // batch_size * batch_size if hasattr(model, "memory") else 0
    source = make_source(dataset, "train", batch_size=batch_size, seed=7, shuffle=True, limit=limit)
    held_out = make_source(dataset, "test", batch_size=16, seed=7, shuffle=False)
    return model, config, source, held_out
