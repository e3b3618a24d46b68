"""What a sweep is judged by, and what is refused of it before its first trial."""

from dataclasses import replace
from typing import Any, Literal

from rayloom.config.resolved import Resolved
from rayloom.config.sections import RunConfig
from rayloom.core.declared import declared_metrics, default_metrics
from rayloom.core.errors import ConfigError, Problem
from rayloom.core.metric_table import direction

NAMES = ("model.name", "data.name", "data.eval_split", "algorithm.name", "env.name")


def judged_by(config: RunConfig) -> tuple[str, Literal["min", "max"]]:
    """(metric, its direction) by which trials, and the checkpoints of each, are compared.

    Raises:
        UserError: Neither the config nor the method says which, it has no direction, or the
            sweep says another than the checkpoints.
    """
    from rayloom.training.plan import metric_direction

    method, wanted, kept = method_class(config), config.sweep, config.checkpoint
    if None not in (wanted.metric, kept.metric) and wanted.metric != kept.metric:
        text = (
            f"is {wanted.metric!r}, but checkpoint.metric is {kept.metric!r}: a trial's best "
            "checkpoint would not be the one that its score is of; give one of them"
        )
        raise ConfigError([Problem("sweep.metric", text)])
    metric = wanted.metric or kept.metric or next(iter(default_metrics(method)), None)
    if metric is None:
        text = f"is needed: {method.__name__} names no metric of its own to be judged by"
        raise ConfigError([Problem("sweep.metric", text)])
    own = declared_metrics(method)
    mode = wanted.mode or (kept.mode if kept.metric is not None else None)
    known = direction(metric, own)
    if mode is not None and known not in ("none", mode):
        text = f"is {mode!r}, but of {metric!r} {'lower' if known == 'min' else 'higher'} is better"
        raise ConfigError([Problem("sweep.mode" if wanted.mode else "checkpoint.mode", text)])
    return metric, mode or metric_direction(metric, "sweep.metric", own)


def method_class(config: RunConfig) -> Any:
    """The class of the model or learner that a config names."""
    from rayloom import catalogue

    kind: catalogue.Kind = "models" if config.model is not None else "algorithms"
    section: Any = config.model if config.model is not None else config.algorithm
    return catalogue.load(kind, section.name)


def checked_plan(resolved: Resolved, options: Any) -> Resolved:
    """A sweep's config with its metric settled, once a trial of each kind could be prepared.

    What is built differs by the names that are searched: each of them is tried, on the CPU, with
    the first end of every other space. Trials' checkpoints are judged as the trials are.

    Raises:
        UserError: A trial would be refused, or no evaluation gives the metric.
    """
    from rayloom.training.preflight import absent
    from rayloom_pipelines.run.checked import checked

    start = {path: space.ends[0] for path, space in resolved.spaces.items()}
    kinds = [start]
    for path in NAMES:
        space = resolved.spaces.get(path)
        kinds += [start | {path: value} for value in space.ends[1:]] if space is not None else []
    wanted = resolved.config.sweep.metric or resolved.config.checkpoint.metric
    for values in kinds:
        config = resolved.apply(values)
        alone = config.resources.model_copy(update={"device": "cpu", "workers": 0})
        made = checked(config.model_copy(update={"resources": alone}), options)
        usual = made.default_metrics
        wanted = wanted or next((one for one in usual if one in made.metrics), None)
        if wanted is None and not usual:
            judged_by(config)  # says that one is needed
        problem = absent("sweep.metric", wanted or usual[-1], made.metrics)
        if problem is not None:
            raise ConfigError([problem])
    config = resolved.config
    sweep = config.sweep.model_copy(update={"metric": wanted})
    metric, mode = judged_by(config.model_copy(update={"sweep": sweep}))
    changes = {
        "sweep": sweep.model_copy(update={"mode": mode}),
        "checkpoint": config.checkpoint.model_copy(update={"metric": metric, "mode": mode}),
    }
    return replace(resolved, config=config.model_copy(update=changes))
