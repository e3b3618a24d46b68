"""What the methods of the catalogue declare of themselves: imports their classes."""

from collections.abc import Mapping

from rayloom.catalogue.described import METHODS
from rayloom.catalogue.lookup import entries, load
from rayloom.core.declared import declared_metrics
from rayloom.core.metric_table import Metric, markdown


def declarations() -> dict[str, tuple[str | None, Mapping[str, Metric]]]:
    """(default metric, declared metrics) of each method that rayloom ships, by name."""
    found: dict[str, tuple[str | None, Mapping[str, Metric]]] = {}
    for kind in METHODS:
        for name, entry in entries(kind).items():
            if entry.source == "rayloom":
                owner = load(kind, name)
                found[name] = entry.default_metric, declared_metrics(owner)
    return found


def metrics_page() -> str:
    """The page `docs/metrics.md`."""
    return markdown(declarations())
