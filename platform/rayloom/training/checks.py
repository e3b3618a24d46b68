"""What the engine refuses before it trains: a config that does not fit the model.

The players themselves are checked in `player.check_players`.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.config.sections import Config, RunConfig
from rayloom.core.errors import (
    UserError,
    did_you_mean,
)
from rayloom.core.protocols import (
    Player,
)
from rayloom.nn.dropout import (
    unbound_noise,
)
from rayloom.nn.frozen import frozen_parts


def optimizer_of(config: RunConfig, player: str, players: Sequence[Player]) -> Config | None:
    """The optimizer section of a player; None for one without parameters.

    Raises:
        UserError: There is none, or one for a player that the model does not have or that moves
            no parameters.
    """
    section = config.optimizer
    moving = [one.name for one in players if len(one.parameters)]
    if not isinstance(section, dict):
        return section if player in moving else None
    unknown = sorted(set(section) - set(moving))
    if unknown:
        still = unknown[0] in {one.name for one in players}
        what = "it moves no parameters" if still else "there is no such player"
        raise UserError(
            f"optimizer.{unknown[0]}: {what}{did_you_mean(unknown[0], moving)} "
            f"Players with an optimizer: {', '.join(moving) or 'none'}"
        )
    if player not in moving:
        return None
    if player not in section:
        raise UserError(f"optimizer: no section for player {player!r}; give one to each player")
    return section[player]


def talks(model: nn.Module) -> bool:
    """Whether a module of the model exchanges numbers with the other ranks inside the loss."""
    return any(hasattr(part, "collective") for part in model.modules())


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The model's floating type: of its parameters, else of its buffers, else torch's default."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


OLD_FORMS = {
    "loss": ({"player", "step"}, "loss(self, batch, *, rng, turn)", "turn.player, turn.grad_step"),
    "after_step": ({"player", "step"}, "after_step(self, done)", "done.means, done.turn"),
}


def check_forms(model: nn.Module) -> None:
    """Methods must have the form of today's contract.

    Raises:
        UserError: One has the form of an earlier version; names the new one.
    """
    for name, (old, new, where) in OLD_FORMS.items():
        method = getattr(model, name, None)
        if method is not None and old <= set(inspect.signature(method).parameters):
            raise UserError(
                f"{type(model).__name__}.{name} has the form of an earlier rayloom; it is "
                f"{new} now: what was in {', '.join(sorted(old))} is in {where}"
            )


def check_batch_statistics(model: nn.Module, accumulate: int, world: int) -> None:
    """Batch statistics must be those of the global batch; a frozen part takes none.

    Raises:
        UserError: A layer would take them over a slice or a chunk.
    """
    frozen = {id(part) for _, part in frozen_parts(model)}
    for name, part in model.named_modules():
        if id(part) in frozen:
            continue
        plain = isinstance(part, nn.modules.batchnorm._BatchNorm)
        if plain and world > 1:
            raise UserError(
                f"{name} is a {type(part).__name__}: on {world} workers its statistics would be "
                "those of a slice; use rayloom.nn.batch_norm.GlobalBatchNorm"
            )
        if accumulate > 1 and (plain or getattr(part, "whole_batch", False)):
            raise UserError(
                f"train.accumulate is {accumulate}, but {name} ({type(part).__name__}) needs the "
                "whole batch at once; set train.accumulate=1"
            )


def check_noise(model: nn.Module) -> None:
    """No layer may draw from torch's global generator.

    Raises:
        UserError: Some would: N workers would not equal one, nor a resumed run an unbroken one.
    """
    drawing = unbound_noise(model)
    if drawing:
        raise UserError(
            f"{', '.join(drawing[:5])}{' and more' if len(drawing) > 5 else ''} would draw from "
            "torch's global generator: workers and resumed runs would train another model; take "
            "rayloom.nn.dropout.Dropout, and dropout=0 inside recurrent layers and attention"
        )


def check_score(model: nn.Module, players: Sequence[Player]) -> None:
    """A model must say what it is judged by where its loss is no score.

    Raises:
        UserError: It has several players, or rows with a memory, and no `evaluate_batch`.
    """
    several, memory = len(players) > 1, hasattr(model, "memory")
    if (several or memory) and not hasattr(model, "evaluate_batch"):
        why = "several players" if several else "rows with a memory"
        raise UserError(
            f"{type(model).__name__} has {why}, so its loss is no score (a critic's falls while "
            "the samples get worse): give it evaluate_batch(batch, *, rng)"
        )


def left_behind(model: nn.Module) -> dict[tuple[str, str], int]:
    """Tensors that are plain attributes of a model's modules, with their ids."""
    found: dict[tuple[str, str], int] = {}
    for path, part in model.named_modules():
        for name, value in vars(part).items():
            if name.startswith("_") and name in nn.Module.__annotations__:
                continue
            inside = value.values() if isinstance(value, dict) else value
            several = isinstance(value, dict | list | tuple)
            if isinstance(value, Tensor) or (
                several and any(isinstance(one, Tensor) for one in inside)
            ):
                found[path, name] = id(value)
    return found


def check_left_behind(model: nn.Module, before: dict[tuple[str, str], int]) -> None:
    """A step must leave no tensor on the model but in parameters and buffers.

    What it leaves is that of the last chunk of one rank, and no checkpoint holds it.

    Raises:
        UserError: It does.
    """
    new = [key for key, mark in left_behind(model).items() if before.get(key) != mark]
    if new:
        names = ", ".join(".".join(part for part in key if part) for key in new[:5])
        raise UserError(
            f"{type(model).__name__} left tensors on itself during a step ({names}): they are "
            "those of the last chunk of one rank and are lost on resume; give them back from "
            "loss() as Sum(x) or Carry(x), or keep them in a buffer (register_buffer, keep_state)"
        )


def check_still(model: nn.Module, players: Sequence[Any]) -> None:
    """The model's parameters must still be those that the players hold, no fewer and no more.

    Args:
        model: The model.
        players: `PlayerStep`s.

    Raises:
        RuntimeError: Some were replaced, or are new.
    """
    inside = {id(p) for p in model.parameters()}
    for player in players:
        if player.segments is None:
            continue
        flat = player.segments.flat
        flat.check()
        if any(id(p) not in inside for p in flat.parameters):
            raise RuntimeError(
                f"parameters of player {player.name!r} were replaced in the model after the "
                "engine took it over (load_state_dict with assign=True?); parameters never "
                "change their shape: give them a capacity and use done.move_rows"
            )
        inside -= {id(p) for p in flat.parameters}
    new = [n for n, p in model.named_parameters() if p.requires_grad and id(p) in inside]
    if new:
        raise RuntimeError(
            f"{', '.join(new[:5])} came into the model after the engine took it over: nothing "
            "trains them and no checkpoint fits them; make them in the constructor"
        )
