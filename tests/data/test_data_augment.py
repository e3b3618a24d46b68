"""Laws of augmentation: inverse maps undo, all that shows one scene moves together, rows alone."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from rayloom.config.augment import TransformConfig
from rayloom.config.resolved import load_config
from rayloom.config.sections import DataConfig
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.data import augmentation, from_arrays, make_source
from rayloom.data.augmentation import augment, check_augment
from rayloom.data.use import Use
from rayloom_pipelines.shipped import find_config

SPEC = DataSpec({
    "image": FieldSpec((3, 16, 20), "uint8", "image"),
    "target": FieldSpec((1, 16, 20), "float32", "image"),
    "mask": FieldSpec((16, 20), "uint8", "mask", 4),
    "points": FieldSpec((5, 2), "float32", "keypoints"),
    "label": FieldSpec((), "int64", "label", 9),
})  # fmt: skip


def transforms(*sections):
    return TypeAdapter(list[TransformConfig]).validate_python(list(sections))


def scene(num=6, seed=0):
    """A mask, and pictures that show it; points on the middles of pixels."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(num, 16, 20, dtype=torch.uint8)
    for row in range(num):
        top, left = torch.randint(2, 8, (2,), generator=generator).tolist()
        mask[row, top : top + 6, left : left + 9] = 1 + row % 3
    points = torch.stack([
        torch.randint(0, 20, (num, 5), generator=generator),
        torch.randint(0, 16, (num, 5), generator=generator),
    ], -1).float()  # fmt: skip
    return {
        "image": (mask.unsqueeze(1) * 80).expand(-1, 3, -1, -1).contiguous(),
        "target": mask.unsqueeze(1).float() / 4,
        "mask": mask,
        "points": points,
        "label": torch.arange(num),
    }


def noise(num=6, **kwargs):
    return Noise(3, step=1, total=num, **kwargs)


ALL = transforms(
    {"name": "rotate", "degrees": 30}, {"name": "flip"}, {"name": "noise", "std": 0.1},
    {"name": "flip", "axis": "vertical"}, {"name": "shift", "fraction": 0.2},
    {"name": "scale", "low": 0.7, "high": 1.4}, {"name": "blur", "sigma": 1.5},
    {"name": "salt_pepper"}, {"name": "channel_dropout", "probability": 0.5},
)  # fmt: skip


def test_rows_know_nothing_of_each_other():
    """Ranks and chunks give what one process gives, and the batch that came is as it was."""
    batch = scene()
    before = {k: v.clone() for k, v in batch.items()}
    whole = augment(batch, noise(), ALL, SPEC)
    assert all(torch.equal(batch[k], before[k]) for k in batch)
    assert not torch.equal(whole["image"], batch["image"])
    assert torch.equal(whole["label"], batch["label"])
    for cuts in ([0, 2, 6], [0, 1, 1, 6]):
        parts = [
            augment({k: v[a:b] for k, v in batch.items()}, noise(start=a, stop=b), ALL, SPEC)
            for a, b in pairwise(cuts)
        ]
        for name, value in whole.items():
            joined = torch.cat([part[name] for part in parts])
            assert joined.dtype == batch[name].dtype
            assert joined.shape == batch[name].shape
            torch.testing.assert_close(joined.float(), value.float(), atol=1.01, rtol=1e-4)
            same = (joined == value).float().mean()  # a rounding may fall the other way
            assert same > 0.999 or name in ("target", "points")
    again = augment(batch, noise(), ALL, SPEC)
    other = augment(batch, Noise(3, step=2, total=6), ALL, SPEC)
    assert torch.equal(again["image"], whole["image"])
    assert not torch.equal(other["image"], whole["image"])


@pytest.mark.parametrize("section", [
    {"name": "flip", "probability": 1.0}, {"name": "flip", "axis": "vertical"},
    {"name": "shift"}, {"name": "rotate", "degrees": 25}, {"name": "scale"},
], ids=str)  # fmt: skip
def test_mask_and_points_move_with_the_picture(section):
    batch = scene()
    made = augment(batch, noise(), transforms(section), SPEC)
    shown = made["image"][:, 0].float() / 80  # bilinear
    kinds = (1 + torch.arange(6) % 3).view(6, 1, 1)
    share = shown / kinds  # a pixel whose nearest one is inside has a quarter of it, or more
    assert torch.equal(made["mask"] == 0, made["mask"] != kinds)
    assert bool((made["mask"][share > 0.76] != 0).all())
    assert not made["mask"][share < 0.24].any()
    torch.testing.assert_close(made["target"][:, 0] * 4, shown, atol=0.02, rtol=0)
    assert made["mask"].unique().tolist() == [0, 1, 2, 3]
    # a point lies on what it lay on: on pictures whose value is the place
    x = torch.arange(20.0).expand(6, 1, 16, 20)
    y = torch.arange(16.0).unsqueeze(1).expand(6, 1, 16, 20)
    spec = DataSpec({
        "image": FieldSpec((1, 16, 20), "float32", "image"),
        "y": FieldSpec((1, 16, 20), "float32", "image"),
        "points": SPEC.fields["points"],
    })  # fmt: skip
    fields = {"image": x, "y": y, "points": batch["points"]}
    moved = augment(fields, noise(), transforms(section), spec)
    for row in range(6):
        for (px, py), (qx, qy) in zip(batch["points"][row], moved["points"][row], strict=True):
            if not (1 <= qx <= 18 and 1 <= qy <= 14 and 1 <= px <= 18 and 1 <= py <= 14):
                continue
            for value, wanted in ((moved["image"], px), (moved["y"], py)):
                i, j = int(qy), int(qx)
                near = value[row, 0, i : i + 2, j : j + 2]
                a, b = float(qy) - i, float(qx) - j
                weights = torch.tensor([[(1 - a) * (1 - b), (1 - a) * b], [a * (1 - b), a * b]])
                found = float((near * weights).sum())
                edge = (near == near.max()).sum() > 2  # the border's value was met
                assert edge or found == pytest.approx(float(wanted), abs=0.02)


def test_exact_maps_are_exact():
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    turned = augmentation.rotation(torch.tensor([90.0, -90.0]), 16, 16)
    made = augmentation.sample(image, turned)
    assert torch.equal(made[0], torch.rot90(image[0], 1, (1, 2)))  # anticlockwise
    assert torch.equal(made[1], torch.rot90(image[1], -1, (1, 2)))
    assert torch.equal(augmentation.sample(image, turned, nearest=True), made)
    move = augmentation.identity(2)
    move[:, 0, 2], move[:, 1, 2] = 3, -2
    made = augmentation.sample(image, move)
    assert torch.equal(made[:, :, :14, 3:], image[:, :, 2:, :13])
    assert torch.equal(made[:, :, :14, :3], image[:, :, 2:, :1].expand(-1, -1, -1, 3))
    batch = scene()
    for axis, dim in (("horizontal", -1), ("vertical", -2)):
        flip = transforms({"name": "flip", "axis": axis, "probability": 1.0})
        once = augment(batch, noise(), flip, SPEC)
        assert torch.equal(once["image"], batch["image"].flip(dim))
        assert torch.equal(once["mask"], batch["mask"].flip(dim))
        twice = augment(once, noise(), flip, SPEC)
        for name, value in batch.items():
            torch.testing.assert_close(twice[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degrees", [10.0, -33.0])
def test_inverse_maps_undo(degrees):
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 5, 64), indexing="ij")
    smooth = (x.sin() * y.cos()).expand(1, 1, 64, 64).double()
    factor = torch.tensor([[[1.2, 0], [0, 1.2]]])
    matrix = augmentation.about_middle(factor, 64, 64) @ augmentation.rotation(
        torch.tensor([degrees]), 64, 64
    )
    there = augmentation.sample(smooth, matrix)
    back = augmentation.sample(there, torch.linalg.inv(matrix))
    middle = (..., slice(22, 42), slice(22, 42))
    assert (there - smooth)[middle].abs().max() > 0.1
    assert (back - smooth)[middle].abs().max() < 5e-3
    points = torch.rand(1, 7, 2) * 64
    moved = augmentation.move_points(points, matrix)
    torch.testing.assert_close(
        augmentation.move_points(moved, torch.linalg.inv(matrix)), points, atol=1e-4, rtol=0
    )


def test_blur_and_noise_are_what_they_say():
    from scipy.ndimage import gaussian_filter1d

    image = torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(0)).double()
    made = augmentation.blur(image, torch.tensor([1.3, 0.0]), 2.0)
    wanted = image[0, 0].numpy()
    for axis in (0, 1):
        wanted = gaussian_filter1d(wanted, 1.3, axis=axis, mode="mirror", radius=6)
    np.testing.assert_allclose(made[0, 0].numpy(), wanted, atol=1e-6)
    torch.testing.assert_close(made[1], image[1])  # no width, no blur
    grey = {"image": torch.full((400, 1, 8, 8), 128, dtype=torch.uint8)}
    spec = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")})
    rng = Noise(0, total=400)
    noisy = augment(grey, rng, transforms({"name": "noise", "std": 0.1}), spec)["image"].float()
    assert float(noisy.mean()) == pytest.approx(128, abs=0.5)
    assert float(noisy.std()) == pytest.approx(25.5, rel=0.02)
    spots = augment(grey, rng, transforms({"name": "salt_pepper", "share": 0.2}), spec)["image"]
    assert float((spots == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((spots == 255).float().mean()) == pytest.approx(0.1, abs=0.01)
    half = transforms({"name": "noise", "std": 0.1, "probability": 0.3})
    acted = (augment(grey, rng, half, spec)["image"] != 128).flatten(1).any(1)
    assert float(acted.float().mean()) == pytest.approx(0.3, abs=0.07)
    colour = {"image": torch.full((300, 3, 4, 4), 9, dtype=torch.uint8)}
    spec = DataSpec({"image": FieldSpec((3, 4, 4), "uint8", "image")})
    drop = transforms({"name": "channel_dropout", "probability": 1.0})
    lost = augment(colour, Noise(0, total=300), drop, spec)["image"][:, :, 0, 0] == 0
    assert lost.sum(1).eq(1).all()
    assert lost.float().mean(0).min() > 0.25


def test_angles_and_factors_fill_their_range():
    rng = Noise(0, total=2000)
    [turn] = transforms({"name": "rotate", "degrees": 20})
    matrix = augmentation._matrix(turn, rng, "a", 10, 10)
    angle = torch.rad2deg(torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert (float(angle.min()), float(angle.max())) == pytest.approx((-20, 20), abs=0.3)
    [scale] = transforms({"name": "scale", "low": 0.5, "high": 2.0})
    factor = augmentation._matrix(scale, rng, "b", 10, 10)[:, 0, 0]
    assert float(factor.log().mean()) == pytest.approx(0, abs=0.03)
    assert float(factor.max()) == pytest.approx(2, abs=0.02)
    [shift] = transforms({"name": "shift", "fraction": 0.25})
    way = augmentation._matrix(shift, rng, "c", 8, 100)[:, :2, 2]
    assert way.abs().max(0).values.tolist() == pytest.approx([25, 2], rel=0.02)
    assert abs(math.fsum(way[:, 0].tolist())) / 2000 < 1


def test_pictures_of_two_sizes_are_refused():
    fields = {**SPEC.fields, "target": FieldSpec((1, 8, 8), "uint8", "image")}
    with pytest.raises(UserError, match=r"`image` is \(16, 20\), 'target' is \(8, 8\)"):
        check_augment(ALL, DataSpec(fields))
    with pytest.raises(UserError, match=r"data.augment: .*no field 'image' of pictures"):
        check_augment(ALL, DataSpec({"label": SPEC.fields["label"]}))
    check_augment([], DataSpec({}))


@pytest.mark.parametrize(("words", "wrong"), [
    ("[{name: rotate, degrees: 10}, {name: flip}]", None),
    ("[{name: flip}, {name: rotatee, degrees: 3}]", r"data.augment.1.name.*did you mean 'rotate'"),
    ("[{name: rotate}]", r"data.augment.0.degrees.*is required"),
    ("[{name: rotate, degrees: 400}]", r"degrees.*value <= 180|degrees.*out of range"),
    ("[{name: flip}, {name: blur, sigm: 1}]", r"did you mean 'sigma'"),
    ("[{name: scale, low: 2, high: 1}]", r"low \(2.0\) is above high"),
    ("{name: flip}", "must be a list"),
])  # fmt: skip
def test_the_section_of_a_config(words, wrong):
    flags = [f"data.augment={words}"]
    if wrong is None:
        made = load_config("autoencoders/vae-digits", flags, find=find_config)
        assert [t.name for t in made.config.data.augment] == ["rotate", "flip"]
        return
    with pytest.raises(ConfigError, match=wrong):
        load_config("autoencoders/vae-digits", flags, find=find_config)


# Few labels, resampling --------------------------------------------------------------------------


def classes(n=300):
    labels = np.random.default_rng(0).integers(0, 3, n)
    x = np.arange(n, dtype=np.int64)
    return from_arrays(
        "few", {"train": {"x": x, "label": labels}, "test": {"x": x, "label": labels}}
    )


@pytest.mark.parametrize("limit", [0, 100])
def test_few_labels_are_shown_of_each_class(limit):
    use = Use.of(DataConfig(name="few", labelled={"per_class": 7}, limit=limit,
                            validation_fraction=0.2))  # fmt: skip
    dataset = classes().using(use)
    assert dataset.spec.fields["label_mask"].dtype == "bool"
    chosen = set()
    for seed in (0, 1):
        source = make_source(dataset, "train", batch_size=16, seed=seed, shuffle=True)
        batches = [source.batch(k).fields for k in range(source.batches_per_epoch)]
        shown = torch.cat([b["label_mask"] for b in batches])
        label = torch.cat([b["label"] for b in batches])[shown]
        assert torch.bincount(label).tolist() == [7, 7, 7]
        chosen.add(tuple(sorted(torch.cat([b["x"] for b in batches])[shown].tolist())))
    assert len(chosen) == 1
    for split in ("test", "validation"):
        rest = make_source(dataset, split, batch_size=999, seed=0, shuffle=False).batch(0).fields
        assert bool(rest["label_mask"].all())
    only = make_source(dataset, "train", batch_size=4, seed=0, shuffle=True, fields=("label",))
    assert set(only.batch(0).fields) == {"label", "label_mask"}


def test_few_labels_need_labels():
    with pytest.raises(UserError, match=r"per_class is 200, but only \d+ training examples"):
        classes().using(Use.of(DataConfig(name="few", labelled={"per_class": 200})))
    plain = from_arrays("plain", {"train": {"x": np.zeros(3)}})
    with pytest.raises(UserError, match="'plain' has no field 'label'"):
        plain.using(Use.of(DataConfig(name="plain", labelled={"per_class": 2})))


def test_a_bootstrap_draws_with_replacement_once():
    dataset = classes(2000).using(Use.of(DataConfig(name="few", resample="bootstrap")))
    make = lambda seed: make_source(dataset, "train", batch_size=2000, seed=seed, shuffle=True)  # noqa: E731
    first, second = (sorted(make(0).batch(k).index.tolist()) for k in (0, 1))
    assert first == second  # one sample, in another order each epoch
    assert not torch.equal(make(0).batch(0).index, make(0).batch(1).index)
    assert sorted(make(1).batch(0).index.tolist()) != first
    assert len(set(first)) / 2000 == pytest.approx(1 - 1 / math.e, abs=0.03)
    held = make_source(dataset, "test", batch_size=2000, seed=0, shuffle=False)
    assert held.batch(0).index.tolist() == list(range(2000))
