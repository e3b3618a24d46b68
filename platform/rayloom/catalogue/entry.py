"""One line of the catalogue."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["models", "algorithms", "envs", "datasets"]
KINDS: tuple[Kind, ...] = ("models", "algorithms", "envs", "datasets")


@dataclass(frozen=True)
class Entry:
    """One catalogue line.

    Attributes:
        name: The name used in configs.
        target: Lazy `"module:attribute"`.
        summary: One line for `rayloom list`.
        family: Family of methods, such as `autoencoder` or `value-based`.
        year: Year of the paper; 0 where that has no meaning.
        capabilities: What it can do, such as `sample`, `log_prob`, `discrete-actions`.
        source: `rayloom` or the plugin that brought it.
        task: Kind of work, a word of `core.tasks`; "" of what is no method.
        paper: Where it is from, such as `arXiv:1312.6114`.
        default_metric: What its best means; None: its last checkpoint is kept.
    """

    name: str
    target: str
    summary: str = ""
    family: str = ""
    year: int = 0
    capabilities: tuple[str, ...] = ()
    source: str = "rayloom"
    task: str = ""
    paper: str = ""
    default_metric: str | None = None
