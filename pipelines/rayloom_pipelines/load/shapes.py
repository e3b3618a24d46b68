"""Putting weights where they fit, or saying why they do not."""

from collections.abc import Mapping

import torch

from rayloom.core.errors import UserError
from rayloom.nn.frozen import frozen_state
from rayloom.nn.state import kept_state


def fit_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights in; frozen parts stay as they are, and state of training that is not given.

    Raises:
        UserError: They belong to another model.
    """
    whole = kept_state(model) | weights | frozen_state(model)
    check_fit(model.state_dict(), whole, "model")
    model.load_state_dict(whole)


def check_fit(
    target: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], what: str
) -> None:
    """Names and shapes of weights must be those that are to be filled.

    Raises:
        UserError: They are not; names the first that differ, with both shapes.
    """
    here = {name: tuple(value.shape) for name, value in target.items()}
    there = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
    if not wrong:
        return
    shown = "; ".join(
        f"{name} is {here.get(name, 'not')} here and {there.get(name, 'not')} there"
        for name in wrong[:3]
    )
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise UserError(
        f"the weights do not fit this {what}: {shown}{more} (they come from a run with another "
        f"architecture or data set; `rayloom config diff` shows what differs)"
    )
