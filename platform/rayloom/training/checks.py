"""What the engine refuses before it trains: a config that does not fit the model.

The players themselves are checked in `player.check_players`.
"""

from torch import nn

from rayloom.config.sections import Config, RunConfig
from rayloom.core.errors import UserError, nearest
from rayloom.nn.dropout import unbound_noise
from rayloom.nn.frozen import frozen_parts

EXTRA_METRICS = ("nll",)  # `evaluation.metrics`: methods of the model


def optimizer_of(config: RunConfig, player: str, players: list[str]) -> Config:
    """The optimizer section of a player.

    Raises:
        UserError: There is none, or one for a player that the model does not have.
    """
    section = config.optimizer
    if not isinstance(section, dict):
        return section
    unknown = sorted(set(section) - set(players))
    if unknown:
        near = nearest(unknown[0], players)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise UserError(
            f"optimizer.{unknown[0]}: the model has no such player{hint}; "
            f"it has {', '.join(players)}"
        )
    if player not in section:
        raise UserError(f"optimizer: no section for player {player!r}; give one to each player")
    return section[player]


def check_metrics(model: nn.Module, config: RunConfig) -> None:
    """The model must be able to compute `evaluation.metrics`.

    Raises:
        UserError: It is not.
    """
    for metric in config.evaluation.metrics:
        if metric not in EXTRA_METRICS or not hasattr(model, metric):
            can = [m for m in EXTRA_METRICS if hasattr(model, m)]
            raise UserError(
                f"evaluation.metrics: {type(model).__name__} has no metric {metric!r}; "
                f"it has: {', '.join(can) or 'none'}"
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
