"""What a run wrote down of its method's own metrics: read without the method's code."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, cast

from rayloom.core.errors import UserError
from rayloom.core.metric_table import METRICS, Direction, Metric
from rayloom.records.record import Record


def tell_metrics(own: Iterable[Metric]) -> dict[str, Any]:
    """The field `metrics` of `run.json`: what the shared table does not say already."""
    kept = (asdict(metric) for metric in own if METRICS.get(metric.key) != metric)
    return {one.pop("key"): one for one in kept}


def told_metrics(record: Record) -> dict[str, Metric]:
    """The metrics that a `run.json` tells of, by key; what makes no sense is left out."""
    found = {}
    for key, said in (record.metrics or {}).items():
        try:
            way = cast(Direction, said["direction"])  # the class refuses others
            found[key] = Metric(key, said["unit"], way, said["meaning"])
        except (UserError, KeyError, TypeError):  # from anybody: the shared table stands
            continue
    return {key: metric for key, metric in found.items() if key not in METRICS}
