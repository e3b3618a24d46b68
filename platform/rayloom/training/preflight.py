"""What is found out before the first step: the metrics of an evaluation, and rules that need one.

A stop rule for a metric that no evaluation gives would otherwise be told at the first evaluation,
minutes or hours into the run.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from rayloom.config.names import key_problem
from rayloom.config.sections import RunConfig
from rayloom.core.declared import USUAL
from rayloom.core.errors import Problem, nearest
from rayloom.core.metric_table import Metric, direction
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, Rows, Sum, Turn
from rayloom.metrics.evaluation import SAMPLED, made_for
from rayloom.training.checks import (
    check_batch_statistics,
    check_forms,
    floating_dtype,
    optimizer_of,
)
from rayloom.training.evaluate import (
    Summarise,
    Values,
    key_of,
    scorer,
    summariser,
    summary_metrics,
)
from rayloom.training.player import check_players
from rayloom.training.precision import as_doubles, to

ADDED = {"eval/nll_nats": "nll"} | {f"eval/{n.replace('-', '_')}": n for n in SAMPLED}


def check_model(
    model: nn.Module, config: RunConfig, world: int, spec: DataSpec | None = None
) -> None:
    """All that an engine on so many workers would refuse, without building one.

    Raises:
        UserError: The config does not fit the model.
    """
    check_forms(model)
    players = tuple(cast(Any, model).players)
    check_players(model, players)
    check_batch_statistics(model, config.train.accumulate, world)
    made_for(model, config, spec)
    for player in players:
        optimizer_of(config, player.name, players)


def evaluation_names(
    model: nn.Module,
    config: RunConfig,
    batch: Mapping[str, Tensor],
    spec: DataSpec | None = None,
) -> list[str]:
    """The metrics that an evaluation will have, found out by scoring a few examples.

    The model is left as it was: its mode, its buffers and torch's random stream.

    Args:
        model: See `core.protocols.Model`.
        config: Section `evaluation` is used.
        batch: Some examples of the evaluation split, (B, ...) each.
        spec: Of the data; needed where metrics compare samples.
    """
    extras = made_for(model, config, spec)
    dtype = floating_dtype(model)
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    fields = as_doubles(dict(batch), device) if dtype == torch.float64 else to(dict(batch), device)
    rows = len(next(iter(fields.values())))
    noise = Noise(0, total=rows, device=device, dtype=dtype)
    players = tuple(cast(Any, model).players)
    modes = {part: part.training for part in model.modules()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            values = scorer(model, extras, players, 0)(fields, noise)
            names = _names(values, summariser(model, extras), noise)
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(buffers[name])
    return names


def _names(values: Values, summarise: Summarise | None, noise: Noise) -> list[str]:
    """Keys of the metrics that values of a few examples lead to."""
    sums = {name: v.value.double() for name, v in values.items() if isinstance(v, Sum)}
    rows = {name: v.value for name, v in values.items() if isinstance(v, Rows)}
    names = [key_of(name) for name in values if name not in sums and name not in rows]
    if summarise is not None:
        means = dict.fromkeys(names, 0.0)
        names += list(summary_metrics(summarise, Turn(), means, sums, rows, noise))
    return names


def rule_problems(
    config: RunConfig,
    names: Collection[str],
    defaults: Sequence[str] = USUAL,
    own: Mapping[str, Metric] | None = None,
) -> list[Problem]:
    """What is wrong with the metrics that a config names, and with those of the model itself.

    Args:
        config: Stop rules, early stopping and `checkpoint.metric`.
        names: What an evaluation has.
        defaults: What the model calls its best; see `core.declared.default_metrics`.
        own: What the model declares of its metrics.
    """
    early, wanted = config.train.early_stopping, config.checkpoint.metric
    rules = [(f"train.stop.{metric}", metric) for metric in config.train.stop]
    if early is not None:
        rules.append(("train.early_stopping.metric", early.metric))
    if wanted is not None:
        rules.append(("checkpoint.metric", wanted))
    found = [absent(path, metric, names) or _undirected(path, metric, config, own)
             for path, metric in rules]  # fmt: skip
    problems = [problem for problem in found if problem is not None]
    if wanted is None and len(defaults) == 1 and defaults[0] not in names:
        have = ", ".join(sorted(names)) or "none"
        text = f"its default_metric, {defaults[0]!r}, is not in its evaluation, which has: {have}"
        problems.append(Problem("model", text))
    for name in names:
        wrong = key_problem(name)
        if wrong is not None:
            problems.append(Problem("model", f"its metric {name!r} cannot be tracked: {wrong}"))
    return problems


def absent(path: str, metric: str, names: Collection[str]) -> Problem | None:
    """The problem of a metric that no evaluation gives; None if one does."""
    if metric in names:
        return None
    have = ", ".join(sorted(names)) or "none"
    message = f"no evaluation gives {metric!r}; there are: {have}"
    if metric in ADDED:
        return Problem(path, f"{message}; evaluation.metrics=[{ADDED[metric]}] adds it")
    return Problem(path, message, suggestion=nearest(metric, names))


def _undirected(
    path: str, metric: str, config: RunConfig, own: Mapping[str, Metric] | None
) -> Problem | None:
    """The problem of a metric of which nobody says which is better; None if somebody does."""
    said = path == "checkpoint.metric" and config.checkpoint.mode is not None
    if said or direction(metric, own) != "none":
        return None
    return Problem(
        path,
        f"nothing says whether lower or higher is better of {metric!r}: a Metric in the class's "
        "`metrics` does, or checkpoint.mode",
    )
