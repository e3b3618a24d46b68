"""Folders of images: what fits a layout is taken and counted, what fits half is refused by name."""

import unicodedata

import pytest
from PIL import Image

from rayloom.core.errors import UserError
from rayloom.data import import_data
from rayloom.data.description import class_counts
from rayloom_pipelines.cli import main

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def tree(folder, *places):
    """A folder with two pictures in each place; a place that ends in / stays empty."""
    for place in places:
        home = folder / place
        home.mkdir(parents=True, exist_ok=True)
        for k in range(0 if place.endswith("/") else 2):
            Image.new("L", (2, 2), 10 * k + len(place)).save(home / f"{k}.png")
    return folder


def both(*classes):
    return [f"{split}/{name}" for split in ("train", "test") for name in classes]


HALF = {
    "another folder beside splits": (["train", "test", "extra"], ["extra", "train, test"]),
    "and beside splits of classes": ([*both("a", "b"), "extra/a"], ["extra"]),
    "an empty one that is a split": ([*both("a"), "val/"], ["val", "no pictures"]),
    "a class called train": (["car", "train", "bus"], ["bus, car", "train"]),
    "splits one level down": (
        ["mine/train", "mine/test"],
        ["mine: holds", "import", "mine itself"],
    ),
    "and with classes": ([f"mine/{p}" for p in both("a", "b")], ["mine: holds", "mine itself"]),
    "splits below classes": (["cat/train", "cat/test", "dog/train"], ["cat", "FOLDER/train/CLASS"]),
    "names like splits": (["train_images", "test_images"], ["train_images", "look like splits"]),
    "and with classes, in one word": (["TrainSet/a", "TestSet/a"], ["TrainSet", "look like"]),
    "CycleGAN": (["trainA", "trainB", "testA", "testB"], ["testA, testB, trainA", "look like"]),
    "splits inside a split": (["train/train", "train/test", "test/train"], ["train", "too deep"]),
    "roles": (["images", "depth"], ["depth, images", "import one of them"]),
    "roles in splits": (both("images", "labels"), ["images, labels", "parts of examples"]),
    "one split twice": ([*both("a"), "val/a", "valid/a"], ["val and valid", "validation"]),
    "one split in two cases": (["train/a", "Train/a", "test/a"], ["Train and train"]),
    "no train": (["test/a", "val/a"], ["test, val", "without train"]),
    "test alone": (["test/a", "test/b"], ["without train"]),
    "an empty train": (["train/", "test/a"], ["train", "no pictures"]),
    "pictures beside classes": (["cat", "dog", ""], ["0.png", "beside the folders of the classes"]),
    "pictures beside splits": ([*both("a"), ""], ["0.png", "beside the folders of the splits"]),
    "pictures beside classes in a split": ([*both("a"), "train"], ["train/0.png", "classes"]),
    "classes in one split only": (["train/a", "train/b", "test"], ["train has", "test has"]),
    "nested classes": (["animal/cat", "animal/dog", "plant/oak"], ["animal", "cat, dog", "nested"]),
    "pictures and folders in a class": (["cat", "cat/old", "dog"], ["cat", "old beside pictures"]),
    "a class in test only": ([*both("a", "b"), "test/c"], ["test/c", "not in train", "a, b"]),
    "Tiny ImageNet": (["train/n1/images", "val/images"], ["val/images", "n1"]),
    "one class in two cases": (["Cat", "cat", "dog"], ["'Cat' and 'cat'", "case"]),
    "and across splits": (["train/Cat", "train/d", "test/cat"], ["test/cat", "'Cat'"]),
    "two Unicode forms": ([COMPOSED, DECOMPOSED, "b"], ["look the same", r"cafe\u0301"]),
    "a space at the end": (["cat", "cat ", "dog"], ["look the same", "'cat '"]),
    "an invisible character": (["cat", "cat\u200b", "dog"], ["look the same", r"\u200b"]),
    "control characters": (["cat\x1b]0;x\x07", "dog"], [r"\x1b", "rename"]),
}


@pytest.mark.parametrize("case", HALF)
def test_what_fits_half_is_refused_by_name(tmp_path, case):
    places, words = HALF[case]
    tree(tmp_path / "in", *places)
    with pytest.raises(UserError) as error:
        import_data(tmp_path / "in", "x", root=tmp_path / "root")
    for word in words:
        assert word in str(error.value), str(error.value)
    assert not (tmp_path / "root" / "x").exists()


FIT = {
    "flat": ([""], {}, []),
    "splits without classes": (["train", "test"], {}, []),
    "any case, any name of a split": (["Training/a", "TEST/a", "dev/a"], {"a": [2, 2, 2]}, []),
    "the same chain in all classes": (["cat/x/images", "dog/x/images"], {"cat": 2, "dog": 2}, []),
    "letters": (["A", "a"], {"A": 2, "a": 2}, []),
    "plural of a split": (["trains", "tests"], {"tests": 2, "trains": 2}, []),
    "one name like a split": (["train_station", "beach"], {"beach": 2, "train_station": 2}, []),
    "one class": (["mine"], {"mine": 2}, ["in/mine` takes the pictures without labels"]),
    "leftovers": (["cat", "dog", "__MACOSX/cat", ".t/x", "cat/@eaDir"], {"cat": 2, "dog": 2}, []),
    "an empty class": (["cat", "dog", "cow/"], {"cat": 2, "dog": 2}, ["no pictures inside: cow/"]),
    "an empty class of test": (
        ["train/a", "train/b", "test/a", "test/b/"],
        {"a": [2, 2], "b": [2, 0]},
        ["test/b/", "not in test: b"],
    ),
    "two Unicode forms across splits": (
        [f"train/{COMPOSED}", f"test/{DECOMPOSED}"],
        {COMPOSED: [2, 2]},
        [],
    ),
    "train only": (["train/a", "train/b"], {"a": [2], "b": [2]}, ["data.validation_fraction"]),
    "annotations": (
        [*both("a", "b"), "annotations/"],
        {"a": [2, 2], "b": [2, 2]},
        ["annotations/"],
    ),
}


@pytest.mark.parametrize("case", FIT)
def test_what_fits_is_taken_and_told(tmp_path, capsys, case):
    """Splits and classes with counts are printed after the import."""
    places, classes, notes = FIT[case]
    tree(tmp_path / "in", *places)
    (tmp_path / "in" / "readme.md").write_text("passed over")
    assert main(["data", "import", str(tmp_path / "in"), "x", "--root", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    from rayloom.data import open_store

    made = open_store(tmp_path / "r" / "x")
    found = dict(class_counts(made).get("label", []))
    assert list(found) == list(classes)
    for name, counts in classes.items():
        if isinstance(counts, int):  # split by a hash
            assert sum(found[name].values()) == counts
        else:
            assert list(found[name].values()) == counts
        line = ", ".join(f"{split} {count}" for split, count in found[name].items())
        assert f"class    {name}: {line}" in said
    for split in made.splits:
        assert f"{split} {len(made.split(split))}" in said.splitlines()[0]
    for note in [".md 1", *notes]:
        assert note in said
    assert "field    image: uint8 (1, 2, 2) image" in said


def test_parquet_and_pictures_in_one_folder_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tree(tmp_path / "in", "")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "in" / "train.parquet")
    with pytest.raises(UserError, match=r"Parquet \(train\.parquet\) and pictures \(0\.png"):
        import_data(tmp_path / "in", "x", root=tmp_path / "root")


def test_other_kinds_of_files_are_counted_where_there_are_no_pictures(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"no images in it.*it holds \.npy 1"):
        import_data(tmp_path, "x", root=tmp_path / "root")
