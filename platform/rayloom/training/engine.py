"""The engine: trains any `Model` on any number of workers. See docs/architecture.md.

A grad_step is one round of players; every player step takes a fresh batch by its number, so that
the data cursor is one integer. Each rank computes its slice of the global batch; losses are divided
by the global count; one sum over the ranks per player step carries gradient, sums and stop vote.
All state is in `state_dict`: a resumed run is bit-equal.

Dimension key: B examples of the local slice, N of the global batch.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rayloom.config.sections import RunConfig
from rayloom.core.collective import Solo
from rayloom.core.declared import declared_metrics, default_metrics
from rayloom.core.errors import UserError
from rayloom.core.failpoints import hit
from rayloom.core.metric_table import Metric
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    BatchSource,
    Clock,
    Collective,
    Player,
    Sink,
    State,
    Turn,
    parameters_sha256,
)
from rayloom.core.seeding import stream_seed
from rayloom.metrics.evaluation import made_for
from rayloom.nn.batch_norm import set_collective
from rayloom.nn.frozen import frozen_parts, frozen_state
from rayloom.training.batches import TrainBatches
from rayloom.training.beginning import average_of, initialise, share_weights
from rayloom.training.checks import (
    check_batch_statistics,
    check_forms,
    check_left_behind,
    check_noise,
    check_score,
    check_still,
    floating_dtype,
    left_behind,
    optimizer_of,
)
from rayloom.training.compiled import compile_networks
from rayloom.training.evaluate import evaluate_split, scorer, summariser
from rayloom.training.meter import merge_names
from rayloom.training.player import LossFunction, PlayerStep, check_players, rounds_for
from rayloom.training.precision import probe, under_precision
from rayloom.training.profile import StepProfiler
from rayloom.training.showing import check_names, check_shown, send

LOG_POINTS = 200  # per budget, where `train.log_every` is null
PROFILE_AFTER = 5  # grad_steps
VOTE_EVERY_GPU = 16  # grad_steps between looks at the stop vote where a look waits for the GPU


class Engine:
    """Trains, evaluates and shows a model; a `Trainable` whose clock is the grad_step.

    Args:
        model: See `core.protocols.Model`. It is moved to the device, and its parameters become
            views of flat tensors.
        config: Sections `train`, `optimizer`, `evaluation` and `seed` are used.
        train: Training batches.
        evaluation: Batches of the evaluation split; None evaluates nothing.
        collective: The workers.
        device: Where to train.
        overfit_batch: Train on batch 0 again and again: a model that cannot overfit it is broken.
        profile: Folder for a profile of some steps; see `StepProfiler`.
        initialised: The weights are those of another run: `initialise` leaves them alone.

    Raises:
        UserError: The config does not fit the model (players, accumulation, batch norm, metrics).
    """

    clock: Clock = "grad_step"

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        train: BatchSource,
        evaluation: BatchSource | None,
        *,
        collective: Collective | None = None,
        device: torch.device | str = "cpu",
        overfit_batch: bool = False,
        profile: Path | None = None,
        initialised: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.collective: Collective = collective or Solo()
        if config.train.precision == "fp64":
            model.double()
        self.model = cast(Any, model.to(self.device))  # a `Model`, whose attributes torch types
        self.config = config
        self.train_source, self.evaluation_source = train, evaluation
        self.overfit_batch = overfit_batch
        check_forms(model)
        players: tuple[Player, ...] = tuple(self.model.players)
        check_names(model)
        check_players(model, players)
        check_batch_statistics(model, config.train.accumulate, self.collective.world)
        self.extras = made_for(self.model, config, train.spec)
        check_noise(model)
        if evaluation is not None:
            check_score(model, players)
        set_collective(model, self.collective)
        self.grad_step = 0
        self.batch_number = 0  # of the next batch
        self._turns = [(p.every, p.repeats) for p in players if p.fresh]
        self._looked_at = False  # whether a first round was looked over
        self._frozen = [part for _, part in frozen_parts(model)]
        self._frozen_sha256: str | None = None  # once asked for
        horizon = max(1, self.to_clock(*config.train.length))
        self.profiler: StepProfiler | None = None
        if profile is not None:  # a short run too has steps to show
            self.profiler = StepProfiler(profile, start=min(PROFILE_AFTER, horizon // 2))
        self.choices: dict[str, Any] = {
            "horizon": horizon,
            "log_every": config.train.log_every or max(1, horizon // LOG_POINTS),
            "precision": config.train.precision,
        }
        self.players = [self._player_step(player) for player in players]
        for player in self.players:
            player.buffers = list(model.buffers())
        share_weights(self.model, self.players, self.collective)
        self.dtype = floating_dtype(model)
        self._alone = len(players) == 1
        self.batches = TrainBatches(
            self.model,
            train,
            config,
            collective=self.collective,
            device=self.device,
            dtype=self.dtype,
            seed=stream_seed(config.seed, "training noise"),
            one=overfit_batch,
        )
        self._begun = initialised
        self.ema = average_of(self.model, self.players, config.train.ema)
        self._eval_seed = stream_seed(config.seed, "evaluation noise")
        self._losses: list[LossFunction] = []  # of the players, under the run's precision
        self._prepare()
        self._training = False
        self._examples, self._seconds, self._logged_step = 0, 0.0, 0

    # Making it ----------------------------------------------------------------------------------

    def _player_step(self, player: Player) -> PlayerStep:
        train = self.config.train
        optimizer = optimizer_of(self.config, player.name, self.model.players)
        clip_norm = None if optimizer is None else cast(Any, optimizer).clip_norm
        return PlayerStep(
            player,
            optimizer,
            collective=self.collective,
            device=self.device,
            clip_norm=train.clip_norm if clip_norm is None else clip_norm,
            accumulate=train.accumulate,
            log_every=self.choices["log_every"],
            after_step=getattr(self.model, "after_step", None),
        )

    def _prepare(self) -> None:
        """Whatever follows from the choices: schedules and log interval."""
        self.horizon = int(self.choices["horizon"])
        self.log_every = int(self.choices["log_every"])
        for player in self.players:
            if player.segments is not None:
                player.segments.set_schedules(self.config.train.schedule, self.horizon)

    def _begin(self) -> None:
        """Before the first step of a fresh run: weights that depend on the data.

        Rank 0 sees the whole of batch 0; the others get its weights, and averages begin there.
        """
        if self._begun:
            return
        self._begun = True
        if not hasattr(self.model, "initialise"):
            return
        self._enter(True)
        if self.collective.rank == 0:
            with self._alone_talking():
                initialise(self.model, *self.batches.whole())
        share_weights(self.model, self.players, self.collective)
        self.ema = average_of(self.model, self.players, self.config.train.ema)

    def decide(self) -> str | None:
        """Settle what is left to measuring (precision `auto`), once per run; rank 0 decides.

        Returns:
            What came out, if there was something to settle: then the state belongs in a
            checkpoint at once, because another attempt might measure otherwise.
        """
        self._begin()
        if self.choices["precision"] != "auto":
            return None
        self._enter(True)
        self.batches.take(0)

        def run(precision: str) -> None:
            for player in self.players:
                if player.segments is None:
                    continue
                loss = under_precision(player.own_loss or self.model.loss, precision, self.device)
                turn = Turn(player=player.name, horizon=self.horizon)
                part = loss(self.batches.inputs, rng=self.batches.noise, turn=turn)["loss"]
                total = (part[0] if isinstance(part, tuple) else part).sum()
                player.segments.flat.backward(total)

        choice, seconds = probe(self.model, run, self.device)
        self.choices["precision"] = self.collective.broadcast_json(choice)
        took = " and ".join(f"{value * 1e3:.3g} ms in {kind}" for kind, value in seconds.items())
        return f"precision auto is {self.choices['precision']}: a pass took {took}"

    # Counting -----------------------------------------------------------------------------------

    def position(self) -> int:
        """grad_steps done."""
        return self.grad_step

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What the model declares of its metrics, by key."""
        return declared_metrics(self.model)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """What "best" means for this model: the first of these that an evaluation has."""
        return default_metrics(self.model)

    def progress(self) -> dict[str, int]:
        """`grad_step`, `epoch` (completed) and `batch` (batches used)."""
        epoch = self.batch_number // self.train_source.batches_per_epoch
        return {"grad_step": self.grad_step, "epoch": epoch, "batch": self.batch_number}

    def to_clock(self, unit: str, amount: float) -> int:
        """grad_steps in `amount` of `epochs` or `grad_steps`.

        An epoch is as many batches as the split has, whichever players use them.

        Raises:
            UserError: Another unit.
        """
        if unit == "grad_steps":
            return round(amount)
        if unit != "epochs":
            raise UserError(f"train.{unit}: a model trained on data counts epochs or grad_steps")
        return rounds_for(round(amount * self.train_source.batches_per_epoch), self._turns)

    # Training -----------------------------------------------------------------------------------

    def advance(self, until: int, *, sink: Sink, interrupted: Callable[[], bool]) -> None:
        """Train up to grad_step `until`; see `core.protocols.Trainable`.

        Raises:
            NonFiniteError: A loss part or gradient is NaN; at the latest when this returns.
        """
        self._enter(True)
        check_still(self.model, self.players)
        if not self._losses:
            self.decide()
            if self.config.train.compile:
                compile_networks(self.model, self.device)
            precision = self.choices["precision"]
            self._losses = [
                under_precision(player.own_loss or self.model.loss, precision, self.device)
                for player in self.players
            ]
        solo = self.collective.world == 1
        look_every = VOTE_EVERY_GPU if self.device.type == "cuda" else 1
        started = time.perf_counter()
        while self.grad_step < until:
            stop = interrupted()
            if stop and solo:
                break
            if self._looked_at:
                self._round(stop)
            else:
                self._first_round(stop)
            hit("train.step")
            if self.profiler is not None:
                self.profiler.step()
            if self.grad_step % self.log_every == 0:
                now = time.perf_counter()
                self._seconds += now - started
                started = now
                self._log(sink)
            if not solo and self.grad_step % look_every == 0 and self._voted():
                break
        self._seconds += time.perf_counter() - started
        for player in self.players:
            player.meter.check()

    def _first_round(self, vote: bool) -> None:
        """A round after which the model is looked over for what a step must not leave."""
        before = left_behind(self.model)
        self._round(vote)
        check_left_behind(self.model, before)
        self._looked_at = True

    def _round(self, vote: bool) -> None:
        """One grad_step: every player whose turn it is, on fresh batches or on the last one."""
        step, batches = self.grad_step, self.batches
        per_epoch = self.train_source.batches_per_epoch
        for player, loss in zip(self.players, self._losses, strict=True):
            if step % player.every:
                continue
            first = step // player.every * player.repeats
            for repeat in range(player.repeats):
                if player.fresh:
                    batches.take(self.batch_number)
                    self.batch_number += 1
                    self._examples += batches.local.total
                epoch, place = divmod(batches.number, per_epoch)
                turn = Turn(
                    step,
                    first + repeat,
                    repeat,
                    player.name,
                    epoch,
                    place + 1 == per_epoch,
                    self.horizon,
                )
                player.step(
                    loss, batches.local, batches.inputs, batches.noise, turn=turn, vote=vote
                )
                batches.after(player)
                if player.moved:
                    self._follow(player)
        if self.ema is not None:
            self.ema.update()
        self.grad_step = step + 1

    def _follow(self, player: PlayerStep) -> None:
        """The averages follow rows that `after_step` moved."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        for parameter, source, fresh in player.moved:
            if self.ema is not None:
                self.ema.move_rows(names[id(parameter)], source, fresh, parameter)
        player.moved.clear()

    def _voted(self) -> bool:
        votes = [p.stop_vote for p in self.players if p.stop_vote is not None]
        return bool(votes) and bool(torch.stack(votes).max() > 0)

    def _log(self, sink: Sink) -> None:
        """One point per metric since the last log point."""
        values: dict[str, float] = {}
        alone = self._alone
        for player in self.players:
            values |= merge_names(player.name, player.meter.flush(), alone=alone)
            for group, rate in (player.segments.rates() if player.segments else {}).items():
                parts = ["optim/lr", *([] if alone else [player.name]), *([group] if group else [])]
                values["/".join(parts)] = rate
        values["train/epoch"] = self.batch_number / self.train_source.batches_per_epoch
        values["train/grad_steps"] = float(self.grad_step)
        if self._seconds > 0:
            steps = self.grad_step - self._logged_step
            values["time/examples_per_s"] = self._examples / self._seconds
            values["time/grad_steps_per_s"] = steps / self._seconds
        self._examples, self._seconds, self._logged_step = 0, 0.0, self.grad_step
        if self.collective.rank == 0:
            sink.scalars(self.grad_step, values)

    def _enter(self, training: bool) -> None:
        if self._training != training or self.model.training != training:
            self.model.train(training)
            for part in self._frozen:
                part.training = False
            self._training = training

    # Looking ------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Metrics of the evaluation split with the averaged parameters; see `evaluate_split`."""
        if self.evaluation_source is None:
            return {}
        score = scorer(self.model, self.extras, tuple(self.model.players), self.grad_step)
        with self._looking():
            return evaluate_split(
                score,
                self.evaluation_source,
                seed=self._eval_seed,
                collective=self.collective,
                device=self.device,
                dtype=self.dtype,
                summarise=summariser(self.model, self.extras),
                turn=Turn(self.grad_step, horizon=self.horizon),
            )

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Evaluation mode, every rank on its own, averages in place of the parameters."""
        self._begin()
        self._enter(False)
        average = self.ema.swapped() if self.ema is not None else nullcontext()
        with average, self._alone_talking():
            yield

    @contextmanager
    def _alone_talking(self) -> Iterator[None]:
        """Ranks look at different batches: modules that talk to the others talk to nobody."""
        if not self.batches.talks or self.collective.world == 1:
            yield
            return
        set_collective(self.model, Solo())
        try:
            yield
        finally:
            set_collective(self.model, self.collective)

    def show(self, sink: Sink) -> None:
        """What the model shows of the first evaluation batch, with the same noise every time."""
        make = getattr(self.model, "show", None)
        self._begin()
        if make is None or self.collective.rank != 0:
            return
        source = self.evaluation_source or self.train_source
        local = source.batch(0)
        noise = Noise(
            stream_seed(self.config.seed, "pictures"),
            total=local.total,
            device=self.device,
            dtype=self.dtype,
        )
        with self._looking(), torch.no_grad():
            shown = make(self.batches.to_device(local.fields), rng=noise)
        check_shown(self.model, shown)
        send(shown, sink, self.grad_step)

    def close(self) -> None:
        """The run is over: a profile that was to be longer is written."""
        if self.profiler is not None:
            self.profiler.close()

    # State --------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Everything that training depends on, as copies; of frozen parts, their hash alone."""
        check_still(self.model, self.players)
        frozen = frozen_state(self.model)
        moving = {k: v for k, v in self.model.state_dict().items() if k not in frozen}
        state: State = {
            "model": {k: _copy(v) for k, v in moving.items()},
            "players": {p.name: p.state_dict() for p in self.players},
            "grad_step": self.grad_step,
            "batch_number": self.batch_number,
            "choices": dict(self.choices),
        }
        if self.batches.memory is not None:
            state["memory"] = self.batches.memory.state_dict()
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        if frozen:
            state["frozen_sha256"] = self._hash_frozen(frozen)
        return state

    def _hash_frozen(self, frozen: dict[str, Tensor]) -> str:
        if self._frozen_sha256 is None:
            self._frozen_sha256 = parameters_sha256(frozen)
        return self._frozen_sha256

    def load_state_dict(self, state: State) -> None:
        """Back to a state.

        Raises:
            UserError: It belongs to another model, other players, another frozen part, or a run
                with(out) EMA.
        """
        if set(state["players"]) != {p.name for p in self.players}:
            raise UserError(f"the state has the players {', '.join(state['players'])}")
        if ("ema" in state) != (self.ema is not None):
            raise UserError("train.ema cannot be switched on or off on resume")
        frozen = frozen_state(self.model)
        if state.get("frozen_sha256") != (self._hash_frozen(frozen) if frozen else None):
            raise UserError("the state was trained around another frozen first stage")
        try:
            moving = {k: torch.as_tensor(v) for k, v in state["model"].items()}
            self.model.load_state_dict(frozen | moving)
            for player in self.players:
                player.load_state_dict(state["players"][player.name])
            if self.batches.memory is not None:
                self.batches.memory.load_state_dict(state["memory"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"the state does not fit this model: {error}") from error
        self.grad_step = self._logged_step = int(state["grad_step"])
        self.batch_number = int(state["batch_number"])
        self.choices, self._begun = dict(state["choices"]), True
        self._examples, self._seconds, self._losses = 0, 0.0, []
        self._prepare()

    def evaluation_state(self) -> dict[str, Tensor]:
        """`model.state_dict()` as evaluation sees it (averaged), for export and sampling."""
        with self._looking():
            return {k: _copy(v) for k, v in self.model.state_dict().items()}

    def parameters_sha256(self) -> str:
        """Hash of all parameters and buffers (not the averages), in name order."""
        return parameters_sha256(self.model.state_dict())


def _copy(value: Tensor) -> Tensor:
    return value.detach().clone()
