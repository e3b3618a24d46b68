"""Training: the driver of any `Trainable`, the engine of any `Model`, and `fit`, which is both."""

from importlib import import_module
from typing import Any

_HOME = {
    "Engine": "engine",
    "FitResult": "fitting",
    "Nowhere": "driver",
    "Observer": "driver",
    "Outcome": "driver",
    "Plan": "plan",
    "TorchCollective": "collective",
    "drive": "driver",
    "fit": "fitting",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
