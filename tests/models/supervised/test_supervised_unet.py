"""U-Net: the loss by hand, one confusion matrix for all, odd sizes, masks that move along."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from rayloom.config.augment import FlipConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, Done, FieldSpec, Turn
from rayloom.data import from_arrays
from rayloom.data.augmentation import augment
from rayloom.functional.classification import mean_iou
from rayloom.models.supervised.unet import UNetSegmenter, UNetSegmenterConfig
from rayloom.nn.unet import UNetNetwork
from rayloom.testing import check_model
from thread_ranks import same_after_resume, same_on_ranks

pytestmark = pytest.mark.law("unet")
SMALL = UNetSegmenterConfig(
    network=UNetNetwork(channels=(4, 8), attention_levels=0, groups=2, dropout=0.1)
)


def spec_of(height=8, width=8, classes=3):
    return DataSpec(
        {
            "image": FieldSpec((3, height, width), "uint8", "image"),
            "mask": FieldSpec((height, width), "uint8", "mask", classes),
        },
        "toy",
        12,
    )


def arrays(num=12, height=8, width=8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (num, 3, height, width), dtype=np.uint8)
    return {"image": image, "mask": (image.argmax(1)).astype(np.uint8)}


def batch(num=5, **size):
    return {name: torch.from_numpy(value) for name, value in arrays(num, **size).items()}


def build(spec=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNetSegmenter(SMALL, spec or spec_of()).double()
        for p in model.parameters():  # the last convolutions begin at zero
            p.data.add_(0.1 * torch.randn_like(p))
    return model


def noise(num):
    return Noise(3, total=num, dtype=torch.float64)


def test_the_contract():
    check_model(UNetSegmenter)


def test_the_loss_is_the_mean_of_the_pixels():
    model, rows = build().eval(), batch()
    p = model.probabilities(rows["image"])
    torch.testing.assert_close(p.sum(1), torch.ones(5, 8, 8).double())
    parts = model.loss(rows, rng=noise(5), turn=Turn())
    for b in range(5):
        total = 0.0
        for y in range(8):
            for x in range(8):
                total -= p[b, rows["mask"][b, y, x].long(), y, x].log().item()
        assert parts["loss"][b].item() == pytest.approx(total / 64)


def test_iou_is_scikit_learns_over_all_pixels():
    rng = np.random.default_rng(1)
    true, taken = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    taken[true == 3] = 3
    confusion = torch.zeros(5, 5)  # a class without a pixel
    for t, j in zip(true, taken, strict=True):
        confusion[t, j] += 1
    mean, worst = mean_iou(confusion)
    expected = jaccard_score(true, taken, average=None)
    assert mean.item() == pytest.approx(expected.mean())
    assert worst.item() == pytest.approx(expected.min())


def test_the_split_has_one_confusion_matrix():
    """Not the mean of its batches' scores."""
    model, rows = build().eval(), batch(9)
    parts = [
        model.evaluate_batch({k: v[a:b] for k, v in rows.items()}, rng=noise(b - a))
        for a, b in ((0, 4), (4, 9))
    ]
    whole = model.evaluate_batch(rows, rng=noise(9))["confusion"].value
    assert torch.equal(parts[0]["confusion"].value + parts[1]["confusion"].value, whole)
    assert whole.sum() == 9 * 64
    assert torch.equal(whole.sum(1), torch.bincount(rows["mask"].flatten().long(), minlength=3))
    done = Done(Turn(), means=dict, sums={"confusion": whole.double()}, rng=lambda: noise(9))
    assert model.summarise(done)["miou"] == mean_iou(whole.double())[0]


def test_odd_sizes_come_back_and_every_pixel_is_seen():
    model = build(spec_of(7, 9)).eval()
    image = batch(2, height=7, width=9)["image"].double().div(255).requires_grad_(True)
    logits = model.logits(image)
    assert logits.shape == (2, 3, 7, 9)
    (slope,) = torch.autograd.grad(logits[0, :, 3, 4].sum(), image)
    assert (slope[0, :, 2:5, 3:6].abs() > 0).all()
    assert (slope[1] == 0).all()  # no picture sees another
    mask = model.predict({"image": image}, rng=noise(2))["mask"]
    assert torch.equal(mask, logits.argmax(1))


def test_a_mask_moves_with_its_picture():
    rows = batch(6)
    moved = augment(rows, noise(6), [FlipConfig()], spec_of())
    assert not torch.equal(moved["mask"], rows["mask"])
    assert torch.equal(moved["image"].argmax(1), moved["mask"].long())


@pytest.mark.parametrize("batch_size", [7, 1])
def test_two_ranks_train_what_one_does(batch_size):
    data = lambda: from_arrays("toy", {"train": arrays(), "test": arrays(5)})  # noqa: E731
    same_on_ranks(lambda: (build(data().spec), data()), batch_size=batch_size)


def test_resumed_equals_unbroken():
    data = lambda: from_arrays("toy", {"train": arrays(), "test": arrays(5)})  # noqa: E731
    same_after_resume(lambda: (build(data().spec), data()))


def test_data_without_masks_are_refused():
    spec = DataSpec({"image": FieldSpec((3, 8, 8), "uint8", "image")}, "toy")
    with pytest.raises(UserError, match="no field 'mask'"):
        UNetSegmenter(SMALL, spec)
