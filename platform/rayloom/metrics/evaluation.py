"""Metrics of `evaluation.metrics`: usable with any model that can do what they need.

A metric is a small object with the two methods of a model's own evaluation: `evaluate_batch` gives
parts of one batch (per example, `Sum`s or `Rows`), `summarise` turns those of the whole split into
numbers. The names of its parts begin with its own name and a dot.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.metric_table import Metric
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Part, operations


@runtime_checkable
class EvaluationMetric(Protocol):
    """One entry of `evaluation.metrics`."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    def evaluate_batch(self, model: Any, batch: Batch, *, rng: Noise) -> Mapping[str, Part]:
        """Parts of one batch of the evaluation split."""
        ...

    def summarise(self, done: Done) -> Mapping[str, Tensor | float]:
        """Metrics of the whole split, by name; `eval/` comes in front."""
        ...

    @property
    def protocol(self) -> str:
        """What the numbers are about, in a few words; "": nothing to add."""
        ...


class Importance:
    """`nll`: the model's importance-weighted estimate, `model.nll(batch, num_samples=, rng=)`.

    Args:
        num_samples: K of the estimate.
    """

    name: ClassVar[str] = "nll"
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    @property
    def protocol(self) -> str:
        """K."""
        return f"{self.num_samples} importance samples"

    def evaluate_batch(self, model: Any, batch: Batch, *, rng: Noise) -> Mapping[str, Part]:
        """`nll_nats`, (B,)."""
        return {"nll_nats": model.nll(batch, num_samples=self.num_samples, rng=rng)}

    def summarise(self, done: Done) -> Mapping[str, Tensor | float]:
        """Nothing beyond the mean."""
        return {}


def made_for(model: Any, config: RunConfig, spec: DataSpec | None) -> list[EvaluationMetric]:
    """The metrics of section `evaluation` for a model; see `make_metrics`."""
    wanted, data = config.evaluation, config.data
    return make_metrics(
        wanted.metrics,
        model,
        spec,
        importance_samples=wanted.importance_samples,
        samples=wanted.samples,
        batch_size=500 if data is None else data.eval_batch_size,
    )


SAMPLED = ("frechet", "kid", "mode-coverage", "conditional-accuracy")
NEEDS = {"conditional-accuracy": "an operation sample that takes the label"}
NAMES = ("nll", *SAMPLED)


def make_metrics(
    names: Sequence[str],
    model: Any,
    spec: DataSpec | None,
    *,
    importance_samples: int = 200,
    samples: int = 0,
    batch_size: int = 500,
) -> list[EvaluationMetric]:
    """The metrics of a config for a model.

    Args:
        names: `evaluation.metrics`.
        model: What is judged.
        spec: Of its data.
        importance_samples: K of `nll`.
        samples: Samples that the distances draw at most; 0: as many as the split has.
        batch_size: Rows of an evaluation batch.

    Raises:
        UserError: A name is unknown, the model cannot do what a metric needs, or there is no
            feature extractor for the data.
    """
    kind, known = type(model).__name__, operations(type(model))
    sample = known.get("sample")
    can = [n for n in NAMES if (sample is not None if n in SAMPLED else hasattr(model, n))]
    if sample is None or "label" not in sample.takes or "label" not in getattr(spec, "fields", ()):
        can = [n for n in can if n != "conditional-accuracy"]
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"evaluation.metrics: there is no metric {name!r}{did_you_mean(name, NAMES)} "
                f"Known: {', '.join(NAMES)}"
            )
        if name not in can:
            usual = "the operation sample" if name in SAMPLED else f"a method {name}"
            needs = NEEDS.get(name, usual)
            raise UserError(
                f"evaluation.metrics: {kind} has no metric {name!r}, which needs {needs}; "
                f"it has: {', '.join(can) or 'none'}"
            )
    made: list[EvaluationMetric] = []
    if "nll" in names:
        made.append(Importance(importance_samples))
    sampled = [name for name in names if name in SAMPLED]
    if sampled:
        from rayloom.metrics.samples import SAMPLE_METRICS, Features

        features = Features(spec, samples, batch_size)
        made += [SAMPLE_METRICS[name](features) for name in sampled]
    return made
