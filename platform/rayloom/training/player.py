"""One optimizer step of one player, the hot path of training.

Per step: one forward, one backward, one all-reduce (N workers), one norm, one fused update, one row
of sums. Nothing is moved off the device and nothing is allocated that could be kept.

Dimension key: B examples of the local slice, N of the global batch, W columns of sums.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.config.sections import Config
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, Collective, LocalBatch, Player, slice_of
from rayloom.optim import FlatParameters, make_optimizer
from rayloom.optim.schedules import Schedule
from rayloom.training.meter import Layout, Meter, Part

TAIL = 256  # room behind the gradient for sums and the vote
LossFunction = Callable[..., dict[str, Part]]


class PlayerStep:
    """A player with its flat parameters, optimizer and meter.

    Args:
        player: What the model says of it.
        optimizer: Its optimizer section.
        collective: The workers.
        device: Where the model lives.
        clip_norm: Largest gradient norm; None leaves gradients alone.
        accumulate: Chunks per batch.
        log_every: grad_steps between log points, which sizes the meter.
        after_step: The model's hook, or None.
    """

    def __init__(
        self,
        player: Player,
        optimizer: Config,
        *,
        collective: Collective,
        device: torch.device,
        clip_norm: float | None,
        accumulate: int,
        log_every: int,
        after_step: Callable[..., Any] | None,
    ) -> None:
        self.name, self.every, self.repeats = player.name, player.every, player.repeats
        if self.every < 1 or self.repeats < 1:
            raise ValueError(f"player {self.name!r}: every and repeats must be at least 1")
        self.flat = FlatParameters(player.parameters, tail=TAIL if collective.world > 1 else 0)
        self.optimizer = make_optimizer(optimizer, self.flat)
        self.schedule: Schedule = _constant
        self.factor = 1.0
        self.device, self.collective, self.solo = device, collective, collective.world == 1
        self.clip_norm, self.accumulate, self.after_step = clip_norm, accumulate, after_step
        self.meter = Meter(
            self.name,
            capacity=log_every * self.repeats,
            device=device,
            norm_dtype=self.flat.data.dtype,
        )
        self._weights: dict[tuple[int, int, torch.dtype], Tensor] = {}
        self.stop_vote: Tensor | None = None

    def step(
        self,
        loss: LossFunction,
        local: LocalBatch,
        fields: Batch,
        noise: Noise,
        *,
        grad_step: int,
        vote: bool,
    ) -> None:
        """One update on one batch.

        Args:
            loss: The model's loss, under the run's precision.
            local: This rank's slice; only its sizes are used.
            fields: The slice's tensors on the device.
            noise: Noise of the batch, with this slice's rows.
            grad_step: Number of the round, from 0.
            vote: Whether this rank wants to stop.
        """
        total, flat = local.total, self.flat
        if self.accumulate == 1:
            parts = loss(fields, player=self.name, rng=noise, step=grad_step)
            layout = self.meter.layout(parts)
            row, norm = self.meter.row()
            self._backward(parts["loss"], total, add=False)
            with torch.no_grad():
                layout.sums(parts, out=row)
        else:
            layout, row, norm = self._chunks(
                loss, len(local.index), fields, noise, grad_step, total
            )
        if not self.solo:
            self._reduce(layout, row, vote)
        if layout.any_pair:
            self._divide_by_count(layout, row, total)
        torch.linalg.vector_norm(flat.grad, out=norm)
        scale = None
        if self.clip_norm is not None:
            scale = norm.add(1e-6).div_(self.clip_norm).clamp_(min=1.0)
        self.factor = self.schedule(grad_step)
        self.optimizer.step(self.factor, grad_scale=scale)
        self.meter.commit(grad_step, total)
        if self.after_step is not None:
            with torch.no_grad():
                stats = layout.means(row, total)
                self.after_step(stats, player=self.name, step=grad_step)

    def _backward(self, part: Part, total: int, *, add: bool) -> None:
        """Gradient of sum(loss) / N, from the (B,) losses without summing them."""
        loss = part[0] if isinstance(part, tuple | list) else part
        key = (loss.shape[0], total, loss.dtype)
        weight = self._weights.get(key)
        if weight is None:
            weight = torch.full((key[0],), 1.0 / total, dtype=loss.dtype, device=loss.device)
            self._weights[key] = weight
        try:
            self.flat.backward(loss, weight, add=add)
        except RuntimeError as error:
            if not loss.requires_grad:
                raise UserError(
                    f"the loss of player {self.name!r} does not depend on its parameters"
                ) from error
            raise

    def _chunks(
        self, loss: LossFunction, rows: int, fields: Batch, noise: Noise, grad_step: int, total: int
    ) -> tuple[Layout, Tensor, Tensor]:
        """Forward and backward in `accumulate` chunks of the local slice; the sums add up."""
        count = max(1, min(self.accumulate, rows))
        sums: Tensor | None = None
        for number in range(count):
            start, stop = slice_of(rows, number, count)
            chunk = {name: value[start:stop] for name, value in fields.items()}
            rng = noise.rows(start, stop)
            parts = loss(chunk, player=self.name, rng=rng, step=grad_step)
            if number == 0:
                layout = self.meter.layout(parts)
                row, norm = self.meter.row()
            self._backward(parts["loss"], total, add=number > 0)
            with torch.no_grad():
                mine = layout.sums(parts)
                sums = mine if sums is None else sums.add_(mine)
        assert sums is not None
        row.copy_(sums)
        return layout, row, norm

    def _reduce(self, layout: Layout, row: Tensor, vote: bool) -> None:
        """One sum over the ranks for gradient, sums and stop vote."""
        width, tail, size = layout.width, self.flat.tail, len(self.flat)
        if width + 1 > TAIL:
            raise ValueError(f"player {self.name!r} reports {width} sums, at most {TAIL - 1} fit")
        tail[:width].copy_(row)
        tail[width] = float(vote)
        self.collective.all_reduce(self.flat.buffer[: size + width + 1])
        row.copy_(tail[:width])
        self.stop_vote = tail[width]

    def _divide_by_count(self, layout: Layout, row: Tensor, total: int) -> None:
        """A masked loss is divided by its global count, not by N."""
        place = layout.names.index("loss")
        if layout.paired[place]:
            count = row[layout.columns[place] + 1]
            factor = torch.where(count > 0, total / count, torch.zeros_like(count))
            self.flat.grad.mul_(factor.to(self.flat.grad.dtype))

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and the interval of the meter."""
        return {"optimizer": self.optimizer.state_dict(), "meter": self.meter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.meter.load_state_dict(state["meter"])


def _constant(grad_step: int) -> float:
    return 1.0


def check_players(model: nn.Module, players: tuple[Player, ...]) -> None:
    """Make sure that the players share out the trainable parameters.

    Raises:
        UserError: No players, a name or parameter twice, a frozen parameter in a player, or a
            trainable one that nobody owns.
    """
    if not players:
        raise UserError(f"{type(model).__name__} has no players, so there is nothing to train")
    owner: dict[int, str] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    if len({p.name for p in players}) != len(players):
        raise UserError(f"players share a name: {', '.join(p.name for p in players)}")
    for player in players:
        for parameter in {id(p): p for p in player.parameters}.values():
            other = owner.setdefault(id(parameter), player.name)
            if not parameter.requires_grad:
                raise UserError(
                    f"player {player.name!r} owns {names.get(id(parameter), '?')}, which is "
                    "frozen: leave it out of `players`"
                )
            if other != player.name:
                name = names.get(id(parameter), "?")
                raise UserError(
                    f"parameter {name} belongs to two players, {other} and {player.name}"
                )
    orphans = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in owner]
    if orphans:
        raise UserError(
            f"no player owns {', '.join(orphans[:5])}{' and more' if len(orphans) > 5 else ''}: "
            "name them in `players`, or freeze them with requires_grad_(False)"
        )


def rounds_for(batches: int, turns: Sequence[tuple[int, int]]) -> int:
    """The fewest rounds that use so many batches.

    Args:
        batches: How many.
        turns: (every, repeats) of each player.
    """

    def used(rounds: int) -> int:
        return sum(repeats * -(-rounds // every) for every, repeats in turns)

    low, high = 0, 1
    while used(high) < batches:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if used(middle) < batches else (low, middle)
    return low
