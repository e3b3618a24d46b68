"""Pairs come in whole: pictures and masks of one name, second pictures, what `--field` says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data import import_data, make_source
from rayloom.data.exporting import export_parquet
from rayloom_pipelines.cli import main

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYLOOM_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(dataset, split="train"):
    rows = len(dataset.split(split))
    return make_source(dataset, split, batch_size=rows, seed=0, shuffle=False).batch(0).fields


def put(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def scene(number, side=8, classes=3):
    """A mask, and a picture whose red is the class."""
    mask = np.zeros((side, side), np.uint8)
    mask[number % side :, : side // 2] = number % classes
    picture = np.dstack([mask * 50, np.full_like(mask, number), mask]).astype(np.uint8)
    return picture, mask


def folder(place, count=6, names=("images", "masks"), ending="", classes=3):
    for number in range(count):
        picture, mask = scene(number, classes=classes)
        put(place / names[0] / f"{number}.png", picture)
        put(place / names[1] / f"{number}{ending}.png", mask)


@pytest.mark.parametrize(("names", "ending", "said"), [
    (("images", "masks"), "", {}), (("JPEGImages", "Annotations"), "", {}),
    (("img", "mask"), "_mask", {}), (("photo", "labels"), "", {"labels": "mask"}),
    (("a", "b"), "_seg", {"a": "image", "b": "mask"}),
])  # fmt: skip
def test_masks_lie_on_their_pictures(here, names, ending, said):
    folder(here / "in", names=names, ending=ending)
    made = import_data(here / "in", "made", fields=said, test_fraction=0)
    field = "b" if "b" in said else "labels" if said else "mask"
    spec = made.spec.fields[field]
    assert (spec.kind, spec.shape, spec.dtype, spec.num_classes) == ("mask", (8, 8), "uint8", 3)
    batch = everything(made)
    assert len(batch["image"]) == 6
    assert torch.equal(batch["image"][:, 0], batch[field] * 50)
    assert sorted(batch["image"][:, 1, 0, 0].tolist()) == list(range(6))


def test_splits_and_nested_folders(here):
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        folder(here / "in" / split / "x", count=0)
        for number in range(count):
            picture, mask = scene(number)
            put(here / "in" / split / "images" / "deep" / f"{number}.png", picture)
            put(here / "in" / split / "masks" / "deep" / f"{number}.png", mask)
    made = import_data(here / "in", "made")
    assert {name: len(made.split(name)) for name in made.splits} == {
        "train": 5, "validation": 2, "test": 3}  # fmt: skip
    (here / "in" / "val" / "masks" / "deep" / "0.png").unlink()
    with pytest.raises(UserError, match="has no partner in"):
        import_data(here / "in", "again")


def test_palettes_are_numbers_and_black_and_white_two_classes(here, capsys):
    for number in range(5):
        picture, mask = scene(number)
        put(here / "in" / "images" / f"{number}.png", picture)
        image = Image.fromarray(mask, "P")
        image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
        (here / "in" / "masks").mkdir(exist_ok=True)
        image.save(here / "in" / "masks" / f"{number}.png")
        put(here / "bw" / "images" / f"{number}.png", picture)
        put(here / "bw" / "masks" / f"{number}.png", (mask > 0).astype(np.uint8) * 255)
        put(here / "one" / "images" / f"{number}.png", picture)
        put(here / "one" / "masks" / f"{number}.png", mask > 0)
    assert main(["data", "import", "in", "p"]) == 0
    assert "mask: uint8 (8, 8) mask" in capsys.readouterr().out
    batch = everything(import_data("in", "q", test_fraction=0))
    assert torch.equal(batch["image"][:, 0], batch["mask"] * 50)
    assert main(["data", "import", "bw", "bw"]) == 0
    assert "0 and 255 became the classes 0 and 1" in capsys.readouterr().out
    for name in ("bw", "one"):
        made = import_data(name, f"{name}2", test_fraction=0)
        assert made.spec.fields["mask"].num_classes == 2
        batch = everything(made)
        assert torch.equal(batch["mask"], (batch["image"][:, 0] > 0).to(torch.uint8))


def test_masks_are_scaled_by_the_nearest_pixel(here):
    for number, side in enumerate((16, 24, 40)):
        picture, mask = scene(number + 1, side)
        put(here / "in" / "images" / f"{number}.png", picture)
        put(here / "in" / "masks" / f"{number}.png", mask * 7)
    with pytest.raises(UserError, match="give --size N"):
        import_data("in", "made")
    made = import_data("in", "made", size=8, test_fraction=0)
    batch = everything(made)
    assert batch["mask"].shape == (3, 8, 8)
    assert set(batch["mask"].unique().tolist()) <= {0, 7, 14}
    assert made.notes[-1] == "mask: 15 classes by its highest, 3 occur"


def test_two_folders_of_pictures_are_a_pair(here):
    for number in range(5):
        picture, _ = scene(number)
        put(here / "in" / "inputs" / f"{number}.png", picture, "L")
        put(here / "in" / "targets" / f"{number}_target.png", 255 - picture)
    made = import_data("in", "made", test_fraction=0)
    assert made.spec.fields["image"] == FieldSpec((1, 8, 8), "uint8", "image")
    assert made.spec.fields["target"] == FieldSpec((3, 8, 8), "uint8", "image")
    batch = everything(made)
    grey = np.asarray(Image.fromarray(scene(2)[0]).convert("L"))
    [row] = (batch["target"][:, 1, 0, 0] == 253).nonzero().flatten().tolist()
    assert np.array_equal(batch["image"][row, 0].numpy(), grey)


def broken(place, what):
    folder(place)
    picture, mask = scene(0)
    if what == "lonely":
        put(place / "masks" / "99.png", mask)
    elif what == "twice":
        put(place / "masks" / "0_mask.png", mask)
    elif what == "colour":
        put(place / "masks" / "1.png", picture)
    elif what == "size":
        put(place / "masks" / "1.png", np.zeros((8, 9), np.uint8))
    elif what == "damaged":
        (place / "masks" / "1.png").write_bytes(b"no picture")
    elif what == "three":
        put(place / "segmentations" / "1.png", mask)
    elif what == "no train":
        (place / "images").rename(place / "i")
        (place / "masks").rename(place / "m")
        folder(place / "test")
        for name in "im":
            __import__("shutil").rmtree(place / name)


@pytest.mark.parametrize(("what", "said", "message"), [
    ("lonely", {}, r"99.png: has no partner in .*images"), ("twice", {}, "has the same name"),
    ("colour", {}, "pixels of kind 'RGB'; a mask has one channel"),
    ("size", {}, "1.png is 9 x 8 pixels, its picture 8 x 8"), ("damaged", {}, "cannot be read"),
    ("three", {}, "look like parts of examples"), ("no train", {}, "without train"),
    ("", {"mask": "mask"}, "has no folder 'mask'.*did you mean 'masks'"),
    ("", {"masks": "label"}, "a folder of pictures is image or mask"),
])  # fmt: skip
def test_what_is_no_pair_is_refused_by_name(here, what, said, message):
    broken(here / "in", what)
    with pytest.raises(UserError, match=message):
        import_data(here / "in", "made", fields=said)
    assert not (here / "root" / "made").exists()


# Arrays and tables -------------------------------------------------------------------------------


def pictures(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(("keys", "said", "wanted"), [
    ({"x": (9, 8, 8), "y": (9, 8, 8)}, {}, {"image": "image", "target": "image"}),
    ({"image": (9, 8, 8, 3), "target": (9, 8, 8, 3)}, {}, {"image": "image", "target": "image"}),
    ({"image": (9, 3, 8, 8), "mask": (9, 8, 8)}, {}, {"image": "image", "mask": "mask"}),
    ({"x": (9, 8, 8), "y": (9, 8, 8)}, {"y": "mask"}, {"image": "image", "mask": "mask"}),
    ({"x": (9, 8, 8), "depth": (9, 8, 8)}, {"depth": "image"},
     {"image": "image", "depth": "image"}),
    ({"x": (9, 8, 8), "target": (9, 8, 8)}, {"target": "vector"},
     {"image": "image", "target": "vector"}),
    ({"x": (9, 8, 8), "y": (9, 4, 4)}, {}, {"image": "image", "y": "vector"}),
    ({"a": (9,), "b": (9, 4)}, {"a": "label", "b": "tokens"}, {"a": "label", "b": "tokens"}),
    ({"train_x": (9, 8, 8), "train_y": (9, 8, 8), "test_x": (4, 8, 8), "test_y": (4, 8, 8)}, {},
     {"image": "image", "target": "image"}),
])  # fmt: skip
def test_second_pictures_of_an_npz_are_kept(here, keys, said, wanted):
    arrays = {key: pictures(*shape) for key, shape in keys.items()}
    np.savez(here / "p.npz", **arrays)
    made = import_data(here / "p.npz", "made", fields=said, test_fraction=0)
    assert {name: field.kind for name, field in made.spec.fields.items()} == wanted
    if "target" in wanted and wanted["target"] == "image":
        batch, second = everything(made), next(k for k in keys if k.endswith(("y", "target")))
        shown = arrays[second]
        shown = shown[:, None] if shown.ndim == 3 else shown.transpose(0, 3, 1, 2)
        wide = batch["target"].numpy()
        rows = [np.flatnonzero((wide == one).reshape(9, -1).all(1)) for one in shown]
        assert sorted(int(row) for [row] in rows) == list(range(9))


def test_the_command_line_takes_fields(here, capsys):
    np.savez(here / "p.npz", x=pictures(9, 8, 8), depth=pictures(9, 8, 8))
    command = ["data", "import", "p.npz", "p"]
    assert main([*command, "--field", "depth=image"]) == 0
    assert "depth: uint8 (1, 8, 8) image" in capsys.readouterr().out
    for word, message in (
        ("depth=img", "did you mean 'image'"), ("depth", "write NAME=KIND"),
        ("=image", "write NAME=KIND"),
        ("dept=image", "has no key 'dept' (did you mean 'depth'?)"), ("depth=label", "labels are"),
        ("depth=tokens", "tokens are whole numbers, (n, L)"), ("depth=text", "arrays hold no text"),
    ):  # fmt: skip
        assert main([*command, "--force", "--field", word]) == 2, word
        assert message in capsys.readouterr().err
    np.save(here / "a.npy", pictures(9, 8, 8))
    assert main(["data", "import", "a.npy", "a", "--field", "x=image"]) == 2
    assert "--field: for .npz, Parquet and folders of pairs" in capsys.readouterr().err


def test_columns_are_what_the_user_says(here):
    masks = RNG.integers(0, 4, (6, 3, 5))
    table = pa.table({
        "group": ["a", "b", "a", "c", "b", "a"],
        "note": ["x", "", "yy", "z", "é", "w"],
        "where": pa.array(masks.tolist(), pa.list_(pa.list_(pa.int32(), 5), 3)),
        "codes": [[1], [2, 3], [], [4], [5], [6]],
        "label": [1, 2, 3, 1, 2, 3],
    })  # fmt: skip
    pq.write_table(table, here / "t.parquet")
    said = {"group": "label", "note": "text", "where": "mask", "codes": "tokens",
            "label": "vector"}  # fmt: skip
    made = import_data(here / "t.parquet", "made", fields=said, test_fraction=0)
    kinds = {name: (field.kind, field.num_classes) for name, field in made.spec.fields.items()}
    assert kinds == {
        "group": ("label", 3), "note": ("text", 256), "where": ("mask", 4), "codes": ("tokens", 7),
        "label": ("vector", 0),
    }  # fmt: skip
    assert made.spec.fields["group"].classes == ("a", "b", "c")
    batch = everything(made)
    assert np.array_equal(batch["where"].numpy(), masks)
    assert batch["group"].tolist() == [0, 1, 0, 2, 1, 0]
    [path] = export_parquet(made, here / "out")
    assert import_data(path, "back", test_fraction=0).fingerprint == made.fingerprint
    for wrong, message in (
        ({"codes": "mask"}, "masks are .H, W."), ({"codes": "label"}, "labels are"),
        ({"codes": "text"}, "no text"), ({"codes": "image"}, "cannot be pictures"),
        ({"nite": "text"}, "did you mean 'note'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            import_data(
                here / "t.parquet", "bad", fields={"note": "text", "group": "label", **wrong}
            )
