"""CNN classifier: softmax regression as a limit, p - y, the confusion matrix, ranks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, Done, FieldSpec, Turn
from rayloom.data import from_arrays
from rayloom.functional.classification import f1_macro, recalls, worst_recall
from rayloom.models.supervised.cnn import CNNClassifier, CNNClassifierConfig
from rayloom.nn.network import ConvNetwork, MLPNetwork
from rayloom.testing import check_model
from rayloom.testing.models import IMAGES, random_batch
from thread_ranks import same_after_resume, same_on_ranks

pytestmark = pytest.mark.law("cnn-classifier")

SMALL = CNNClassifierConfig(network=ConvNetwork(channels=(4, 6)), hidden=(8,))
SOFTMAX = CNNClassifierConfig(network=MLPNetwork(widths=()), hidden=(), dropout=0.0)


def noise(num):
    return Noise(3, total=num, dtype=torch.float64)


def build(config, spec=IMAGES):
    torch.manual_seed(0)
    return CNNClassifier(config, spec).double()


@pytest.mark.parametrize("config", [SMALL, SOFTMAX], ids=["conv", "softmax"])
def test_the_contract(config):
    check_model(CNNClassifier, config)


def test_without_hidden_layers_it_is_softmax_regression():
    """Affine in the pixels; the gradient of the loss in the logits is p - y."""
    model, batch = build(SOFTMAX).eval(), random_batch(IMAGES, 5)
    (linear,) = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    x = 2 * batch["image"].double().flatten(1) / 255 - 1
    logits = x @ linear.weight.T + linear.bias
    torch.testing.assert_close(model.logits(batch["image"]), logits)
    model.loss(batch, rng=noise(5), turn=Turn())["loss"].sum().backward()
    y = torch.nn.functional.one_hot(batch["label"], 10).double()
    torch.testing.assert_close(linear.weight.grad, (logits.softmax(-1) - y).T @ x)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    model, batch = build(SMALL), random_batch(IMAGES, 5)
    loss = model.loss(batch, rng=noise(5), turn=Turn())["loss"]
    still = model.eval().evaluate_batch(batch, rng=noise(5))["loss"]
    assert not torch.allclose(loss, still)
    torch.testing.assert_close(model.loss(batch, rng=noise(5), turn=Turn())["loss"], still)


def test_metrics_of_the_confusion_matrix_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 200)
    taken = np.where(rng.random(200) < 0.6, label, rng.integers(0, 4, 200))
    confusion = torch.bincount(torch.tensor(label * 6 + taken), minlength=36).view(6, 6).double()
    assert float(f1_macro(confusion)) == pytest.approx(f1_score(label, taken, average="macro"))
    found = recall_score(label, taken, average=None)
    assert recalls(confusion)[:4].tolist() == pytest.approx(found.tolist())
    assert float(worst_recall(confusion)) == pytest.approx(found.min())  # classes 4, 5: no example


def test_the_confusion_matrix_has_the_right_class_in_its_rows():
    model, batch = build(SMALL).eval(), random_batch(IMAGES, 30)
    values = model.evaluate_batch(batch, rng=noise(30))
    taken = model.predict(batch, rng=noise(30))["label"]
    confusion = values["confusion"].value
    for row, column in ((0, int(taken[0])), (3, 3), (int(batch["label"][1]), int(taken[1]))):
        both = (batch["label"] == row) & (taken == column)
        assert confusion[row, column] == both.sum()
    done = Done(Turn(), means=dict, sums={"confusion": confusion.double()}, rng=lambda: noise(30))
    said = model.summarise(done)
    label = batch["label"].numpy()
    assert float(said["f1_macro"]) == pytest.approx(f1_score(label, taken, average="macro"))


def test_predictions_are_probabilities_and_the_shown_mistakes_are_the_worst():
    model, batch = build(SMALL).eval(), random_batch(IMAGES, 40)
    predicted = model.predict(batch, rng=noise(40))
    torch.testing.assert_close(predicted["probability"].sum(1), torch.ones(40).double())
    shown = model.show(batch, rng=noise(40))["mistakes_told"].columns
    nats = model.evaluate_batch(batch, rng=noise(40))["loss"]
    assert shown["nats"] == pytest.approx(nats.sort(descending=True).values[:32].tolist())


def made():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    data = from_arrays("noise", {"train": {"image": images, "label": rng.integers(0, 3, 40)}})
    return build(SMALL, data.spec), data


@pytest.mark.parametrize(("ranks", "batch_size", "accumulate"), [(2, 7, 1), (3, 1, 1), (2, 16, 4)])
def test_ranks_and_chunks_equal_one_process_with_dropout(ranks, batch_size, accumulate):
    same_on_ranks(made, batch_size=batch_size, ranks=ranks, accumulate=accumulate)


def test_resumed_equals_unbroken_in_bits():
    same_after_resume(made)


def test_data_without_classes_are_refused():
    spec = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")}, name="mine")
    with pytest.raises(UserError, match="no field 'label' of two classes"):
        CNNClassifier(SMALL, spec)
