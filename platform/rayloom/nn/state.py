"""State of training that is no part of the function: counts, running statistics, chains.

It is checkpointed and resumed like a buffer, and lies on the model's device; but it is not
averaged over steps, and neither exported nor registered.
"""

from torch import Tensor, nn

_KEPT = "rayloom_kept_state"


def keep_state(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module state that training alone needs; read and write it as `module.<name>`.

    Args:
        module: Whose it is.
        name: Its name there.
        tensor: Its first value.
    """
    module.register_buffer(name, tensor)
    kept: set[str] = module.__dict__.setdefault(_KEPT, set())
    kept.add(name)


def kept_state(model: nn.Module) -> dict[str, Tensor]:
    """All of it in a model, by the names of `state_dict()`."""
    found: dict[str, Tensor] = {}
    for prefix, part in model.named_modules():
        for name in sorted(part.__dict__.get(_KEPT, ())):
            found[f"{prefix}.{name}" if prefix else name] = getattr(part, name)
    return found
