"""Logistic regression: scikit-learn's coefficients, and the conditions of its optimum."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as Theirs
from sklearn.neighbors import NearestCentroid

from rayloom.config.sections import LBFGSConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.data import from_arrays, make_source
from rayloom.functional.classification import bin_confidences, expected_calibration_error
from rayloom.models.supervised.logistic import LogisticRegression, LogisticRegressionConfig
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from thread_ranks import on_ranks

pytestmark = pytest.mark.law("logistic-regression")
DIGITS = load_digits()
IMAGES, LABELS = np.round(DIGITS.images * 255 / 16).astype(np.uint8)[:, None], DIGITS.target


def data_of(num_classes, num=400):
    """The first digits of so many classes."""
    chosen = np.flatnonzero(num_classes > LABELS)
    held_out, train = chosen[num : 2 * num], chosen[:num]
    splits = {"train": train, "test": held_out if len(held_out) else train}
    return from_arrays(
        "digits", {k: {"image": IMAGES[rows], "label": LABELS[rows]} for k, rows in splits.items()}
    )


def engine(data, c, collective=None, accumulate=1, max_iter=50):
    rows = len(data.split("train"))
    config = RunConfig(
        optimizer=LBFGSConfig(max_iter=max_iter, tolerance_grad=1e-12),
        train=TrainConfig(grad_steps=20, precision="fp64", accumulate=accumulate),
    )
    return Engine(
        LogisticRegression(LogisticRegressionConfig(inverse_penalty=c), data.spec),
        config,
        make_source(data, "train", batch_size=rows, seed=0, shuffle=True),
        make_source(data, "test", batch_size=64, seed=0, shuffle=False),
        collective=collective,
    )


def solved(num_classes, c=1.0, steps=4, **about):
    data = data_of(num_classes)
    made = engine(data, c, **about)
    made.advance(steps, sink=MemorySink(), interrupted=lambda: False)
    return made.model, made.evaluate(), data


def arrays(data, split):
    whole = data.split(split).take(torch.arange(len(data.split(split))))
    return whole["image"].flatten(1).double().numpy() / 255, whole["label"].numpy()


@pytest.mark.parametrize(("num_classes", "c"), [(2, 1.0), (3, 1.0), (10, 0.1)])
def test_the_coefficients_are_scikit_learn_s(num_classes, c):
    """To 1e-6, two classes (one row) and many; so is the accuracy on held-out digits.

    Theirs by Newton's method, to 1e-14: their own L-BFGS ends 1e-5 away. The free biases of ten
    classes lie in a flat valley.
    """
    model, metrics, data = solved(num_classes, c, steps=20)
    x, y = arrays(data, "train")
    theirs = Theirs(C=c, tol=1e-14, max_iter=2000, solver="newton-cholesky").fit(x, y)
    weight, bias = (p.detach().numpy() for p in (model.weight, model.bias))
    np.testing.assert_allclose(weight, theirs.coef_, rtol=0, atol=1e-6)
    flat = 4e-6 if num_classes == 10 else 1e-6
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=0, atol=flat)
    held_out = arrays(data, "test")
    assert metrics["eval/accuracy"] == pytest.approx(theirs.score(*held_out), abs=1e-6)
    log_p = theirs.predict_log_proba(held_out[0])[np.arange(len(held_out[1])), held_out[1]]
    assert metrics["eval/nll_nats"] == pytest.approx(-log_p.mean(), rel=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_gradient_vanishes(num_classes):
    """sum_n (p - y) x^T + W / C = 0, sum_n (p - y) = 0: the bias has no penalty."""
    c = 0.5
    model, _, data = solved(num_classes, c, steps=20)
    x, y = (torch.from_numpy(a) for a in arrays(data, "train"))
    image = (x * 255).round().byte().view(-1, 1, 8, 8)
    rest = model.logits(image).softmax(-1) - torch.nn.functional.one_hot(y, num_classes)
    rest = rest[:, 1:] if num_classes == 2 else rest
    slope = (rest.T @ x + model.weight / c).detach()
    assert float(slope.abs().max()) < 1e-5
    assert float(rest.detach().sum(0).abs().max()) < 1e-5
    assert float(model.weight.detach().abs().max()) > 0.1


def test_it_beats_the_nearest_class_mean():
    _, metrics, data = solved(10, steps=2)
    x, y = arrays(data, "train")
    centroid = NearestCentroid().fit(x + 1e-9 * np.random.default_rng(0).normal(size=x.shape), y)
    assert metrics["eval/accuracy"] > centroid.score(*arrays(data, "test")) + 0.02


def test_a_weaker_penalty_fits_closer_and_a_stronger_one_shrinks():
    norms = [float(solved(3, c)[0].weight.detach().norm()) for c in (0.01, 0.1, 1.0)]
    assert norms[0] < norms[1] < norms[2]


def test_of_many_classes_the_weights_sum_to_zero():
    """The penalty picks one of the equal softmax solutions."""
    model, _, _ = solved(10, steps=1)
    assert float(model.weight.detach().sum(0).abs().max()) < 1e-8


def test_ranks_and_chunks_equal_one_process():
    """After ten iterations: a line search turns rounding into larger differences later on."""
    few = {"steps": 2, "max_iter": 5}
    alone, metrics, _ = solved(3, **few)
    chunks = solved(3, accumulate=4, **few)
    found = on_ranks(2, lambda rank, group: solved(3, collective=group, **few))
    for model, values, _ in [chunks, *found]:
        torch.testing.assert_close(model.weight, alone.weight, rtol=1e-9, atol=1e-11)
        assert values == pytest.approx(metrics, rel=1e-9)


def test_killed_and_resumed_is_bit_equal():
    data = data_of(3)
    whole, first, second = (engine(data, 1.0) for _ in range(3))
    for made, until in ((whole, 3), (first, 1)):
        made.advance(until, sink=MemorySink(), interrupted=lambda: False)
    second.load_state_dict(first.state_dict())
    second.advance(3, sink=MemorySink(), interrupted=lambda: False)
    assert second.parameters_sha256() == whole.parameters_sha256()


def test_the_calibration_error_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    confidence, hit = rng.uniform(0.1, 1, 500), (rng.uniform(size=500) < 0.6).astype(float)
    confidence[:2] = 1.0, 1 / 15
    expected = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(hit[inside].mean() - confidence[inside].mean())
    halves = [
        bin_confidences(torch.from_numpy(confidence[rows]), torch.from_numpy(hit[rows]))
        for rows in (slice(200), slice(200, None))
    ]
    found = expected_calibration_error(halves[0] + halves[1])
    assert float(found) == pytest.approx(expected, rel=1e-12)
    sure = bin_confidences(torch.ones(9), torch.ones(9))
    assert float(expected_calibration_error(sure)) == 0


def test_predictions_are_probabilities():
    model, _, data = solved(2)
    image = data.split("test").take(torch.arange(20))["image"]
    predicted = model.predict({"image": image}, rng=Noise(0, total=20))
    assert predicted["probability"].shape == (20, 2)
    torch.testing.assert_close(predicted["probability"].sum(1), torch.ones(20).double())
    assert torch.equal(predicted["label"], predicted["probability"].argmax(1))


def test_data_without_classes_are_refused():
    fields = {
        "image": FieldSpec((1, 8, 8), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 1),
    }
    with pytest.raises(UserError, match="no field 'label' of two classes"):
        LogisticRegression(LogisticRegressionConfig(), DataSpec(fields, name="mine"))
