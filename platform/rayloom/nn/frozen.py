"""Frozen parts of a model: the first stage of a two-stage model.

A frozen part belongs to no player, stays in evaluation mode, is not averaged, and is left out of
training states: what made the model gives it back.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from rayloom.nn.state import kept_state

_MARK = "rayloom_frozen"


def freeze(module: nn.Module) -> nn.Module:
    """Freeze a module in place and return it: no gradients, evaluation mode for good.

    The engine keeps it in evaluation mode when it switches the model around it to training.
    """
    for part in module.modules():
        setattr(part, _MARK, True)
    return module.requires_grad_(False).eval()


def frozen_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of everything frozen inside a model, under each of its names."""
    for name, part in model.named_modules(remove_duplicate=False):
        if getattr(part, _MARK, False):
            yield name, part


def frozen_state(model: nn.Module) -> dict[str, Tensor]:
    """The part of `model.state_dict()` that is frozen; the tensors themselves, detached."""
    state = model.state_dict()
    own = set()
    for name, part in frozen_parts(model):
        prefix = f"{name}." if name else ""
        own |= {f"{prefix}{key}" for key in part.state_dict()}
    return {key: value for key, value in state.items() if key in own}


def averaged_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The floating buffers that training moves, by name, for an average over steps.

    Not those of frozen parts, and not what `nn.state.keep_state` keeps.
    """
    still = {id(buffer) for _, part in frozen_parts(model) for buffer in part.buffers()}
    still |= {id(buffer) for buffer in kept_state(model).values()}
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and id(buffer) not in still
    }
