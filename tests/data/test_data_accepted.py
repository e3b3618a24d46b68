"""One table of what is accepted: arrays and columns that come in train, others are refused."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import rayloom
from rayloom.core.errors import UserError
from rayloom.core.fields import ACCEPTED
from rayloom.core.protocols import FieldSpec
from rayloom.data import StoreWriter, import_data, open_dataset
from rayloom.data.description import class_counts
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom_pipelines.cli import main

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def bytes_of(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def floats(*shape):
    return RNG.random(shape, dtype=np.float32)


def brought_in(tmp_path, value, **options):
    """The data set of an array, of the arrays of a dictionary, or of a table or several."""
    if isinstance(value, np.ndarray):
        path = tmp_path / "in.npy"
        np.save(path, value)
    elif isinstance(value, pa.Table):
        path = tmp_path / "in.parquet"
        pq.write_table(value, path)
    elif isinstance(next(iter(value.values())), pa.Table):
        path = tmp_path / "in"
        path.mkdir()
        for name, table in value.items():
            pq.write_table(table, path / f"{name}.parquet")
    else:
        path = tmp_path / "in.npz"
        np.savez(path, **value)
    return import_data(path, "x", root=tmp_path / "root", **options)


def test_the_table_is_the_one_in_the_docs():
    text = (ROOT / "docs" / "data.md").read_text()
    for row in ACCEPTED:
        assert f"| {row.kind} | {row.shape} | {row.numbers} | {row.trains} |\n" in text


GREY, UNIT = FieldSpec((1, 8, 6), "uint8", "image"), FieldSpec((1, 8, 6), "float32", "image")
PICTURES = {
    "grey": (bytes_of(20, 8, 6), GREY),
    "grey, channels last": (bytes_of(20, 8, 6, 1), GREY),
    "colour": (bytes_of(20, 8, 6, 3), FieldSpec((3, 8, 6), "uint8", "image")),
    "four channels": (bytes_of(20, 8, 6, 4), FieldSpec((4, 8, 6), "uint8", "image")),
    "two channels first": (bytes_of(20, 2, 8, 6), FieldSpec((2, 8, 6), "uint8", "image")),
    "floats": (floats(20, 8, 6), UNIT),
    "floats, big-endian": (floats(20, 8, 6, 1).astype(">f4"), UNIT),
    "half floats": (floats(20, 8, 6).astype("f2"), FieldSpec((1, 8, 6), "float16", "image")),
    "Fortran's order": (np.asfortranarray(bytes_of(20, 8, 6)), GREY),
    "bool": (bytes_of(20, 8, 6) > 99, GREY),
    "int16": (bytes_of(20, 8, 6).astype(">i2"), GREY),
    "keys of any case": ({"X_train": bytes_of(9, 8, 6), "X_test": bytes_of(4, 8, 6)}, GREY),
    "keys that are splits": ({"train": bytes_of(9, 8, 6), "test": bytes_of(4, 8, 6)}, GREY),
    "a tensor": (
        pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(floats(20, 1, 8, 6))}),
        UNIT,
    ),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_of_every_accepted_kind_come_in_and_train(tmp_path, case):
    """To the first evaluation and its pictures, where four channels once died."""
    value, spec = PICTURES[case]
    made = brought_in(tmp_path, value)
    assert made.spec.image == spec
    overrides = [
        *("data.name=x", f"data.root={tmp_path / 'root'}", "train.epochs=1", "model.widths=[4]"),
        *("data.batch_size=8", "evaluation.metrics=[]", f"storage={tmp_path / 'runs'}"),
    ]
    if case in ("four channels", "half floats"):  # seconds
        run = rayloom.train("autoencoders/vae-digits", overrides, track=False)
        assert run.status == "finished"
        assert np.isfinite(run.metrics["eval/elbo_nats"])
        assert run.pictures()
    else:
        VAE(VAEConfig(widths=(4,)), made.spec)


def test_bool_and_whole_numbers_keep_what_they_show(tmp_path):
    pixels = bytes_of(20, 4, 5)
    for k, (value, want) in enumerate(
        [(pixels > 99, (pixels > 99) * np.uint8(255)), (pixels.astype("i8"), pixels)]
    ):
        np.save(tmp_path / f"{k}.npy", value)
        made = import_data(tmp_path / f"{k}.npy", f"x{k}", root=tmp_path, test_fraction=0)
        got = made.split("train").take(torch.arange(20))["image"].numpy()
        assert sorted(v.tobytes() for v in got) == sorted(v.tobytes() for v in want)


NO_PICTURES = {
    "from -1 to 1": (floats(9, 8, 6, 3) * 2 - 1, ["float32 from -", "[0, 1]", "--kind vector"]),
    "floats to 255": ({"images": floats(9, 8, 6) * 255}, ["(images)", "float32 from", "[0, 1]"]),
    "below zero": (bytes_of(9, 8, 6, 1).astype("i2") - 99, ["int16 from -", "--kind vector"]),
    "zeros and ones": ({"image": np.eye(8, dtype=int)[None]}, ["save zeros and ones as bool"]),
    "channels nowhere": (bytes_of(9, 5, 6, 7), ["--layout chw", "--layout hwc"]),
    "channels twice": (bytes_of(9, 3, 6, 3), ["--layout chw", "--layout hwc"]),
    "one of two splits": (
        {"x_train": floats(9, 8, 6, 1), "x_test": floats(9, 8, 6, 1) * 3},
        ["to 2."],
    ),
    "an axis of nothing": (np.zeros((9, 0, 8), np.uint8), ["(1, 0, 8)"]),
    "no rows": (np.zeros((0, 8, 8), np.uint8), ["no examples"]),
    "not finite": (np.full((9, 8, 8, 1), np.nan, np.float32), ["row", "NaN"]),
    "times": (np.zeros(9, "M8[s]"), ["datetime64"]),
    "records": (np.zeros(9, [("a", "f4")]), ["cannot be kept"]),
    "a tensor to 9": (
        pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(floats(9, 1, 4, 4) * 9)}),
        ["'image'", "row 0 reaches", "[0, 1]"],
    ),
    "a tensor with channels last": (
        pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(bytes_of(9, 8, 6, 3))}),
        ["(8, 6, 3)", "come first"],
    ),
    "a tensor without channels": (
        pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(bytes_of(9, 8, 6))}),
        ["'image' cannot be pictures", "(8, 6)"],
    ),
}


@pytest.mark.parametrize("case", NO_PICTURES)
def test_what_no_model_could_take_is_refused_at_import(tmp_path, case):
    value, words = NO_PICTURES[case]
    with pytest.raises(UserError) as error:
        brought_in(tmp_path, value)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert not (tmp_path / "root" / "x").exists()


def test_kind_and_layout_say_what_the_shape_does_not(tmp_path, capsys):
    np.save(tmp_path / "a.npy", bytes_of(9, 3, 8, 3))
    np.save(tmp_path / "b.npy", floats(9, 8, 6) * 9)
    words = ["--root", str(tmp_path), "--force"]

    def said(code, *argv):
        assert main(["data", "import", *argv, *words]) == code
        out, err = capsys.readouterr()
        return out + err

    assert "image: uint8 (3, 3, 8)" in said(0, str(tmp_path / "a.npy"), "x", "--layout", "hwc")
    assert "image: uint8 (3, 8, 3)" in said(0, str(tmp_path / "a.npy"), "x", "--layout", "chw")
    assert "vector: uint8 (3, 8, 3)" in said(0, str(tmp_path / "a.npy"), "x", "--kind", "vector")
    text = said(0, str(tmp_path / "b.npy"), "x")
    assert "vector: float32 (8, 6)" in text
    assert "kept as a vector, not as pictures" in text
    assert "float32 from" in said(2, str(tmp_path / "b.npy"), "x", "--kind", "image")
    assert "--keys: for .npz" in said(2, str(tmp_path / "b.npy"), "x", "--keys", "a")


def test_the_start_of_training_says_what_model_and_data_lack(tmp_path):
    """Model, fields with shapes, what would be right; and the split that is missing."""
    with StoreWriter(tmp_path / "t", {"vector": FieldSpec((3,), "float32")}) as writer:
        writer.add("train", {"vector": floats(9, 3)})
        writer.add("test", {"vector": floats(9, 3)})
    with StoreWriter(tmp_path / "s", {"image": FieldSpec((1, 4, 4), "int64", "image")}) as writer:
        writer.add("train", {"image": np.zeros((9, 1, 4, 4), np.int64)})

    def refused(*overrides):
        with pytest.raises(UserError) as error:
            rayloom.train(
                "autoencoders/vae-digits",
                [f"data.root={tmp_path}", f"storage={tmp_path / 'runs'}", *overrides],
                track=False,
            )
        return str(error.value)

    text = refused("data.name=t")
    for word in (
        "model vae",
        "'image'",
        "vector float32 (3,)",
        "(C, H, W)",
        "another data.name or model",
    ):
        assert word in text
    text = refused("data.name=s")
    for word in (
        "data.eval_split (--split) is 'test'",
        "it has: train",
        "data.validation_fraction=0.1",
    ):
        assert word in text
    text = refused("data.name=s", "data.eval_split=train")
    assert "its numbers are int64" in text
    assert "--kind" in text
    text = refused("data.name=t", "data.eval_split=tset")
    assert "did you mean 'test'?" in text
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/run.json"))


# --- labels, keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(20)[:, None] % 2,
        np.arange(20).reshape(20, 1, 1) % 2,
        np.array(["a", "b"] * 10)[:, None],
        np.array([b"a", b"b"] * 10),
        (np.arange(20) % 2 == 1)[:, None],
    ],
)
def test_a_column_of_labels_is_a_vector_of_labels(tmp_path, labels):
    made = brought_in(tmp_path, {"x": np.arange(20.0), "Y": labels})
    assert made.spec.fields["label"] == FieldSpec((), "int64", "label", 2)
    for split in made.splits:
        got = made.split(split).take(torch.arange(len(made.split(split))))
        assert (got["x"] % 2 == got["label"]).all()


def test_only_whole_numbers_and_text_are_labels_in_a_table(tmp_path):
    """Floats under the name label once became the whole numbers below them."""
    one = pa.array([[1], [0]], pa.list_(pa.int64(), 1))
    made = brought_in(tmp_path, pa.table({"label": one, "x": [1.0, 0.0]}))
    assert made.spec.fields["label"] == FieldSpec((), "int64", "label", 2)
    got = made.split("train").take(torch.arange(1))
    assert got["label"].item() == got["x"].item()
    made = brought_in(tmp_path, pa.table({"label": [1.5, 2.5]}), force=True, test_fraction=0)
    assert made.split("train").take(torch.arange(2))["label"].tolist() == [1.5, 2.5]
    assert made.notes == ("label: double, no labels (whole numbers or text)",)


def test_names_of_classes_have_one_unicode_form(tmp_path):
    made = brought_in(tmp_path, {"x": floats(20), "y": np.array([COMPOSED, DECOMPOSED] * 10)})
    [(name, counts)] = class_counts(made)["label"]
    assert (name, sum(counts.values())) == (COMPOSED, 20)
    table = pa.table({"x": [1.0] * 4, "Label": [COMPOSED, DECOMPOSED] * 2})
    (tmp_path / "t").mkdir()
    [(name, _)] = class_counts(brought_in(tmp_path / "t", table))["label"]
    assert name == COMPOSED
    for k, value in enumerate([{"y": np.array(["a", "a\xa0"])}, pa.table({"y": ["a", "a "]})]):
        (tmp_path / str(k)).mkdir()
        with pytest.raises(UserError, match="classes look the same"):
            brought_in(tmp_path / str(k), value)


def test_keys_are_chosen_and_pickled_ones_left_out(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    trap = np.empty(20, object)
    trap[:] = [Trap() for _ in range(20)]
    arrays = {"x": bytes_of(20, 4, 4), "y": np.arange(20) % 3, "meta": trap, "seed": np.int64(1)}
    with pytest.raises(UserError) as error:
        brought_in(tmp_path, arrays)
    assert "'meta'" in str(error.value)
    assert "pickled" in str(error.value)
    assert "--keys x,y,seed leaves it out" in str(error.value)
    with pytest.raises(UserError, match=r"\(seed\): has no examples.*--keys x,y leaves it out"):
        brought_in(tmp_path, arrays, keys=["x", "y", "seed"])
    made = brought_in(tmp_path, arrays, keys=["y", "x"])
    assert set(made.spec.fields) == {"image", "label"}
    with pytest.raises(UserError, match="no key 'z'"):
        brought_in(tmp_path, arrays, keys=["z"], force=True)
    with pytest.raises(UserError, match="'meta': pickled objects"):
        brought_in(tmp_path, arrays, keys=["meta"], force=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": bytes_of(4, 8, 8), "X": bytes_of(4, 8, 8)}, ["'x' and 'X'", "same field 'image'"]),
        ({DECOMPOSED: floats(4), COMPOSED: floats(4)}, ["look the same"]),
        (
            {"x_train": floats(4), "x_val": floats(2), "x_valid": floats(2)},
            ["'x_valid'", "validation"],
        ),
        ({"x_train": floats(4), "y_train": floats(4), "x_test": floats(2)}, ["'y'", "train, test"]),
        ({"x_train": floats(4, 2), "x_test": floats(2, 3)}, ["'x' is", "(2,)", "(3,)"]),
        ({"x_train": bytes_of(4), "x_test": floats(2)}, ["uint8", "float32"]),
        ({"x": floats(4), "val": floats(3)}, ["number of examples"]),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path, arrays, words):
    with pytest.raises(UserError) as error:
        brought_in(tmp_path, arrays)
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize("table", [False, True])
def test_splits_of_several_widths_lose_no_number(tmp_path, table):
    small, large = np.array([1, 2], np.int16), np.array([70_000], np.int32)
    if table:
        value = {"train": pa.table({"t": small}), "test": pa.table({"t": large})}
    else:
        value = {"t_train": small, "t_test": large}
    made = brought_in(tmp_path, value)
    assert made.split("test").take(torch.arange(1))["t"].item() == 70_000


def test_what_a_user_may_not_expect_is_noted(tmp_path, capsys):
    """Labels that are none, arrays without names, no pictures, classes that are missing."""
    np.savez(tmp_path / "a.npz", bytes_of(20, 4, 4), np.arange(20))
    np.savez(tmp_path / "b.npz", x=bytes_of(20, 4, 4), y=np.arange(20.0))
    np.savez(
        tmp_path / "c.npz", x_train=floats(3), y_train=[7, 9, 9], x_test=floats(1), y_test=[1000]
    )

    def said(name, *words):
        argv = ["data", "import", str(tmp_path / name), "x", "--root", str(tmp_path), "--force"]
        main([*argv, *words])
        return "".join(capsys.readouterr())

    text = said("a.npz")
    assert "arr_0, arr_1: arrays without a name" in text
    assert "no field image" in text
    assert "no key is called x, data or image" in said("a.npz", "--kind", "image")
    assert "y: float64 (), no labels" in said("b.npz")
    text = said("c.npz")
    assert "class    9: train 2, test 0" in text
    assert text.count("class ") == 3
    assert "label: not in train: 1000" in text


# --- Parquet --------------------------------------------------------------------------------


def frame(n=20):
    return pd.DataFrame({"x": RNG.random(n), "z": RNG.random(n), "label": ["a", "b"] * (n // 2)})


def pandas_table(data):
    return pa.Table.from_pandas(data)


PANDAS = {
    "an index": lambda f: {"train": f[f.x > 0.3], "test": f},
    "another order": lambda f: {"train": f, "test": f[["label", "z", "x"]]},
    "large strings": lambda f: {
        "train": f,
        "test": pandas_table(f).set_column(
            2, "label", pa.chunked_array([pa.array(f.label, pa.large_string())])
        ),
    },
    "categories": lambda f: {"train": f.astype({"label": "category"}), "test": f},
    "nullable": lambda f: {"train": f.astype({"x": "Float64"}), "test": f},
    "names of splits in any case": lambda f: {"Train": f, "TESTING": f},
}


@pytest.mark.parametrize("case", PANDAS)
def test_what_pandas_writes_comes_in(tmp_path, case):
    f = frame()
    tables = {
        k: v if isinstance(v, pa.Table) else pandas_table(v) for k, v in PANDAS[case](f).items()
    }
    made = brought_in(tmp_path, tables)
    assert set(made.spec.fields) == {"x", "z", "label"}
    got = made.split("test").take(torch.arange(20))
    np.testing.assert_array_equal(got["x"].numpy(), f.x)
    np.testing.assert_array_equal(got["z"].numpy(), f.z)
    np.testing.assert_array_equal(got["label"].numpy(), f.label == "b")
    assert (made.notes != ()) == (case == "an index")


TIME = pd.Timestamp("2020-01-01")
ODD = {
    "null in a list": ({"v": [[1.0], [2.0, None]]}, ["'v'", "1 missing", "inside", "row 1"]),
    "null in a fixed list": (
        {"v": pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float64(), 2))},
        ["'v'", "1 missing", "inside", "row 1"],
    ),
    "null for a list": ({"v": [[1.0], None]}, ["'v'", "1 missing", "row 1"]),
    "null": ({"v": [1, None, 3]}, ["'v'", "1 missing", "row 1"]),
    "nulls only": ({"v": pa.nulls(2), "x": [1.0, 2.0]}, ["missing values only", "--columns x"]),
    "times": ({"v": [TIME] * 2, "x": [1.0, 2.0]}, ["timestamp", "numbers", "--columns x"]),
    "decimals": ({"v": pa.array([1, 2], pa.decimal128(5, 2))}, ["decimal128", "float64"]),
    "text": ({"v": ["a", "b"]}, ["neither numbers nor images", "label"]),
    "a name twice": (pa.table([[1.0], [2.0]], names=["x", "x"]), ["two columns", "'x'"]),
    "twice in Unicode": (
        pa.table([[1.0], [2.0]], names=[COMPOSED, DECOMPOSED]), ["look the same", r"\u0301"],
    ),
    "twice with a space": (pa.table([[1.0], [2.0]], names=["x", "x "]), ["look the same", "'x '"]),
    "numbers for names": (pa.table([[1.0], [2.0]], names=["0", "1"]), ["'0'", "--vector 0,1"]),
    "a column too few": (
        {"train": pa.table({"x": [1.0], "z": [1.0]}), "test": pa.table({"x": [1.0]})},
        ["test.parquet", "lacks 'z'", "--columns"],
    ),
    "another type": (
        {"train": pa.table({"x": [1.0]}), "test": pa.table({"x": [1]})},
        ["test.parquet", "'x' is int64 here and double"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_in_a_table_gets_its_own_reason(tmp_path, case):
    value, words = ODD[case]
    if isinstance(value, dict) and not isinstance(next(iter(value.values())), pa.Table):
        value = pa.table(value)
    with pytest.raises(UserError) as error:
        brought_in(tmp_path, value)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "metadata" not in str(error.value)


def test_no_column_stands_for_another(tmp_path, capsys):
    """`--vector x,y` over columns x, x, y once gave x the numbers of y."""
    twice = pa.table([[1.0], [2.0], [3.0]], names=["x", "x", "y"])
    for options in ({"vector": ["x", "y"]}, {"columns": ["y"]}):
        with pytest.raises(UserError, match="two columns are called 'x'"):
            brought_in(tmp_path, twice, **options)
    pq.write_table(pa.table({DECOMPOSED: [1.0, 2.0], "y": [3.0, 4.0]}), tmp_path / "in.parquet")
    words = ["data", "import", str(tmp_path / "in.parquet"), "v", "--root", str(tmp_path)]
    assert main([*words, "--vector", f"{COMPOSED},y", "--test-fraction", "0"]) == 0
    from rayloom.config.sections import DataConfig

    made = open_dataset(DataConfig(name="v", root=str(tmp_path)))
    assert made.split("train").take(torch.arange(2))["vector"].tolist() == [[1, 3], [2, 4]]
    assert "no split test" in capsys.readouterr().out
    assert main([*words, "--vector", "y,y", "--force"]) == 2
    assert "twice" in capsys.readouterr().err
