"""Training: the driver of any `Trainable`, the engine of any `Model`, and `fit`, which is both."""

from rayloom.core.lazy import handed_on

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
__getattr__ = handed_on(__name__, _HOME)
