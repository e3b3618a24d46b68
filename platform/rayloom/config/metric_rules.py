"""Metrics that a config compares: each must have a direction, the method's, the table's or its own.

Whether an evaluation has such a metric is asked before a run begins (`training.preflight`), and
then once more whether it has a direction: what an older run was judged by is read here as it is.
"""

from collections.abc import Iterable, Iterator, Mapping

from rayloom import catalogue
from rayloom.config.schema_walk import OPEN_SECTIONS
from rayloom.config.yaml_marks import Node, printable, shown
from rayloom.core.declared import declared_metrics
from rayloom.core.errors import Problem, nearest
from rayloom.core.metric_table import METRICS, Metric, direction, judged

Own = Mapping[str, Metric]
GUESSED = ("_loss", "nll_nats", "bpd", "error")  # endings that once were judged by: runs are there


def metric_problems(given: Mapping[str, Node], sections: Iterable[str]) -> list[Problem]:
    """What is wrong with the metrics and modes in a config.

    Args:
        given: The sections.
        sections: Those of methods (`model`, `algorithm`) whose class could be loaded.
    """
    own: dict[str, Metric] = {}
    for section in sections:
        name = given[section].value["name"].value
        own |= declared_metrics(catalogue.load(OPEN_SECTIONS[section], name))
    problems = [
        found for section in ("checkpoint", "sweep") for found in _mode(given, section, own)
    ]
    usual = judged(own)
    for path, key, where in _compared(given):
        if direction(key, own) == "none" and not key.endswith(GUESSED):
            message = f"{shown(key)} is no metric with a direction (docs/metrics.md lists them)"
            there = key in own or key in METRICS
            section = path.partition(".")[0]
            if there and section != "train":
                message += f"; {section}.mode, min or max, gives it one"
            near = None if there else nearest(key, usual)
            problems.append(Problem(printable(path), message, where, near))
    return problems


def _compared(given: Mapping[str, Node]) -> Iterator[tuple[str, str, str]]:
    """(path, metric, where) of those whose direction must be known."""
    train = given.get("train")
    stop = train.at("stop") if train is not None else None
    if stop is not None and isinstance(stop.value, dict):
        for key, node in stop.value.items():
            yield f"train.stop.{key}", key, node.where
    early = train.at("early_stopping.metric") if train is not None else None
    if early is not None and isinstance(early.value, str):
        yield "train.early_stopping.metric", early.value, early.where
    for section in ("checkpoint", "sweep"):
        chosen, mode = _pair(given, section)
        said = mode is not None and mode.value is not None
        if chosen is not None and isinstance(chosen.value, str) and not said:
            yield f"{section}.metric", chosen.value, chosen.where


def _mode(given: Mapping[str, Node], section: str, own: Own) -> Iterator[Problem]:
    """A mode must be of a metric, and not against what is known of it."""
    chosen, mode = _pair(given, section)
    if mode is None or mode.value not in ("min", "max"):
        return
    if chosen is None or not isinstance(chosen.value, str):
        if section == "checkpoint":
            message = "says nothing without checkpoint.metric: of which one?"
            yield Problem("checkpoint.mode", message, mode.where)
        return
    known = direction(chosen.value, own)
    if known not in ("none", mode.value):
        better = "lower" if known == "min" else "higher"
        message = f"is {shown(mode.value)}, but of {shown(chosen.value)} {better} is better"
        yield Problem(f"{section}.mode", message, mode.where)


def _pair(given: Mapping[str, Node], section: str) -> tuple[Node | None, Node | None]:
    if section not in given:
        return None, None
    return given[section].at("metric"), given[section].at("mode")
