"""What a method declares on its class: its kind of work, its metrics, what its best means.

    class VQVAE(nn.Module):
        task = "generative"
        metrics = (*shared("eval/loss"), Metric("eval/code_perplexity", "codes", "max", "..."))
        default_metric = "eval/loss"

Metrics stand on the class, so that a config is judged before anything is built; `default_metric`
may be a property of the model where it depends on settings or data.
"""

from collections.abc import Mapping
from typing import Any

from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.metric_table import METRICS, Metric, direction, judged
from rayloom.core.tasks import Task, task_named

USUAL = ("eval/return_mean", "eval/elbo_nats", "eval/nll_nats", "eval/loss")
"""What best means where a class says nothing at all: the first of these that an evaluation has."""


def declared_metrics(owner: Any) -> Mapping[str, Metric]:
    """The metrics that a class (or the class of a model) declares, by key; {} where it does not.

    Args:
        owner: A class, or an instance of it.

    Raises:
        UserError: They are no tuple of `Metric`, one stands twice, or one says otherwise of a
            shared key than the shared table.
    """
    owner = _class_of(owner)
    given = getattr(owner, "metrics", ())
    if not isinstance(given, tuple | list) or not all(isinstance(m, Metric) for m in given):
        raise UserError(
            f"{owner.__name__}.metrics must be a tuple of Metric (rayloom.core.metric_table), such "
            f"as shared('eval/loss'), on the class; it is {type(given).__name__}"
        )
    found: dict[str, Metric] = {}
    for metric in given:
        if metric.key in found:
            raise UserError(f"{owner.__name__}.metrics has {metric.key!r} twice")
        if METRICS.get(metric.key, metric) != metric:
            raise UserError(
                f"{owner.__name__}.metrics says of {metric.key!r} what the shared table does not: "
                f"take it by shared({metric.key!r}), or call it otherwise"
            )
        found[metric.key] = metric
    return found


def default_metrics(owner: Any) -> tuple[str, ...]:
    """What the best of a method means: the first of these that an evaluation has.

    Args:
        owner: A class, or a model.

    Returns:
        Its `default_metric`; nothing where that is None (the last checkpoint is kept); the usual
        ones of its `task` where it says nothing, or only the built model does.

    Raises:
        UserError: It is no text, or a metric that nothing gives a direction to.
    """
    given = getattr(owner, "default_metric", USUAL)
    if given is USUAL or isinstance(given, property):
        task = declared_task(owner)
        return task.usual if task is not None else USUAL
    if given is None:
        return ()
    name, own = _class_of(owner).__name__, declared_metrics(owner)
    if not isinstance(given, str) or direction(given, own) == "none":
        hint = did_you_mean(str(given), judged(own))
        raise UserError(
            f"{name}.default_metric is {given!r}, a metric without a known direction{hint} A "
            f"Metric in {name}.metrics says whether lower or higher is better"
        )
    return (given,)


def declared_task(owner: Any) -> Task | None:
    """The kind of work that a class declares as its `task`; None where it does not.

    Raises:
        UserError: There is no such kind.
    """
    owner = _class_of(owner)
    word = getattr(owner, "task", None)
    said = word is not None and not isinstance(word, property)
    return task_named(word, f"{owner.__name__}.task") if said else None


def _class_of(owner: Any) -> type:
    return owner if isinstance(owner, type) else type(owner)
