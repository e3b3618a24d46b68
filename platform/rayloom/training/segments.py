"""A player's parameters, whole or in groups, each with its optimizer.

All lie in one flat tensor, so that the gradient is one all-reduce and its norm one number. A group
is a piece of that tensor with a learning rate, a schedule and a count of steps of its own. Asleep,
it is left alone bit for bit: no gradient, no decay, no step counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rayloom.config.sections import Config, ScheduleConfig
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.protocols import Player, Turn
from rayloom.optim import FlatParameters, make_optimizer, make_schedule
from rayloom.optim.flat import FlatPiece
from rayloom.optim.lbfgs import FlatLBFGS
from rayloom.optim.optimizers import Closure, FlatOptimizer
from rayloom.optim.schedules import Schedule

REST = ""  # the parameters of a player that are in none of its groups


@dataclass
class Segment:
    """One group, or the rest.

    Attributes:
        name: Of the group; `REST` for the rest.
        piece: Its parameters and gradients.
        optimizer: Moves them.
        own_schedule: The schedule section of the group, else of the player, or None.
        active: Whether it takes part in a step; None: always.
        schedule: Factor on its learning rate by grad_step.
        factor: That of the last step.
    """

    name: str
    piece: FlatPiece
    optimizer: FlatOptimizer | FlatLBFGS
    own_schedule: ScheduleConfig | None = None
    active: Callable[[Turn], bool] | None = None
    schedule: Schedule = lambda grad_step: 1.0
    factor: float = 1.0


class Segments:
    """The parameters of one player.

    Args:
        player: It has parameters.
        optimizer: Its section; its `groups` name groups of the player.
        tail: Room behind the gradient.

    Raises:
        UserError: The section names a group that the player does not have.
        ValueError: Groups overlap, or hold parameters that are not the player's.
    """

    def __init__(self, player: Player, optimizer: Config, *, tail: int) -> None:
        section = cast(Any, optimizer)
        unknown = sorted(set(section.groups) - set(player.groups))
        if unknown:
            have = ", ".join(player.groups) or "none"
            hint = did_you_mean(unknown[0], player.groups)
            raise UserError(
                f"optimizer.groups.{unknown[0]}: player {player.name!r} has no such group{hint} "
                f"It has: {have}"
            )
        grouped = _grouped(player)
        rest = [p for p in player.parameters if id(p) not in grouped]
        order = [*rest, *(p for group in player.groups.values() for p in group.parameters)]
        self.flat = FlatParameters(order, tail=tail)
        self.all: list[Segment] = []
        if rest:
            piece = self.flat.piece(rest) if player.groups else self.flat
            made = make_optimizer(optimizer, piece)
            self.all.append(Segment(REST, piece, made, section.schedule))
        for name, group in player.groups.items():
            piece = self.flat.piece(group.parameters)
            own = section.groups.get(name)
            changes = {} if own is None or own.lr is None else {"lr": own.lr}
            made = make_optimizer(section.model_copy(update=changes), piece)
            schedule = section.schedule if own is None or not own.schedule else own.schedule
            self.all.append(Segment(name, piece, made, schedule, group.active))
        self._sleepers = [s for s in self.all if s.active is not None]
        self.needs_closure = any(s.optimizer.needs_closure for s in self.all)
        if self.needs_closure and player.groups:
            raise UserError(f"optimizer lbfgs moves player {player.name!r} whole, not in groups")

    def set_schedules(self, common: ScheduleConfig, horizon: int) -> None:
        """Settle the factors on the learning rates, now that the horizon is known."""
        for segment in self.all:
            segment.schedule = make_schedule(segment.own_schedule or common, horizon)

    def step(
        self, turn: Turn, norm: Tensor, clip_norm: float | None, closure: Closure | None = None
    ) -> None:
        """One update of all that is awake, from `flat.grad`.

        Args:
            turn: Where the run stands.
            norm: (), receives the gradient's norm.
            clip_norm: Largest norm; None leaves it alone.
            closure: Evaluates the loss again; given where `needs_closure` says so.
        """
        awake = self.all
        if self._sleepers:
            asleep = [s for s in self._sleepers if s.active is not None and not s.active(turn)]
            for segment in asleep:
                segment.piece.grad.zero_()
            awake = [s for s in self.all if not any(s is other for other in asleep)]
        torch.linalg.vector_norm(self.flat.grad, out=norm)
        scale = None
        if clip_norm is not None:
            scale = norm.add(1e-6).div_(clip_norm).clamp_(min=1.0)
        for segment in awake:
            segment.factor = segment.schedule(turn.grad_step)
            segment.optimizer.step(segment.factor, grad_scale=scale, closure=closure)

    def rates(self) -> dict[str, float]:
        """Learning rate of the last step, by group (`REST` for the rest)."""
        return {s.name: s.optimizer.lr * s.factor for s in self.all}

    def move_rows(self, parameter: nn.Parameter, source: Tensor, fresh: Tensor) -> None:
        """Reorder a parameter's rows and their moments; fresh rows get zero moments.

        Raises:
            ValueError: It is not this player's, or has another number of rows.
        """
        if not any(parameter is mine for mine in self.flat.parameters):
            raise ValueError("move_rows: a parameter is not one of the player that has stepped")
        if len(source) != len(parameter) or len(fresh) != len(parameter):
            raise ValueError(
                f"move_rows: {len(parameter)} rows, but source has {len(source)} and fresh "
                f"{len(fresh)}"
            )
        parameter.data.copy_(parameter.data[source])
        for segment in self.all:
            place = segment.piece.place(parameter)
            if place is None:
                continue
            for moment in segment.optimizer.state.values():
                if moment.shape == segment.piece.data.shape:
                    rows = moment[place].view(parameter.shape)
                    rows.copy_(rows[source])
                    rows[fresh] = 0

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizers; without groups as it was before there were any."""
        states = {s.name: s.optimizer.state_dict() for s in self.all}
        rest = states.pop(REST, None)
        state: dict[str, Any] = {} if rest is None else {"optimizer": rest}
        return state | ({"groups": states} if states else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to a state.

        Raises:
            KeyError: It is one of other groups.
        """
        for segment in self.all:
            given = state["optimizer"] if segment.name == REST else state["groups"][segment.name]
            segment.optimizer.load_state_dict(given)


def _grouped(player: Player) -> set[int]:
    """Ids of the parameters in groups."""
    own, grouped = {id(p) for p in player.parameters}, set[int]()
    for name, group in player.groups.items():
        ids = {id(p) for p in group.parameters}
        if not ids:
            raise ValueError(f"group {name!r} of player {player.name!r} has no parameters")
        if not ids <= own:
            raise ValueError(f"group {name!r} holds parameters that are not {player.name!r}'s")
        if ids & grouped:
            raise ValueError(f"group {name!r} of player {player.name!r} shares parameters")
        grouped |= ids
    return grouped
