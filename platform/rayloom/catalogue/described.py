"""What a class says of itself, for its line in the catalogue.

The lines of rayloom's own methods stand in their indexes, so that listing them imports nothing; a
test compares them with this.
"""

from collections.abc import Mapping
from typing import Any

from rayloom.catalogue.entry import Kind
from rayloom.core.declared import declared_task, default_metrics

METHODS: dict[Kind, str] = {"models": "generative", "algorithms": "rl"}  # task of who says none
CAPABILITIES = ("sample", "log_prob", "elbo", "encode")  # methods that are worth telling of


def described(kind: Kind, target: Any) -> Mapping[str, Any]:
    """`task`, `default_metric` and `capabilities` of a class; nothing of what is no method.

    Raises:
        UserError: It says what makes no sense.
    """
    if kind not in METHODS:
        return {}
    task, defaults = declared_task(target), default_metrics(target)
    return {
        "task": task.word if task is not None else METHODS[kind],
        "default_metric": defaults[0] if len(defaults) == 1 else None,
        "capabilities": capabilities_of(target),
    }


def capabilities_of(target: Any) -> tuple[str, ...]:
    """What a class can do: what it says (`capabilities`), its operations, a few methods."""
    from rayloom.core.protocols.operation import operations  # with torch, as the class has it

    said = getattr(target, "capabilities", ())
    found = list(said) if isinstance(said, tuple | list) else []
    if isinstance(target, type):
        found += operations(target)
    found += [word for word in CAPABILITIES if callable(getattr(target, word, None))]
    return tuple(dict.fromkeys(found))
