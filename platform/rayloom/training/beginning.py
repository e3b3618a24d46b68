"""Before the first step: equal weights on all ranks, weights from the data, averages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rayloom.config.sections import EMAConfig
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, Collective
from rayloom.nn.ema import EMA
from rayloom.optim import FlatParameters
from rayloom.training.averages import make_average
from rayloom.training.player import PlayerStep


def flats_of(players: Sequence[PlayerStep]) -> list[FlatParameters]:
    """Flat parameters of those players that have any."""
    return [player.segments.flat for player in players if player.segments is not None]


def share_weights(model: nn.Module, players: Sequence[PlayerStep], collective: Collective) -> None:
    """Every rank goes on from rank 0's parameters and buffers."""
    if collective.world == 1:
        return
    flats = flats_of(players)
    owned = {id(p) for flat in flats for p in flat.parameters}
    for flat in flats:
        collective.broadcast(flat.data)
    frozen = [p.detach() for p in model.parameters() if id(p) not in owned]
    for tensor in [*frozen, *model.buffers()]:
        collective.broadcast(tensor)


def average_of(
    model: nn.Module, players: Sequence[PlayerStep], section: EMAConfig | None
) -> EMA | None:
    """The average that section `train.ema` asks for, beginning at the weights as they are."""
    if section is None:
        return None
    return make_average(model, flats_of(players), decay=section.decay, warmup=section.warmup)


def initialise(model: Any, batch: Batch, noise: Noise) -> None:
    """Let the model take weights from a whole batch; see `core.protocols.OPTIONAL`."""
    with torch.no_grad():
        model.initialise(batch, rng=noise.under("initialise"))
