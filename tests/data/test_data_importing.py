"""One's own data: images, arrays, tables; every refusal names the file."""

import json
import os
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data import StoreWriter, import_data, open_store
from rayloom.data.exporting import export_parquet
from rayloom.data.imports import columns as columns_module
from rayloom.data.imports.arrays import import_arrays
from rayloom.data.imports.images import import_images
from rayloom.data.imports.tables import import_table

RNG = np.random.default_rng(0)


def picture(path, size=(6, 4), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = RNG.integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path, **options)
    return pixels


def everything(dataset):
    parts = [dataset.split(s).take(torch.arange(len(dataset.split(s)))) for s in dataset.splits]
    return {k: torch.cat([p[k] for p in parts]).numpy() for k in parts[0]}


def refused(words, function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    for word in [words] if isinstance(words, str) else words:
        assert word in str(error.value), str(error.value)


# --- images ---------------------------------------------------------------------------------


def test_a_flat_folder(tmp_path):
    kept = [picture(tmp_path / "in" / f"{k}.png") for k in range(10)]
    (tmp_path / "in" / "notes.txt").write_text("passed over")
    (tmp_path / "in" / ".hidden.png").write_text("passed over")
    dataset = import_data(tmp_path / "in", "mine", root=tmp_path / "root", test_fraction=0.3)
    assert {s: len(dataset.split(s)) for s in dataset.splits} == {"train": 7, "test": 3}
    assert dataset.spec.image == FieldSpec((3, 4, 6), "uint8", "image")
    found = sorted(row.transpose(1, 2, 0).tobytes() for row in everything(dataset)["image"])
    assert found == sorted(k.tobytes() for k in kept)
    assert open_store(tmp_path / "root" / "mine").fingerprint == dataset.fingerprint


def test_the_same_folder_splits_the_same_anywhere(tmp_path):
    for k in range(20):
        picture(tmp_path / "a" / f"{k}.png")
    os.system(f"cp -r {tmp_path}/a {tmp_path}/b")
    prints = {import_images(tmp_path / f, f, root=tmp_path / "r").fingerprint for f in "ab"}
    assert len(prints) == 1


def test_labels_from_folders(tmp_path):
    for name, grey in (("dogs", 200), ("cats", 10)):
        for k in range(4):
            path = tmp_path / "in" / name / "deep" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (3, 3), grey + k).save(path)
    dataset = import_images(tmp_path / "in", "pets", root=tmp_path / "root")
    got = everything(dataset)
    assert dataset.manifest["fields"]["label"]["classes"] == ["cats", "dogs"]
    assert dataset.spec.fields["label"].num_classes == 2
    assert got["image"].shape == (8, 1, 3, 3)
    assert ((got["image"][:, 0, 0, 0] > 100) == (got["label"] == 1)).all()


def test_splits_from_folders(tmp_path):
    for split, n in (("train", 5), ("val", 2), ("test", 3)):
        for k in range(n):
            picture(tmp_path / "in" / split / f"c{k % 2}" / f"{k}.png")
    dataset = import_images(tmp_path / "in", "three", root=tmp_path / "root")
    sizes = {s: len(dataset.split(s)) for s in dataset.splits}
    assert sizes == {"train": 5, "validation": 2, "test": 3}
    assert dataset.spec.fields["label"].num_classes == 2


def test_sizes_and_modes(tmp_path):
    picture(tmp_path / "in" / "a.png", (6, 4), "L")
    picture(tmp_path / "in" / "b.png", (9, 20), "L")
    refused(
        ["b.png", "9 x 20", "6 x 4", "--size N"],
        import_images,
        tmp_path / "in",
        "x",
        root=tmp_path / "r",
    )
    dataset = import_images(tmp_path / "in", "x", root=tmp_path / "r", size=8)
    assert dataset.spec.image.shape == (1, 8, 8)
    picture(tmp_path / "in" / "c.png", (9, 20), "RGB")
    dataset = import_images(tmp_path / "in", "x", root=tmp_path / "r", size=8, force=True)
    assert dataset.spec.image.shape == (3, 8, 8)


def test_transparency_is_put_on_white_and_cameras_are_held_upright(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGBA", (2, 3), (0, 0, 0, 0)).save(tmp_path / "in" / "a.png")
    turned = Image.new("RGB", (3, 2), "black")
    turned.putpixel((0, 0), (255, 0, 0))
    exif = turned.getexif()
    exif[274] = 6  # a quarter turn
    turned.save(tmp_path / "in" / "b.png", exif=exif)
    dataset = import_images(tmp_path / "in", "x", root=tmp_path / "r", test_fraction=0)
    assert dataset.splits == ("train",)
    assert dataset.spec.image.shape == (3, 3, 2)
    a, b = sorted(everything(dataset)["image"], key=lambda image: -int(image.sum()))
    assert (a == 255).all()
    assert b[:, 0, 1].tolist() == [255, 0, 0]


def test_unreadable_pictures_are_named(tmp_path):
    picture(tmp_path / "in" / "good.png")
    bad = tmp_path / "in" / "bad.png"
    for data in (b"", b"no picture", (tmp_path / "in" / "good.png").read_bytes()[:60]):
        bad.write_bytes(data)
        refused(
            [str(bad), "cannot be read"], import_images, tmp_path / "in", "x", root=tmp_path / "r"
        )
    bad.unlink()
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(bad)
    refused([str(bad), "8 bits"], import_images, tmp_path / "in", "x", root=tmp_path / "r")
    assert not (tmp_path / "r" / "x").exists()


def test_pictures_are_not_scaled_beyond_measure(tmp_path):
    picture(tmp_path / "in" / "a.png")
    for size in (-3, 0, 100_000):
        refused("between 1 and", import_images, tmp_path / "in", "x", root=tmp_path, size=size)


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path):
    for name in ("a/1.png", "b/1.png", "a/.hidden.png", ".git/1.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "._1.png").write_bytes(b"junk")
    (tmp_path / "in" / "notes.txt").write_text("beside the classes")
    made = import_images(tmp_path / "in", "x", root=tmp_path)
    assert sum(len(made.split(name)) for name in made.splits) == 2
    assert made.manifest["fields"]["label"]["classes"] == ["a", "b"]


def test_a_picture_bomb_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "in" / "bomb.png", (20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    refused("far too many", import_images, tmp_path / "in", "x", root=tmp_path / "r")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused("far too many", import_images, tmp_path / "in", "x", root=tmp_path / "r")


def test_links_do_not_lead_out(tmp_path):
    picture(tmp_path / "secret" / "s.png")
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "same.png").symlink_to("a.png")
    import_images(tmp_path / "in", "fine", root=tmp_path / "r")
    link = tmp_path / "in" / "b.png"
    link.symlink_to(tmp_path / "secret" / "s.png")
    refused([str(link), "leads out"], import_images, tmp_path / "in", "x", root=tmp_path / "r")
    link.unlink()
    (tmp_path / "in" / "d").symlink_to(tmp_path / "secret")
    refused("link to a folder", import_images, tmp_path / "in", "x", root=tmp_path / "r")
    (tmp_path / "in" / "d").unlink()
    os.mkfifo(tmp_path / "in" / "pipe.png")
    refused("not a regular file", import_images, tmp_path / "in", "x", root=tmp_path / "r")


def test_mixed_layouts_are_refused(tmp_path):
    picture(tmp_path / "in" / "c" / "a.png")
    picture(tmp_path / "in" / "loose.png")
    refused(["loose.png", "classes"], import_images, tmp_path / "in", "x", root=tmp_path / "r")
    picture(tmp_path / "two" / "train" / "a.png")
    picture(tmp_path / "two" / "loose.png")
    refused(["loose.png", "splits"], import_images, tmp_path / "two", "x", root=tmp_path / "r")
    (tmp_path / "empty").mkdir()
    refused("no images", import_images, tmp_path / "empty", "x", root=tmp_path / "r")


def test_names_that_are_taken(tmp_path):
    picture(tmp_path / "in" / "a.png")
    refused("catalogue", import_images, tmp_path / "in", "digits", root=tmp_path / "r")
    import_images(tmp_path / "in", "mine", root=tmp_path / "r")
    refused("--force", import_images, tmp_path / "in", "mine", root=tmp_path / "r")
    import_images(tmp_path / "in", "mine", root=tmp_path / "r", force=True)
    refused("no such", import_data, tmp_path / "nowhere", "x", root=tmp_path / "r")
    (tmp_path / "x.csv").write_text("")
    refused(".csv", import_data, tmp_path / "x.csv", "x", root=tmp_path / "r")
    for fraction in (1.0, -0.1, float("nan")):
        refused(
            "test_fraction",
            import_images,
            tmp_path / "in",
            "y",
            root=tmp_path / "r",
            test_fraction=fraction,
        )


# --- arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((9, 4, 5), (1, 4, 5)), ((9, 4, 5, 3), (3, 4, 5)), ((9, 3, 4, 5), (3, 4, 5))],
)
def test_npy_of_images(tmp_path, shape, expected):
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    dataset = import_data(tmp_path / "x.npy", "mine", root=tmp_path, test_fraction=0.2)
    assert dataset.spec.image == FieldSpec(expected, "uint8", "image")
    got = everything(dataset)["image"]
    want = pixels.transpose(0, 3, 1, 2) if shape[-1] == 3 else pixels.reshape(9, *expected)
    assert sorted(v.tobytes() for v in got) == sorted(v.tobytes() for v in want)


def test_channels_that_are_ambiguous(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 3, 4, 3), np.uint8))
    refused("channels", import_arrays, tmp_path / "x.npy", "x", root=tmp_path)
    made = import_arrays(tmp_path / "x.npy", "x", root=tmp_path, layout="chw")
    assert made.spec.image.shape == (3, 4, 3)


def test_npz_with_splits_and_labels(tmp_path):
    data = {
        "x_train": RNG.integers(0, 256, (7, 4, 4), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2, 0], np.uint8),
        "x_test": RNG.integers(0, 256, (3, 4, 4), dtype=np.uint8),
        "y_test": np.array([4, 1, 0], np.uint8),
    }
    np.savez_compressed(tmp_path / "d.npz", **data)
    dataset = import_data(tmp_path / "d.npz", "mine", root=tmp_path)
    assert dataset.spec.fields["label"] == FieldSpec((), "int64", "label", 5)
    for split, n in (("train", 7), ("test", 3)):
        got = dataset.split(split).take(torch.arange(n))
        np.testing.assert_array_equal(got["image"][:, 0].numpy(), data[f"x_{split}"])
        np.testing.assert_array_equal(got["label"].numpy(), data[f"y_{split}"])


def test_npz_of_vectors_keeps_rows_together(tmp_path):
    x = RNG.normal(size=(20, 3)).astype(">f8")
    names = np.array(["ant", "bee"])[(x[:, 0] > 0).astype(int)]
    np.savez(tmp_path / "d.npz", features=x, label=names)
    dataset = import_data(tmp_path / "d.npz", "mine", root=tmp_path)
    got = everything(dataset)
    assert dataset.spec.fields["features"].dtype == "float64"
    assert dataset.manifest["fields"]["label"]["classes"] == ["ant", "bee"]
    np.testing.assert_array_equal(got["label"], got["features"][:, 0] > 0)
    assert len(dataset.split("test")) == 2


class Trap:
    fired = False

    def __reduce__(self):
        return (setattr, (Trap, "fired", True))


def test_pickles_are_refused_and_not_run(tmp_path):
    objects = np.empty(1, object)
    objects[0] = Trap()
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=objects)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    Trap.fired = False
    for name in ("a.npy", "b.npz", "c.npy"):
        refused([name, "pickle"], import_data, tmp_path / name, "x", root=tmp_path)
    assert not Trap.fired


def test_unfit_arrays_are_named(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "d.npz", **arrays)
        return import_arrays, tmp_path / "d.npz", "x"

    refused("number of examples", *save(a=np.zeros(3), b=np.zeros(4)), root=tmp_path)
    refused("complex", *save(a=np.zeros(3, complex)), root=tmp_path)
    refused("no examples", *save(a=np.zeros((0, 3))), root=tmp_path)
    refused("no examples", *save(a=np.float64(1)), root=tmp_path)
    refused("says no split", *save(x_train=np.zeros(3), extra=np.zeros(3)), root=tmp_path)
    refused("labels must be", *save(label=np.array([-1, 2])), root=tmp_path)
    refused("text", *save(a=np.array(["x", "y"])), root=tmp_path)
    refused("same field", *save(y=np.zeros(3, int), label=np.zeros(3, int)), root=tmp_path)
    refused(
        "splits differ", *save(x_train=np.zeros((3, 2)), x_test=np.zeros((3, 1))), root=tmp_path
    )
    (tmp_path / "d.npz").write_bytes(b"PK\3\4 nonsense")
    refused("cannot be read", import_arrays, tmp_path / "d.npz", "x", root=tmp_path)
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\1\0\4\0oops")
    refused("d.npy", import_arrays, tmp_path / "d.npy", "x", root=tmp_path)


def save_header(path, shape):
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"x" * 100)


def test_foreign_and_damaged_arrays_are_named(tmp_path):
    npy, npz = tmp_path / "d.npy", tmp_path / "d.npz"
    npy.write_bytes(b"garbage" * 50)
    refused([str(npy), "no .npy file"], import_data, npy, "x", root=tmp_path / "r")
    for shape in [(10**12, 64), (10**30,)]:
        save_header(npy, shape)
        refused(str(npy), import_data, npy, "x", root=tmp_path / "r")
    np.save(npy, np.zeros((40, 9, 9), np.uint8))
    npy.write_bytes(npy.read_bytes()[:1000])
    refused([str(npy), "cut short"], import_data, npy, "x", root=tmp_path / "r")
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("hello.txt", "no array")
    refused([str(npz), "'hello.txt' is no array"], import_data, npz, "x", root=tmp_path / "r")
    np.savez(npz, **{"a key!": np.zeros(3)})
    refused([str(npz), "field name 'a key!'"], import_data, npz, "x", root=tmp_path / "r")


@pytest.mark.parametrize("top", [2**20, 2**40, 2**63 + 5])
def test_labels_that_number_no_classes_are_refused(tmp_path, top):
    """Statistics and conditional models keep a number for each class up to the highest."""
    label = np.array([0, top], np.uint64)
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3)), y=label)
    pq.write_table(pa.table({"label": label}), tmp_path / "d.parquet")
    for name in ("d.npz", "d.parquet"):
        refused([name, "classes"], import_data, tmp_path / name, "x", root=tmp_path / "r")
    assert not (tmp_path / "r" / "x").exists()


def test_what_is_not_finite_is_named_by_row(tmp_path):
    values = np.zeros((60, 3), np.float32)
    values[41, 2] = np.nan
    np.save(tmp_path / "d.npy", values)
    refused(["d.npy", "row 41"], import_data, tmp_path / "d.npy", "x", root=tmp_path / "r")
    values[41, 2], values[17, 0] = 0, -np.inf
    lists = pa.array([row[: k % 4].tolist() for k, row in enumerate(values)])
    for column in (values[:, 0], lists):
        pq.write_table(pa.table({"a": column}), tmp_path / "d.parquet")
        refused(["'a'", "row 17"], import_data, tmp_path / "d.parquet", "x", root=tmp_path / "r")


def test_an_array_in_any_order_of_bytes_is_the_same_set(tmp_path):
    values = RNG.integers(0, 256, (40, 9, 7), np.uint8)
    prints = set()
    for name, array in {"c": values, "f": np.asfortranarray(values)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        prints.add(import_data(tmp_path / f"{name}.npy", name, root=tmp_path / "r").fingerprint)
    assert len(prints) == 1
    real = values.astype(np.float32)
    for name, array in {"little": real, "big": real.astype(">f4")}.items():
        np.save(tmp_path / f"{name}.npy", array)
        prints.add(import_data(tmp_path / f"{name}.npy", name, root=tmp_path / "r").fingerprint)
    assert len(prints) == 2


def test_a_zip_bomb_and_a_zip_with_paths(tmp_path, monkeypatch):
    """Members are read in memory: a path in a name leads nowhere, and sizes are looked at first."""
    import rayloom.data.imports.npy as npy

    np.save(tmp_path / "v.npy", np.zeros(5, np.float32))
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.write(tmp_path / "v.npy", "../../escape.npy")
    refused("field name", import_arrays, tmp_path / "d.npz", "x", root=tmp_path / "r")
    assert not list(tmp_path.rglob("escape*"))
    np.savez_compressed(tmp_path / "z.npz", x=np.zeros(100_000))
    monkeypatch.setattr(npy, "available_memory", lambda: 1_000_000)
    refused("too many", import_arrays, tmp_path / "z.npz", "x", root=tmp_path / "r")


# --- tables ---------------------------------------------------------------------------------


def table_of(n):
    return {
        "x": RNG.normal(size=n),
        "count": RNG.integers(0, 9, n, dtype=np.int16),
        "flag": RNG.integers(0, 2, n).astype(bool),
        "embedding": [RNG.normal(size=3).astype(np.float32) for _ in range(n)],
        "tokens": [RNG.integers(0, 5, k % 4, dtype=np.int32) for k in range(n)],
        "label": [["red", "green"][k % 2] for k in range(n)],
    }


def write_table(path, columns):
    types = {
        "embedding": pa.list_(pa.float32(), 3),
        "tokens": pa.list_(pa.int32()),
    }
    arrays = {
        k: pa.array([list(r) for r in v] if k in types else v, types.get(k))
        for k, v in columns.items()
    }
    pq.write_table(pa.table(arrays), path, row_group_size=7)


def test_a_table_comes_in(tmp_path, monkeypatch):
    monkeypatch.setattr(columns_module, "_ROWS", 7)  # several pieces
    columns = table_of(30)
    columns["row"] = np.arange(30)
    write_table(tmp_path / "t.parquet", columns)
    dataset = import_data(tmp_path / "t.parquet", "mine", root=tmp_path, test_fraction=0.2)
    assert {s: len(dataset.split(s)) for s in dataset.splits} == {"train": 24, "test": 6}
    fields = dataset.spec.fields
    assert fields["embedding"] == FieldSpec((3,), "float32")
    assert fields["tokens"] == FieldSpec((-1,), "int32", "tokens", 5)
    assert fields["flag"] == FieldSpec((), "bool")
    assert fields["label"] == FieldSpec((), "int64", "label", 2)
    for split in dataset.splits:
        got = dataset.split(split).take(torch.arange(len(dataset.split(split))))
        for place, row in enumerate(got["row"].tolist()):
            assert got["x"][place] == columns["x"][row]
            assert got["flag"][place] == bool(columns["flag"][row])
            assert got["embedding"][place].tolist() == columns["embedding"][row].tolist()
            length = got["tokens_length"][place]
            assert got["tokens"][place, :length].tolist() == columns["tokens"][row].tolist()
            assert got["label"][place] == (0 if columns["label"][row] == "green" else 1)


def test_columns_are_chosen_and_joined(tmp_path):
    columns = table_of(10)
    write_table(tmp_path / "t.parquet", columns)
    made = import_table(
        tmp_path / "t.parquet", "v", root=tmp_path, columns=["label"], vector=["x", "count"]
    )
    assert list(made.spec.fields) == ["label", "vector"]
    got = everything(made)["vector"]
    want = np.stack([columns["x"], columns["count"]], 1).astype(np.float32)
    np.testing.assert_array_equal(np.sort(got, 0), np.sort(want, 0))
    refused(
        ["no column 'z'", "tokens"],
        import_table,
        tmp_path / "t.parquet",
        "w",
        root=tmp_path,
        columns=["z"],
    )


def test_encoded_images_in_a_table(tmp_path):
    import io

    def png(size):
        data = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(data, "png")
        return data.getvalue()

    rows = [{"bytes": png((4, 5)), "path": f"{k}.png"} for k in range(6)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": rows, "label": [0, 1] * 3}), path)
    made = import_table(path, "x", root=tmp_path)
    assert made.spec.image == FieldSpec((3, 4, 5), "uint8", "image")
    stored = {row.tobytes() for row in everything(made)["image"].transpose(0, 2, 3, 1)}
    assert stored == {np.asarray(Image.open(io.BytesIO(r["bytes"]))).tobytes() for r in rows}
    rows[4]["bytes"] = png((5, 5))
    pq.write_table(pa.table({"image": rows}), path)
    refused(["row 4", "--size"], import_table, path, "y", root=tmp_path)
    rows[4]["bytes"] = b"broken"
    pq.write_table(pa.table({"image": rows}), path)
    refused(["row 4", "cannot be read"], import_table, path, "y", root=tmp_path)


def test_unfit_tables_are_named(tmp_path):
    path = tmp_path / "t.parquet"

    def attempt(words, table, **kwargs):
        pq.write_table(pa.table(table), path)
        refused([str(path), *words], import_table, path, "x", root=tmp_path, **kwargs)

    attempt(["'a'", "1 missing"], {"a": [1.0, None]})
    attempt(["'a'", "neither numbers nor images"], {"a": ["text", "more"]})
    attempt(["labels must be"], {"label": [-1, 2]})
    attempt(["lists"], {"a": [[[1], [2, 3]], [[4]]]})
    attempt(["'s'", "no column of numbers"], {"s": ["a"], "x": [1.0]}, columns=["x"], vector=["s"])
    attempt(["has no rows"], {"a": pa.array([], pa.float32())})
    attempt(["field name 'a b'"], {"a b": [1.0]})
    attempt(["--columns"], {"id": ["text"], "a": [1.0]})
    path.write_bytes(b"PAR1 nothing PAR1")
    refused([str(path), "Parquet"], import_table, path, "x", root=tmp_path)
    refused("no such", import_table, tmp_path / "none.parquet", "x", root=tmp_path)


def test_export_and_import_are_inverse(tmp_path):
    fields = {
        "image": FieldSpec((1, 3, 2), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 7),
        "mask": FieldSpec((2,), "bool", "mask"),
        "points": FieldSpec((-1, 3), "float32", "points"),
        "tokens": FieldSpec((-1,), "uint16", "tokens", 9),
    }
    with StoreWriter(tmp_path / "a", fields, classes={"label": list("abcdefg")}) as writer:
        for split, n in (("train", 1500), ("test", 4)):
            writer.add(
                split,
                {
                    "image": RNG.integers(0, 256, (n, 1, 3, 2), dtype=np.uint8),
                    "label": RNG.integers(0, 7, n),
                    "mask": RNG.integers(0, 2, (n, 2)).astype(bool),
                    "points": [RNG.normal(size=(k % 3, 3)).astype(np.float32) for k in range(n)],
                    "tokens": [RNG.integers(0, 9, k % 5).astype(np.uint16) for k in range(n)],
                },
            )
    dataset = open_store(tmp_path / "a")
    paths = export_parquet(dataset, tmp_path / "out")
    assert [p.name for p in paths] == ["train.parquet", "test.parquet"]
    back = import_data(tmp_path / "out", "back", root=tmp_path / "root")
    assert back.fingerprint == dataset.fingerprint
    assert back.manifest["fields"] == dataset.manifest["fields"]
    refused(["train.parquet", "--force"], export_parquet, dataset, tmp_path / "out")
    assert json.loads(pq.read_schema(paths[0]).metadata[b"rayloom.fields"])["label"]


def test_damage_and_lies_in_a_table_are_named(tmp_path):
    """Pages are written with checksums, and what the metadata promise is looked at."""
    columns = table_of(200)
    write_table(tmp_path / "t.parquet", {k: columns[k] for k in ("x", "count")})
    made = import_data(tmp_path / "t.parquet", "t", root=tmp_path / "r")
    [path, _] = export_parquet(made, tmp_path / "out")
    kept = path.read_bytes()
    values = pq.read_metadata(path).row_group(0).column(0).dictionary_page_offset
    for place in range(values + 300, values + 1200, 300):  # 180 different numbers of 8 bytes
        path.write_bytes(kept[:place] + bytes([kept[place] ^ 0x55]) + kept[place + 1 :])
        refused(str(path), import_data, path, "d", root=tmp_path / "r")
    table = pq.read_table(tmp_path / "t.parquet")
    for shape in ([3], [-1]):
        lie = {"x": {"shape": shape, "dtype": "float64"}}
        table = table.replace_schema_metadata({"rayloom.fields": json.dumps(lie)})
        pq.write_table(table, tmp_path / "lie.parquet")
        refused(["lie.parquet", "'x'"], import_data, tmp_path / "lie.parquet", "l", root=tmp_path)


def test_tables_by_the_command_line(tmp_path, capsys):
    from rayloom_pipelines.cli import main

    write_table(tmp_path / "t.parquet", table_of(30))
    words = ["--root", str(tmp_path / "r"), "--columns", "label", "--vector", "x,count"]
    assert main(["data", "import", str(tmp_path / "t.parquet"), "mine", *words]) == 0
    assert main(["data", "show", "mine", "--root", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr().out
    for word in ("green red", "counts", "float32 (2,)", "mean", "27 rows", "3 rows"):
        assert word in shown
    assert main(["data", "import", str(tmp_path / "t.parquet"), "b", "--columns", "x,z"]) == 2
    assert "no column 'z'" in capsys.readouterr().err
    np.save(tmp_path / "a.npy", np.zeros(5))
    assert main(["data", "import", str(tmp_path / "a.npy"), "b", "--vector", "x"]) == 2
