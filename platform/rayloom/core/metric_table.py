"""What a metric key means: unit, direction, meaning. The shared ones stand here, once.

A method says which of them it writes, and what else, on its class (`core.declared`). From this
table and the classes `make docs` makes `docs/metrics.md`.

Keys are `area/name_unit`. `time/` and `system/` hold all that may differ between two equal runs.
Keys under `loss/` come from a model's named parts and are open-ended; so are `sweep/` and `param/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from rayloom.core.errors import UserError, did_you_mean

Direction = Literal["min", "max", "none"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
SE = "_se"  # ending of a standard error's key


@dataclass(frozen=True)
class Metric:
    """One key: what it counts in, whether less or more of it is better, what it says.

    Attributes:
        key: `area/name`, such as `eval/accuracy` or, of a named loss part, `loss/commitment`.
        unit: What it is counted in, such as `nats/example`; `1` for a pure number.
        direction: `min` (lower is better), `max`, or `none`: nothing is judged by it.
        meaning: One line.

    Raises:
        UserError: The key has no area, the direction is none of these, or a text is empty.
    """

    key: str
    unit: str
    direction: Direction
    meaning: str

    def __post_init__(self) -> None:
        area, _, name = str(self.key).partition("/")
        if not area or not name:
            raise UserError(
                f"the metric {self.key!r} has no area: write it as a run's curves name it, such as "
                f"'eval/{name or area or 'accuracy'}'"
            )
        if self.direction not in DIRECTIONS:
            raise UserError(
                f"metric {self.key!r}: the direction {self.direction!r} is none of "
                f"{', '.join(DIRECTIONS)}"
            )
        for word in ("unit", "meaning"):
            if not isinstance(getattr(self, word), str) or not getattr(self, word).strip():
                raise UserError(f"metric {self.key!r} says nothing as its {word}")


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
            "eval/nll_nats",
            "nats/example",
            "min",
            "-log p, exact or a bound (tag rayloom.protocol)",
        ),
        _m("eval/nll_nats_se", "nats/example", "none", "standard error of eval/nll_nats"),
        _m("eval/bpd", "bits/dimension", "min", "eval bound or NLL per dimension"),
        _m("eval/accuracy", "share", "max", "examples whose likeliest class is the right one"),
        _m("eval/f1_macro", "1", "max", "F1 score, mean over the classes"),
        _m("eval/ece", "share", "min", "expected calibration error"),
        _m("eval/miou", "share", "max", "intersection over union, mean over the classes"),
        _m("eval/rmse", "units of the target", "min", "root of the mean squared error"),
        _m("eval/nats_per_token", "nats/token", "min", "summed nats over summed tokens"),
        _m("eval/perplexity", "tokens", "min", "exp of eval/nats_per_token"),
        _m("eval/bits_per_byte", "bits/byte", "min", "summed bits over summed bytes of the text"),
        _m("eval/frechet", "squared features", "min", "Frechet distance of samples to the split"),
        _m("eval/kid", "1", "min", "kernel distance of samples to the split"),
        _m("eval/mode_coverage", "share", "max", "classes of the split that the samples reach"),
        _m("eval/conditional_accuracy", "share", "max", "samples read as the class asked for"),
        _m("eval/psnr_db", "dB", "max", "peak signal-to-noise ratio"),
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
        _m("train/epoch", "epochs", "none", "passes over the training split, with fraction"),
        _m("train/grad_steps", "steps", "none", "optimizer steps so far"),
        _m("time/examples_per_s", "examples/s", "max", "training examples per second"),
        _m("time/grad_steps_per_s", "steps/s", "max", "optimizer steps per second"),
        _m("time/env_steps_per_s", "env steps/s", "max", "environment steps per second"),
        _m("time/elapsed_s", "s", "none", "wall clock since this attempt's start"),
        _m("system/rss_bytes", "bytes", "none", "resident memory of the process"),
    ]
)


def shared(*keys: str) -> tuple[Metric, ...]:
    """Lines of the shared table, for a class to say which of them it writes.

    Raises:
        UserError: There is no such key; names the nearest one.
    """
    for key in keys:
        if key not in METRICS:
            raise UserError(
                f"the shared table has no metric {key!r}{did_you_mean(key, METRICS)} "
                "(docs/metrics.md lists them; what is your own is a Metric(...) of its own)"
            )
    return tuple(METRICS[key] for key in keys)


def direction(key: str, own: Mapping[str, Metric] | None = None) -> Direction:
    """`min`, `max` or `none`; keys under `loss/` are minimised unless declared otherwise.

    Args:
        key: Of a metric.
        own: What the method declares, by key.
    """
    found = (own or {}).get(key) or METRICS.get(key)
    if found is not None:
        return found.direction
    return "min" if key.startswith("loss/") else "none"


def judged(own: Mapping[str, Metric] | None = None) -> list[str]:
    """The keys that have a direction: the method's own, then the shared ones."""
    every = {**(own or {}), **METRICS}
    return [key for key, metric in every.items() if metric.direction != "none"]


def is_deterministic(key: str) -> bool:
    """Whether two equal runs must agree on this key in every bit."""
    return not key.startswith(("time/", "system/"))


def markdown(methods: Mapping[str, tuple[str | None, Mapping[str, Metric]]]) -> str:
    """The page `docs/metrics.md` (`make docs` writes it).

    Args:
        methods: (default metric, what the class declares) by method; see
            `catalogue.declarations`.
    """
    lines = [
        "# Metrics",
        "",
        "Every metric that rayloom writes, made by `make docs` from the shared table",
        "(`rayloom/core/metric_table.py`) and from what the methods declare (`metrics`,",
        "`default_metric`; docs/architecture.md, 'Model'). A key means the same everywhere.",
        "Keys under `loss/` other than these are a model's own named parts, per",
        "example. A key with the ending `_se` is the standard error of the key without it. All",
        "that may differ between two equal runs lies under `time/` and `system/`; every other",
        "point of a resumed run equals the unbroken run's in every bit. MLflow's charts stand in",
        "the order of names, so it gets some under others: docs/runs.md, What MLflow shows.",
        "",
        "## Shared",
        "",
        *_rows(METRICS),
        "",
        "## By method",
        "",
        "Best checkpoint, early stopping, stop rules and sweeps use the *default* where the config",
        "does not say (`checkpoint.metric`, `sweep.metric`); none: the last checkpoint is kept.",
        "",
        "| method | default | of the shared keys, an evaluation writes |",
        "|---|---|---|",
    ]
    for name, (default, own) in methods.items():
        keys = ", ".join(f"`{key}`" for key in own if key in METRICS and key.startswith("eval/"))
        lines.append(f"| `{name}` | {f'`{default}`' if default else 'none'} | {keys} |")
    for name, (_, own) in methods.items():
        mine = {key: metric for key, metric in own.items() if key not in METRICS}
        if mine:
            lines += ["", f"### {name}", "", *_rows(mine)]
    return "\n".join(lines) + "\n"


def _rows(metrics: Mapping[str, Metric]) -> list[str]:
    better, bar = {"min": "lower", "max": "higher", "none": ""}, "\\|"
    head = ["| key | unit | better | meaning |", "|---|---|---|---|"]
    return head + [
        f"| `{one.key}` | {one.unit} | {better[one.direction]} | {one.meaning.replace('|', bar)} |"
        for one in metrics.values()
    ]
