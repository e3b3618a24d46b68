"""`train.compile`: torch.compile on a model's networks.

The networks (the model's direct submodules) are compiled, not the loss around them: that draws
noise by name and counts steps, which a compiler would specialise on at every step.
"""

import logging
import os
import shutil
from types import FunctionType
from typing import Any

import torch
from torch import nn

from rayloom.core.errors import UserError

log = logging.getLogger(__name__)


def has_compiler() -> bool:
    """Whether there is the C++ compiler that torch.compile needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_networks(model: nn.Module, device: torch.device) -> list[str]:
    """Compile the model's direct submodules in place; names in `state_dict` stay.

    torch.compile has no correct double backward: a model whose loss differentiates twice (gradient
    penalties) says so with `double_backward = True` and stays eager.

    Returns:
        Names of the compiled submodules.

    Raises:
        UserError: There is no C++ compiler, which torch.compile needs on a CPU.
    """
    if getattr(model, "double_backward", False):
        log.warning("%s needs a double backward: train.compile is off", type(model).__name__)
        return []
    if device.type == "cpu" and not has_compiler():
        raise UserError("train.compile needs a C++ compiler on a CPU (g++, or $CXX)")
    networks = _networks(model, "")
    for _, part in networks:
        _compile(part)
    return [name for name, _ in networks]


def _networks(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, part in module.named_children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            found += _networks(part, f"{prefix}{name}.")
        elif any(p.requires_grad for p in part.parameters()):
            found.append((f"{prefix}{name}", part))
    return found


def _compile(part: nn.Module) -> None:
    """What `part.compile()` should do: that compiles nothing in torch's own modules (Sequential).

    torch.compile skips frames of torch itself, so the call needs a frame outside; and one of its
    own, because the number of recompilations is limited per code object.
    """
    call = part._call_impl

    def network(*args: Any, **named: Any) -> Any:
        return call(*args, **named)

    own = FunctionType(
        network.__code__.replace(), globals(), type(part).__name__, None, network.__closure__
    )
    part._compiled_call_impl = torch.compile(own)
