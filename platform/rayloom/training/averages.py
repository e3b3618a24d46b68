"""The moving average of a model: which tensors it is over, and its state by their names."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from rayloom.nn.ema import EMA
from rayloom.nn.frozen import averaged_buffers
from rayloom.optim import FlatParameters


def make_average(
    model: nn.Module, flats: Sequence[FlatParameters], *, decay: float, warmup: bool
) -> EMA:
    """An average over the players' flat parameters and the model's moving buffers.

    Args:
        model: Names the tensors.
        flats: Of its players.
        decay: See `EMA`.
        warmup: See `EMA`.
    """
    tensors = [flat.data for flat in flats]
    places: list[dict[str, tuple[int, torch.Size]]] = []
    names = {id(p): name for name, p in model.named_parameters()}
    for flat in flats:
        starts = {}
        for parameter in flat.parameters:
            place = flat.place(parameter)
            assert place is not None
            starts[names[id(parameter)]] = (place.start, parameter.shape)
        places.append(starts)
    for name, buffer in averaged_buffers(model).items():
        tensors.append(buffer)
        places.append({name: (0, buffer.shape)})
    return EMA(tensors, decay=decay, warmup=warmup, places=places)


def put_averages(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy the averages of a state into a model's own parameters and buffers.

    Args:
        model: One that nothing trains; its parameters get new memory.
        state: `EMA.state_dict()`, also of runs that kept averages by number.

    Raises:
        ValueError: The state is of another model.
    """
    players = cast(Any, model).players
    flats = [FlatParameters(player.parameters) for player in players if len(player.parameters)]
    average = make_average(model, flats, decay=0.5, warmup=False)
    average.load_state_dict(state)
    average.put()
