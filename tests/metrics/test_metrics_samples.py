"""Distances of samples: closed forms, libraries, and equal numbers on any cut into batches."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, operation
from rayloom.metrics.distances import frechet_distance, kernel_distance, moments
from rayloom.metrics.evaluation import make_metrics
from rayloom.metrics.extractor import Extractor
from rayloom.testing import done


def gaussian(seed, rows=4000, width=5):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(width, width))
    return torch.from_numpy(rng.normal(size=(rows, width)) @ mix + rng.normal(size=width))


def moments_of(x):
    return moments(torch.tensor(float(len(x))), x.sum(0), x.T @ x)


def test_moments_are_numpys():
    x = gaussian(0)
    mean, cov = moments_of(x)
    np.testing.assert_allclose(mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.numpy().T), rtol=1e-10)


def test_frechet_is_the_textbook_formula():
    (m1, c1), (m2, c2) = moments_of(gaussian(0)), moments_of(gaussian(1))
    root = sqrtm(c1.numpy() @ c2.numpy()).real
    expected = (m1 - m2).square().sum() + np.trace(c1.numpy() + c2.numpy() - 2 * root)
    assert float(frechet_distance((m1, c1), (m2, c2))) == pytest.approx(float(expected), rel=1e-8)
    assert abs(float(frechet_distance((m1, c1), (m1, c1)))) < 1e-6


def test_frechet_of_one_dimension_is_the_closed_form():
    one = torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double()
    other = torch.tensor([3.0]).double(), torch.tensor([[9.0]]).double()
    assert float(frechet_distance(one, other)) == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    x = gaussian(0, rows=2000)
    values = [
        float(kernel_distance(x[i : i + 100], x[i + 100 : i + 200])) for i in range(0, 2000, 200)
    ]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert float(kernel_distance(x[:500], x[500:1000] + 1)) > 10 * error


def test_kernel_distance_is_the_double_sum():
    x, y = gaussian(0, rows=4, width=2), gaussian(1, rows=3, width=2)

    def k(a, b):
        return (a @ b / 2 + 1) ** 3

    xx = sum(k(x[i], x[j]) for i in range(4) for j in range(4) if i != j) / 12
    yy = sum(k(y[i], y[j]) for i in range(3) for j in range(3) if i != j) / 6
    xy = sum(k(a, b) for a in x for b in y) / 12
    assert float(kernel_distance(x, y)) == pytest.approx(float(xx + yy - 2 * xy))


SPEC = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")}, "toy")


class Sampler:
    """Draws pictures of noise, darker where `shade` is small."""

    def __init__(self, shade):
        self.shade = shade

    @operation(gives={"image": "image"})
    def sample(self, batch, *, rng, settings=None):
        return {"image": self.shade * rng.uniform("pixels", 1, 8, 8)}


@pytest.fixture
def toy(monkeypatch):
    torch.manual_seed(0)
    extractor = Extractor(1, 4, "toy extractor").eval()
    monkeypatch.setattr("rayloom.metrics.samples.load_extractor", lambda spec: extractor)


def added(parts):
    names = parts[0]
    return done(sums={name: sum(part[name].value.double() for part in parts) for name in names})


def judged(shade, *, batch_size=100, samples=0, names=("frechet", "kid", "mode-coverage")):
    model, generator = Sampler(shade), torch.Generator().manual_seed(1)
    images = (255 * torch.rand(400, 1, 8, 8, generator=generator)).to(torch.uint8)
    metrics = make_metrics(names, model, SPEC, samples=samples, batch_size=batch_size)
    parts = []
    for number, start in enumerate(range(0, 400, batch_size)):
        batch = {"image": images[start : start + batch_size]}
        rng = Noise(3, step=number, total=len(batch["image"]))
        found = {}
        for metric in metrics:
            found |= metric.evaluate_batch(model, batch, rng=rng)
        parts.append(found)
    values = {}
    for metric in metrics:
        values |= {k: float(v) for k, v in metric.summarise(added(parts)).items()}
    return values, parts


def test_worse_samples_are_farther_away(toy):
    good, bad = judged(1.0)[0], judged(0.5)[0]
    assert good["frechet"] < 0.2 * bad["frechet"]
    assert good["kid"] < 0.2 * bad["kid"]
    assert 1 / 4 <= good["mode_coverage"] <= 1


def test_the_number_of_samples_is_kept_to(toy):
    _, parts = judged(1.0, samples=150)
    counts = [int(part["frechet.fake_count"].value) for part in parts]
    assert counts == [100, 50, 0, 0]
    real = [int(part["frechet.real_count"].value) for part in parts]
    assert real == [100] * 4


def test_coverage_is_the_perplexity_of_the_classes(toy):
    metric = make_metrics(["mode-coverage"], Sampler(1.0), SPEC)[0]

    counts = done(sums={"mode-coverage.counts": torch.tensor([30.0, 30.0, 0.0, 0.0]).double()})
    assert float(metric.summarise(counts)["mode_coverage"]) == pytest.approx(0.5)


LABELLED = DataSpec({**SPEC.fields, "label": FieldSpec((), "int64", "label", 4)}, "toy")


class Painter(Sampler):
    """Draws the class asked for as a shade."""

    @operation(takes=("label",), gives={"image": "image"})
    def sample(self, batch, *, rng, settings=None):
        return {"image": batch["label"].view(-1, 1, 1, 1).expand(-1, 1, 8, 8) / 4}


@pytest.mark.parametrize("samples", [0, 6])
def test_the_class_asked_for_is_the_one_that_is_read(monkeypatch, samples):
    """Read by an extractor that knows shades 0, 1, 2 and takes the fourth for the third."""

    def reads(image):
        shade = image.float().mean((1, 2, 3)) * 4
        return shade[:, None], torch.nn.functional.one_hot(shade.round().long().clamp(max=2), 4)

    monkeypatch.setattr("rayloom.metrics.samples.load_extractor", lambda spec: reads)
    reads.to, reads.title = lambda device: reads, "shades"
    (metric,) = make_metrics(
        ["conditional-accuracy"], Painter(1.0), LABELLED, samples=samples, batch_size=4
    )
    parts = []
    for number in range(2):
        batch = {"image": torch.zeros(4, 1, 8, 8), "label": torch.tensor([3, 0, 1, 2])}
        parts.append(metric.evaluate_batch(Painter(1.0), batch, rng=Noise(0, step=number, total=4)))
    share = float(metric.summarise(added(parts))["conditional_accuracy"])
    assert share == pytest.approx(6 / 8 if samples == 0 else 4 / 6)
    for model, spec in ((Sampler(1.0), LABELLED), (Painter(1.0), SPEC)):
        with pytest.raises(UserError, match="an operation sample that takes the label"):
            make_metrics(["conditional-accuracy"], model, spec)


def test_what_a_metric_needs_is_told():
    with pytest.raises(UserError, match="did you mean 'frechet'"):
        make_metrics(["frechett"], Sampler(1.0), SPEC)
    with pytest.raises(UserError, match="object has no metric 'kid', which needs the operation"):
        make_metrics(["kid"], object(), SPEC)
    with pytest.raises(UserError, match=r"no feature extractor for data set 'toy'; there are some"):
        make_metrics(["frechet"], Sampler(1.0), SPEC)
