"""Metrics that compare a model's samples with the evaluation split, in features of a classifier.

None of them is called FID or KID of the literature: those mean one network, one resizer and 50,000
samples. The extractor, its hash and the number of samples stand in the run's protocol.

Dimension key: B examples, F features, K classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Part, Sum, operations
from rayloom.metrics.distances import frechet_distance, kernel_distance, moments
from rayloom.metrics.extractor import Extractor, load_extractor


class Features:
    """Features of a batch's real rows and of as many samples, computed once per batch.

    Args:
        spec: Of the data; its name and shape pick the extractor.
        samples: At most so many samples in all; 0: no limit.
        batch_size: Rows of an evaluation batch, all but the last.

    Raises:
        UserError: There is no extractor for these data.
    """

    def __init__(self, spec: DataSpec | None, samples: int, batch_size: int) -> None:
        if spec is None:
            raise UserError("evaluation.metrics: what compares samples needs to know the data")
        self.extractor: Extractor = load_extractor(spec)
        self.samples, self.batch_size = samples, batch_size
        self._key: tuple[int, int, int] | None = None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def of(self, model: Any, batch: Batch, rng: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """(real (B, F), samples (b, F), classes of the samples (b,)); b may be 0.

        A model that takes conditions gets those of the real rows, and the settings at their
        defaults. Batches are drawn for in order until `samples` are there.
        """
        key = (id(batch), rng.step, rng.seed)
        if self._last is None or key != self._key:
            self._key, self._last = key, self._made(model, batch, rng)
        return self._last

    @torch.no_grad()
    def _made(self, model: Any, batch: Batch, rng: Noise) -> tuple[Tensor, Tensor, Tensor]:
        image = batch["image"]
        rows = len(image)
        if self.samples:
            rows = max(0, min(rows, self.samples - rng.step * self.batch_size))
        extractor = self.extractor.to(image.device)
        real, _ = extractor(image)
        if not rows:
            return real, real[:0], torch.zeros(0, dtype=torch.int64, device=real.device)
        sample = operations(type(model))["sample"]
        given = {name: batch[name][:rows] for name in sample.takes if name in batch}
        settings = sample.settings() if sample.settings else None
        noise = rng.of_length(rows).under("samples")
        drawn = model.sample(given, rng=noise, settings=settings)["image"]
        fake, logits = extractor(drawn.float())
        return real, fake, logits.argmax(1)

    @property
    def protocol(self) -> str:
        """Extractor, its hash and the number of samples."""
        count = self.samples or "as many as the split has"
        return f"samples against the split in {self.extractor.title}, samples: {count}"


class _Sampled:
    """Base: holds the features that all of them share."""

    def __init__(self, features: Features) -> None:
        self.features = features

    @property
    def protocol(self) -> str:
        """Extractor and number of samples."""
        return self.features.protocol


class Frechet(_Sampled):
    """`frechet`: Frechet distance of Gaussians with the moments of samples and split.

    Heusel et al., 2017, arXiv:1706.08500, with another extractor.
    """

    name: ClassVar[str] = "frechet"
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def evaluate_batch(self, model: Any, batch: Batch, *, rng: Noise) -> Mapping[str, Part]:
        """Counts, sums and outer products of both sides."""
        real, fake, _ = self.features.of(model, batch, rng)
        parts: dict[str, Part] = {}
        for side, rows in (("real", real.double()), ("fake", fake.double())):
            parts[f"frechet.{side}_count"] = Sum(torch.tensor(float(len(rows))))
            parts[f"frechet.{side}_sum"] = Sum(rows.sum(0))
            parts[f"frechet.{side}_products"] = Sum(rows.T @ rows)
        return parts

    def summarise(self, done: Done) -> Mapping[str, Tensor | float]:
        """`frechet`."""
        sides = []
        for side in ("real", "fake"):
            kept = (done.sums[f"frechet.{side}_{what}"] for what in ("count", "sum", "products"))
            sides.append(moments(*kept))
        return {"frechet": frechet_distance(sides[0], sides[1])}


class KernelDistance(_Sampled):
    """`kid`: unbiased kernel distance, the mean over evaluation batches as subsets.

    Binkowski et al., 2018, arXiv:1801.01401, with another extractor.
    """

    name: ClassVar[str] = "kid"
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def evaluate_batch(self, model: Any, batch: Batch, *, rng: Noise) -> Mapping[str, Part]:
        """The distance within this batch, weighted by its rows."""
        real, fake, _ = self.features.of(model, batch, rng)
        rows = float(min(len(real), len(fake)))
        value = torch.zeros((), dtype=torch.float64)
        if rows > 1:
            value = kernel_distance(real.double(), fake.double()).cpu()
        else:
            rows = 0.0
        return {"kid.sum": Sum(value * rows), "kid.rows": Sum(torch.tensor(rows))}

    def summarise(self, done: Done) -> Mapping[str, Tensor | float]:
        """`kid`."""
        return {"kid": done.sums["kid.sum"] / done.sums["kid.rows"]}


class ModeCoverage(_Sampled):
    """`mode-coverage`: exp(entropy of the classes of the samples) / K.

    1 where all classes are drawn equally often, 1 / K where one class is all there is. The classes
    are the extractor's, so it says nothing about quality.
    """

    name: ClassVar[str] = "mode-coverage"
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def evaluate_batch(self, model: Any, batch: Batch, *, rng: Noise) -> Mapping[str, Part]:
        """How often each class was drawn."""
        _, _, classes = self.features.of(model, batch, rng)
        counts = torch.bincount(classes, minlength=self.features.extractor.num_classes)
        return {"mode-coverage.counts": Sum(counts)}

    def summarise(self, done: Done) -> Mapping[str, Tensor | float]:
        """`mode_coverage`."""
        share = done.sums["mode-coverage.counts"]
        share = share / share.sum()
        entropy = -torch.special.xlogy(share, share).sum()
        return {"mode_coverage": entropy.exp() / len(share)}


class ConditionalAccuracy(_Sampled):
    """`conditional-accuracy`: share of samples that the extractor reads as the class asked for.

    The classes are those of the split's rows. It rewards samples that are typical of their class,
    and says nothing about diversity.
    """

    name: ClassVar[str] = "conditional-accuracy"
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def evaluate_batch(self, model: Any, batch: Batch, *, rng: Noise) -> Mapping[str, Part]:
        """Hits among the samples of this batch, and how many there are."""
        _, _, classes = self.features.of(model, batch, rng)
        hits = (classes == batch["label"][: len(classes)].to(classes)).double()
        return {
            "conditional-accuracy.hits": Sum(hits.sum()),
            "conditional-accuracy.rows": Sum(torch.tensor(float(len(hits)))),
        }

    def summarise(self, done: Done) -> Mapping[str, Tensor | float]:
        """`conditional_accuracy`."""
        rows = done.sums["conditional-accuracy.rows"]
        return {"conditional_accuracy": done.sums["conditional-accuracy.hits"] / rows}


SAMPLE_METRICS: dict[str, Any] = {
    kind.name: kind for kind in (Frechet, KernelDistance, ModeCoverage, ConditionalAccuracy)
}
