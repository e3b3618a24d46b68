"""What the methods of the catalogue declare of themselves: imports their classes."""

from collections.abc import Mapping

from rayloom.catalogue.entry import Kind
from rayloom.catalogue.lookup import entries, load
from rayloom.core.declared import USUAL, declared_metrics, default_metrics
from rayloom.core.metric_table import Metric, markdown

METHODS: tuple[Kind, ...] = ("models", "algorithms")


def declarations() -> dict[str, tuple[str | None, Mapping[str, Metric]]]:
    """(default metric, declared metrics) of each method that rayloom ships, by name."""
    found: dict[str, tuple[str | None, Mapping[str, Metric]]] = {}
    for kind in METHODS:
        for name, entry in entries(kind).items():
            if entry.source == "rayloom":
                owner = load(kind, name)
                defaults = default_metrics(owner)
                default = None if defaults == USUAL else next(iter(defaults), None)
                found[name] = default, declared_metrics(owner)
    return found


def metrics_page() -> str:
    """The page `docs/metrics.md`."""
    return markdown(declarations())
