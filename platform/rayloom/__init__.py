"""Train reinforcement-learning agents and deep generative models, on a laptop or a Ray cluster.

The names below are handed on lazily from the rooms that own them, so that `import rayloom` costs
nothing and no room below depends on one above.
"""

from rayloom import moved
from rayloom.core.lazy import handed_on

__version__ = "0.1.0"

_API = {
    "train": "rayloom_pipelines.api",
    "resume": "rayloom_pipelines.api",
    "sweep": "rayloom_pipelines.api",
    "load": "rayloom_pipelines.api",
    "runs": "rayloom_pipelines.api",
    "Run": "rayloom_pipelines.api",
    "Sweep": "rayloom_pipelines.api",
    "fit": "rayloom.training",
    "load_config": "rayloom.config.resolved",
    "load_plugins": "rayloom.catalogue.plugins",
    "UserError": "rayloom.core.errors",
    "ConfigError": "rayloom.core.errors",
}

__all__ = [
    "ConfigError",
    "Run",
    "Sweep",
    "UserError",
    "__version__",
    "fit",
    "load",
    "load_config",
    "load_plugins",
    "resume",
    "runs",
    "sweep",
    "train",
]


moved.install()
__getattr__ = handed_on(__name__, _API)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
