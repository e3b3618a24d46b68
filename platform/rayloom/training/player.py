"""One optimizer step of one player, the hot path of training.

Per step: one forward, one backward, one all-reduce (N workers), one norm, one fused update, one row
of sums. Nothing is moved off the device and nothing is allocated that could be kept.

Dimension key: B examples of the local slice, N of the global batch, W columns of sums.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from rayloom.config.sections import Config
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    Carry,
    Collective,
    Done,
    LocalBatch,
    Part,
    Player,
    Rows,
    Sum,
    Turn,
    slice_of,
)
from rayloom.training.meter import Meter, PartColumns
from rayloom.training.segments import Segments
from rayloom.training.sums import StepSums

TAIL = 256  # room behind the gradient for sums and the vote
LossFunction = Callable[..., Mapping[str, Part]]


class PlayerStep:
    """A player with its flat parameters, optimizers and meter.

    Args:
        player: What the model says of it.
        optimizer: Its optimizer section.
        collective: The workers.
        device: Where the model lives.
        clip_norm: Largest gradient norm; None leaves gradients alone.
        accumulate: Chunks per batch.
        log_every: grad_steps between log points, which sizes the meter.
        after_step: The model's hook, or None.

    Attributes:
        buffers: The model's, which an evaluation that is not kept must not change.
        carried: What the last step's rows carry on, by name; (B, ...) each.
        moved: (parameter, source, fresh) of rows that `after_step` moved.
    """

    def __init__(
        self,
        player: Player,
        optimizer: Config | None,
        *,
        collective: Collective,
        device: torch.device,
        clip_norm: float | None,
        accumulate: int,
        log_every: int,
        after_step: Callable[[Done], Any] | None,
    ) -> None:
        self.name, self.every, self.repeats = player.name, player.every, player.repeats
        if self.every < 1 or self.repeats < 1:
            raise ValueError(f"player {self.name!r}: every and repeats must be at least 1")
        self.fresh, self.own_loss = player.fresh, player.loss
        self.device, self.collective, self.solo = device, collective, collective.world == 1
        tail = TAIL if collective.world > 1 else 0
        self.segments = (
            Segments(player, cast(Config, optimizer), tail=tail) if len(player.parameters) else None
        )
        self.tail = (
            self.segments.flat.tail if self.segments else torch.zeros(TAIL, dtype=torch.float64)
        )
        self.clip_norm, self.accumulate, self.after_step = clip_norm, accumulate, after_step
        self.meter = Meter(
            self.name,
            capacity=log_every * self.repeats,
            device=device,
            norm_dtype=self.segments.flat.data.dtype if self.segments else None,
        )
        self.buffers: list[Tensor] = []
        self.carried: dict[str, Tensor] = {}
        self.moved: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._sums: dict[tuple[str, ...], StepSums] = {}
        self._weights: dict[tuple[int, int, torch.dtype], Tensor] = {}
        self.stop_vote: Tensor | None = None

    def step(
        self,
        loss: LossFunction,
        local: LocalBatch,
        fields: Batch,
        noise: Noise,
        *,
        turn: Turn,
        vote: bool,
    ) -> None:
        """One update on one batch.

        Args:
            loss: The loss, under the run's precision.
            local: This rank's slice; only its sizes are used.
            fields: The slice's tensors on the device; one row of no weight if the slice is empty.
            noise: Noise of the batch, with this slice's rows.
            turn: Where the run stands.
            vote: Whether this rank wants to stop.
        """
        total, segments = local.total, self.segments
        if self.accumulate == 1:
            layout, row, norm = self._whole(loss, len(local.index), fields, noise, turn, total)
        else:
            layout, row, norm = self._chunks(loss, len(local.index), fields, noise, turn, total)
        sums = self._sums[tuple(layout.sum_names)] if layout.sum_names else None
        if not self.solo:
            self._reduce(layout, row, vote)
            if sums is not None:
                sums.reduce(self.collective)
        if segments is not None:
            if layout.any_pair:
                self._divide_by_count(layout, row, total)
            closure = None
            if segments.needs_closure:
                closure = self._closure(loss, local, fields, noise, turn, layout, row)
            segments.step(turn, norm, self.clip_norm, closure)
        self.meter.commit(turn.grad_step, total)
        if self.after_step is not None:
            with torch.no_grad():
                self.after_step(
                    Done(
                        turn,
                        means=lambda: layout.means(row, total),
                        sums=sums.views if sums is not None else {},
                        rng=lambda: noise.of_length(total).under("after step"),
                        move=self._move if segments is not None else None,
                    )
                )

    def _whole(
        self, loss: LossFunction, rows: int, fields: Batch, noise: Noise, turn: Turn, total: int
    ) -> tuple[PartColumns, Tensor, Tensor]:
        """Forward and backward on the local slice at once."""
        parts = self._parts(loss, fields, noise, turn)
        if not rows:
            parts = _of_no_row(parts)
        layout = self.meter.layout(parts)
        row, norm = self.meter.row()
        if self.segments is not None:
            self._backward(parts, total, add=False)
        with torch.no_grad():
            layout.sums(parts, out=row)
            if layout.extra:
                self._keep(layout, parts, rows, first=True)
        return layout, row, norm

    def _parts(
        self, loss: LossFunction, fields: Batch, noise: Noise, turn: Turn
    ) -> Mapping[str, Part]:
        if self.segments is not None:
            return loss(fields, rng=noise, turn=turn)
        with torch.no_grad():
            return loss(fields, rng=noise, turn=turn)

    def _backward(self, parts: Mapping[str, Part], total: int, *, add: bool) -> None:
        """Gradient of sum(loss) / N, from the (B,) losses without summing them."""
        part = cast(Any, parts["loss"])
        loss = part[0] if isinstance(part, tuple | list) else part
        key = (loss.shape[0], total, loss.dtype)
        weight = self._weights.get(key)
        if weight is None:
            weight = torch.full((key[0],), 1.0 / total, dtype=loss.dtype, device=loss.device)
            self._weights[key] = weight
        assert self.segments is not None
        try:
            self.segments.flat.backward(loss, weight, add=add)
        except RuntimeError as error:
            if not loss.requires_grad:
                raise UserError(
                    f"the loss of player {self.name!r} does not depend on its parameters"
                ) from error
            raise

    def _chunks(
        self, loss: LossFunction, rows: int, fields: Batch, noise: Noise, turn: Turn, total: int
    ) -> tuple[PartColumns, Tensor, Tensor]:
        """Forward and backward in `accumulate` chunks of the local slice; the sums add up."""
        count = max(1, min(self.accumulate, rows))
        if count == 1:
            return self._whole(loss, rows, fields, noise, turn, total)
        sums: Tensor | None = None
        for number in range(count):
            start, stop = slice_of(rows, number, count)
            chunk = {name: value[start:stop] for name, value in fields.items()}
            parts = self._parts(loss, chunk, noise.rows(start, stop), turn)
            if number == 0:
                layout = self.meter.layout(parts)
                row, norm = self.meter.row()
            if self.segments is not None:
                self._backward(parts, total, add=number > 0)
            with torch.no_grad():
                mine = layout.sums(parts)
                sums = mine if sums is None else sums.add_(mine)
                if layout.extra:
                    self._keep(layout, parts, stop - start, first=number == 0)
        assert sums is not None
        row.copy_(sums)
        return layout, row, norm

    def _closure(
        self,
        loss: LossFunction,
        local: LocalBatch,
        fields: Batch,
        noise: Noise,
        turn: Turn,
        layout: PartColumns,
        row: Tensor,
    ) -> Callable[[], float]:
        """Evaluates this batch again at other parameters, its gradient into the flat tensor.

        The first call is for the present ones and costs nothing. What later calls report, carry
        or write into buffers is dropped: the step is that of the point where it began.
        """
        calls, rows, total = 0, len(local.index), local.total
        vote = None if self.stop_vote is None else self.stop_vote.clone()
        self.stop_vote = vote

        def mean(row: Tensor) -> float:
            told = layout.means(row, total)["loss"].detach().to("cpu", torch.float64)
            return float(self.collective.broadcast(told.view(1)))  # one rank's number decides

        def evaluate() -> float:
            nonlocal calls
            calls += 1
            if calls == 1:
                return mean(row)
            kept = [buffer.clone() for buffer in self.buffers]
            again = torch.zeros_like(row)
            count = max(1, min(self.accumulate, rows))
            for number in range(count):
                start, stop = slice_of(rows, number, count) if rows else (0, 1)
                chunk = {name: value[start:stop] for name, value in fields.items()}
                parts = loss(chunk, rng=noise.rows(start, stop), turn=turn)
                parts = parts if rows else _of_no_row(parts)
                self._backward(parts, total, add=number > 0)
                with torch.no_grad():
                    again.add_(layout.sums(parts))
            if not self.solo:
                self._reduce(layout, again, vote=False)
            if layout.any_pair:
                self._divide_by_count(layout, again, total)
            if kept:
                with torch.no_grad():
                    torch._foreach_copy_(self.buffers, kept)
            self.stop_vote = vote
            return mean(again)

        return evaluate

    def _keep(
        self, layout: PartColumns, parts: Mapping[str, Part], rows: int, *, first: bool
    ) -> None:
        """Add a chunk's sums and append what its rows carry."""
        if layout.sum_names:
            key = tuple(layout.sum_names)
            if key not in self._sums:
                where = f"loss of player {self.name!r}"
                self._sums[key] = StepSums(parts, key, where=where)
            if first:
                self._sums[key].clear()
            if rows:
                self._sums[key].add(parts)
        if first:
            self.carried = {}
        for name in layout.carry_names:
            value = cast(Carry, parts[name]).value.detach()[:rows]
            self.carried[name] = value if first else torch.cat([self.carried[name], value])

    def _reduce(self, layout: PartColumns, row: Tensor, vote: bool) -> None:
        """One sum over the ranks for gradient, sums and stop vote."""
        width, tail = layout.width, self.tail
        if width + 1 > TAIL:
            raise ValueError(f"player {self.name!r} reports {width} sums, at most {TAIL - 1} fit")
        tail[:width].copy_(row)
        tail[width] = float(vote)
        if self.segments is not None:
            flat = self.segments.flat
            self.collective.all_reduce(flat.buffer[: len(flat) + width + 1])
        else:
            self.collective.all_reduce(tail[: width + 1])
        row.copy_(tail[:width])
        self.stop_vote = tail[width]

    def _divide_by_count(self, layout: PartColumns, row: Tensor, total: int) -> None:
        """A masked loss is divided by its global count, not by N."""
        place = layout.names.index("loss")
        if layout.paired[place] and self.segments is not None:
            count = row[layout.columns[place] + 1]
            factor = torch.where(count > 0, total / count, torch.zeros_like(count))
            grad = self.segments.flat.grad
            grad.mul_(factor.to(grad.dtype))

    def _move(self, source: Tensor, fresh: Tensor, parameters: tuple[nn.Parameter, ...]) -> None:
        """See `core.protocols.Done.move_rows`; the averages follow when the hook is done."""
        assert self.segments is not None
        for parameter in parameters:
            self.segments.move_rows(parameter, source, fresh)
            self.moved.append((parameter, source, fresh))

    def state_dict(self) -> dict[str, Any]:
        """Optimizers and the interval of the meter."""
        state = self.segments.state_dict() if self.segments is not None else {}
        return {**state, "meter": self.meter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a state."""
        if self.segments is not None:
            self.segments.load_state_dict(state)
        self.meter.load_state_dict(state["meter"])


def _of_no_row(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts of the row that stands in for an empty slice, without that row."""
    return {
        name: value
        if isinstance(value, Sum | Carry | Rows)
        else tuple(v[:0] for v in value)  # type: ignore[misc]
        if isinstance(value, tuple | list)
        else value[:0]
        for name, value in parts.items()
    }


def check_players(model: nn.Module, players: tuple[Player, ...]) -> None:
    """Make sure that the players share out the trainable parameters.

    Raises:
        UserError: No players, a first one without batches of its own, a name or parameter twice,
            a frozen parameter in a player, or a trainable one that nobody owns.
    """
    if not players:
        raise UserError(f"{type(model).__name__} has no players, so there is nothing to train")
    if not players[0].fresh:
        raise UserError(
            f"player {players[0].name!r} is the first and has fresh=False: there is no batch of a "
            "player before it; let it take its own"
        )
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
