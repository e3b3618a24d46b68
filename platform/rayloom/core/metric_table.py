"""Every metric rayloom writes: key, unit, direction, meaning. `docs/metrics.md` is made from it.

Keys are `area/name_unit`. `time/` and `system/` hold all that may differ between two equal runs.
Keys under `loss/` come from a model's named parts and are open-ended; so are `sweep/` and `param/`.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["min", "max", "none"]


@dataclass(frozen=True)
class Metric:
    """One line of the table."""

    key: str
    unit: str
    direction: Direction
    meaning: str


def _m(key: str, unit: str, direction: Direction, meaning: str) -> tuple[str, Metric]:
    return key, Metric(key, unit, direction, meaning)


METRICS: dict[str, Metric] = dict(
    [
        _m("loss/total", "nats or as the model says", "min", "mean training loss since the last"),
        _m("loss/grad_norm", "1", "none", "global gradient norm before clipping"),
        _m("optim/lr", "1", "none", "learning rate of the step"),
        _m("eval/loss", "as the model says", "min", "mean loss on the evaluation split"),
        _m("eval/elbo_nats", "nats/example", "max", "evidence lower bound on the whole split"),
        _m("eval/elbo_nats_se", "nats/example", "none", "standard error of eval/elbo_nats"),
        _m("eval/reconstruction_nats", "nats/example", "min", "-E_q log p(x|z)"),
        _m("eval/kl_nats", "nats/example", "none", "KL(q(z|x) || p(z))"),
        _m(
            "eval/nll_nats", "nats/example", "min", "importance-weighted NLL (tag rayloom.protocol)"
        ),
        _m("eval/nll_nats_se", "nats/example", "none", "standard error of eval/nll_nats"),
        _m("eval/bpd", "bits/dimension", "min", "eval bound or NLL per dimension"),
        _m("eval/return_mean", "reward", "max", "mean undiscounted return, evaluation episodes"),
        _m("eval/return_iqm", "reward", "max", "interquartile mean of the returns"),
        _m("eval/return_low", "reward", "none", "lower end, 95 % bootstrap interval of the mean"),
        _m("eval/return_high", "reward", "none", "upper end, 95 % bootstrap interval of the mean"),
        _m("eval/return_std", "reward", "none", "standard deviation of the returns"),
        _m("eval/length_mean", "env steps", "none", "mean episode length"),
        _m("eval/episodes", "episodes", "none", "evaluation episodes"),
        _m("train/return_mean", "reward", "max", "mean return of the training episodes that ended"),
        _m("train/length_mean", "env steps", "none", "mean length of those episodes"),
        _m("train/episodes", "episodes", "none", "training episodes ended so far"),
        _m("train/epsilon", "probability", "none", "exploration rate"),
        _m("train/epoch", "epochs", "none", "passes over the training split, with fraction"),
        _m("train/grad_steps", "steps", "none", "optimizer steps so far"),
        _m("q/taken", "reward", "none", "mean Q of the actions in the batch"),
        _m("q/target", "reward", "none", "mean TD target"),
        _m("loss/td", "reward^2", "min", "mean Huber TD loss"),
        _m("time/examples_per_s", "examples/s", "max", "training examples per second"),
        _m("time/grad_steps_per_s", "steps/s", "max", "optimizer steps per second"),
        _m("time/env_steps_per_s", "env steps/s", "max", "environment steps per second"),
        _m("time/elapsed_s", "s", "none", "wall clock since this attempt's start"),
        _m("system/rss_bytes", "bytes", "none", "resident memory of the process"),
    ]
)


def direction(key: str) -> Direction:
    """`min`, `max` or `none`; keys under `loss/` are minimised unless listed."""
    if key in METRICS:
        return METRICS[key].direction
    if key.startswith("loss/") or key.endswith(("_loss", "nll_nats", "bpd", "error")):
        return "min"
    return "none"


def is_deterministic(key: str) -> bool:
    """Whether two equal runs must agree on this key in every bit."""
    return not key.startswith(("time/", "system/"))


def markdown() -> str:
    """The page `docs/metrics.md` (`make docs` writes it)."""
    lines = [
        "# Metrics",
        "",
        "Every metric that rayloom writes, made from `rayloom/core/metric_table.py` by",
        "`make docs`. Keys under `loss/` other than these are a model's own named parts, per",
        "example. A key with the ending `_se` is the standard error of the key without it. All",
        "that may differ between two equal runs lies under `time/` and `system/`; every other",
        "point of a resumed run equals the unbroken run's in every bit. MLflow's charts stand in",
        "the order of names, so it gets some under others: docs/runs.md, What MLflow shows.",
        "",
        "| key | unit | better | meaning |",
        "|---|---|---|---|",
    ]
    better = {"min": "lower", "max": "higher", "none": ""}
    for metric in METRICS.values():
        arrow = better[metric.direction]
        lines.append(f"| `{metric.key}` | {metric.unit} | {arrow} | {metric.meaning} |")
    return "\n".join(lines) + "\n"
