"""The store: what goes in comes out, and what is not whole is refused by name."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.catalogue import CATALOGUE, register
from rayloom.config.sections import DataConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data import StoreWriter, from_arrays, open_dataset, open_store
from rayloom.data.description import describe
from rayloom.data.preparation import prepare
from rayloom.data.store.manifest import DTYPES
from rayloom.data.store.verification import VERIFIED

RNG = np.random.default_rng(0)
FIELDS = {
    "image": FieldSpec((3, 4, 5), "uint8", "image"),
    "target": FieldSpec((1, 4, 5), "uint8", "image"),
    "label": FieldSpec((), "int64", "label", 4),
    "tokens": FieldSpec((-1,), "int32", "tokens", 9),
    "points": FieldSpec((-1, 3), "float32", "points"),
    "flag": FieldSpec((2,), "bool", "mask"),
}


def rows(n):
    return {
        "image": RNG.integers(0, 256, (n, 3, 4, 5), dtype=np.uint8),
        "target": RNG.integers(0, 256, (n, 1, 4, 5), dtype=np.uint8),
        "label": RNG.integers(0, 4, n),
        "tokens": [RNG.integers(0, 9, k % 4, dtype=np.int32) for k in range(n)],
        "points": [RNG.normal(size=(k % 3, 3)).astype(np.float32) for k in range(n)],
        "flag": RNG.integers(0, 2, (n, 2)).astype(bool),
    }


def write(folder, *, parts=((7, "train"), (3, "test"), (5, "train")), **about):
    kept = {}
    with StoreWriter(folder, FIELDS, **about) as writer:
        for n, split in parts:
            some = rows(n)
            writer.add(split, some)
            for key, value in some.items():
                kept.setdefault(split, {}).setdefault(key, []).extend(value)
    return kept


def assert_holds(dataset, kept):
    for split, fields in kept.items():
        n = len(fields["label"])
        assert len(dataset.split(split)) == n
        for order in (
            torch.arange(n),
            torch.tensor([n - 1, 0, 0]),
            torch.zeros(0, dtype=torch.int64),
        ):
            batch = dataset.split(split).take(order)
            for key, field in FIELDS.items():
                got = batch[key]
                assert str(got.dtype) == f"torch.{field.dtype}"
                assert len(got) == len(order)
                for place, row in enumerate(order.tolist()):
                    want = torch.as_tensor(np.asarray(fields[key][row]))
                    if field.shape[:1] == (-1,):
                        assert batch[f"{key}_length"][place] == len(want)
                        assert not got[place, len(want) :].any()
                        assert torch.equal(got[place, : len(want)], want)
                    else:
                        assert torch.equal(got[place], want)


@pytest.mark.parametrize("budget", [1 << 40, 0])
def test_what_goes_in_comes_out(tmp_path, budget):
    """Mapped or streamed, every type, varying lengths, pairs, empty batches."""
    kept = write(tmp_path / "mixed")
    dataset = open_store(tmp_path / "mixed", budget)
    assert dataset.split("train").streamed == (budget == 0)
    assert_holds(dataset, kept)
    assert dataset.spec.fields == FIELDS
    assert dataset.spec.name == dataset.name == "mixed"
    assert_holds(pickle.loads(pickle.dumps(dataset)), kept)
    with pytest.raises(IndexError):
        dataset.split("train").take(torch.tensor([12]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_survives(tmp_path, dtype):
    value = RNG.integers(0, 2, (6, 3)).astype(dtype)
    with StoreWriter(tmp_path / "d", {"x": FieldSpec((3,), dtype)}) as writer:
        writer.add("train", {"x": value})
    for budget in (0, 1 << 40):
        got = open_store(tmp_path / "d", budget).split("train").take(torch.arange(6))["x"]
        assert got.numpy().dtype == np.dtype(dtype)
        np.testing.assert_array_equal(got.numpy(), value)


def test_any_arrow_reader_reads_it(tmp_path):
    kept = write(tmp_path / "mixed")
    with pa.memory_map(str(tmp_path / "mixed" / "train.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.num_rows == 12
    assert table["label"].to_pylist() == [int(v) for v in kept["train"]["label"]]
    assert table["tokens"].to_pylist() == [v.tolist() for v in kept["train"]["tokens"]]
    image = table["image"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(image, np.stack(kept["train"]["image"]))


def test_a_column_is_a_view_of_the_file(tmp_path):
    """No copy is made at opening, and nothing written into memory reaches the file."""
    write(tmp_path / "mixed")
    dataset = open_store(tmp_path / "mixed")
    values = dataset.split("train").columns["image"].rows.values
    maps = [line for line in open("/proc/self/maps") if "mixed/train.arrow" in line]
    low, high = (int(part, 16) for part in maps[0].split()[0].split("-"))
    assert low <= values.data_ptr() < high
    before = (tmp_path / "mixed" / "train.arrow").read_bytes()
    values.zero_()
    assert (tmp_path / "mixed" / "train.arrow").read_bytes() == before


def test_the_fingerprint_is_of_the_content(tmp_path):
    """Same content, same fingerprint: whatever the name, the chunks, the place; else another."""
    image = RNG.integers(0, 256, (9, 1, 2, 2), dtype=np.uint8)
    fields = {"image": FieldSpec((1, 2, 2), "uint8", "image")}

    def made(name, *pieces, split="train", spec=fields):
        with StoreWriter(tmp_path / name, spec, source=name) as writer:
            for piece in pieces:
                writer.add(split, {"image": piece})
        return open_store(tmp_path / name).fingerprint

    one = made("a", image)
    assert made("b", image[:4], image[4:]) == one
    assert from_arrays("c", {"train": {"image": image}}).fingerprint == one
    other = image.copy()
    other[8, 0, 1, 1] ^= 1
    prints = {
        one,
        made("d", other),
        made("e", image, split="test"),
        made("f", image[::-1]),
        made("g", image, spec={"image": FieldSpec((1, 2, 2), "uint8", "vector")}),
    }
    assert len(prints) == 5


def test_lengths_and_values_are_part_of_the_fingerprint():
    def made(lengths, steps):
        cuts = np.split(np.array(steps, np.float32), np.cumsum(lengths)[:-1])
        return from_arrays("v", {"train": {"x": cuts}}).fingerprint

    prints = {made([2, 1], [1, 2, 3]), made([1, 2], [1, 2, 3]), made([2, 1], [1, 2, 4])}
    assert len(prints) == 3


# --- what is refused ------------------------------------------------------------------------


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def set_manifest(folder, change):
    path = folder / "manifest.json"
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps(tree))


def swap(folder):
    a, b = folder / "train.arrow", folder / "test.arrow"
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)


def _offset(tree):
    tree["splits"]["train"]["columns"]["image"]["offset"] += 8


def _far(tree):
    tree["splits"]["train"]["columns"]["image"]["offset"] = 1 << 40


def _rows(tree):
    tree["splits"]["train"]["rows"] -= 1


def _shape(tree):
    tree["fields"]["image"]["shape"] = [5, 4, 3]


def _traversal(tree):
    tree["splits"]["../../etc"] = tree["splits"].pop("train")


DAMAGE = {
    "truncated": (lambda f: os.truncate(f / "train.arrow", 900), "train.arrow has 900 bytes"),
    "longer": (lambda f: (f / "train.arrow").open("ab").write(b"x"), "train.arrow has"),
    "missing": (lambda f: (f / "test.arrow").unlink(), "test.arrow is missing"),
    "one bit in the values": (lambda f: flip(f / "train.arrow", 2000), "train.arrow is damaged"),
    "no Arrow file": (
        lambda f: (f / "test.arrow").write_bytes(b"P" * (f / "test.arrow").stat().st_size),
        "test.arrow is not an Arrow file",
    ),
    "splits exchanged": (swap, "train.arrow has"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "not a rayloom store"),
    "empty manifest": (lambda f: (f / "manifest.json").write_text(""), "manifest.json"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is not"),
    "deep": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "cannot be read"),
    "binary": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\0"), "cannot be read"),
    "other format": (lambda f: set_manifest(f, lambda t: t.pop("format")), "is not that of"),
    "newer": (lambda f: set_manifest(f, lambda t: t.update(schema_version=2)), "version 2"),
    "unknown key": (lambda f: set_manifest(f, lambda t: t.update(more=1)), "more"),
    "no splits": (lambda f: set_manifest(f, lambda t: t.update(splits={})), "no split"),
    "offset": (lambda f: set_manifest(f, _offset), "column 'image'"),
    "offset outside": (lambda f: set_manifest(f, _far), "does not fit"),
    "rows": (lambda f: set_manifest(f, _rows), "does not fit"),
    "shape": (lambda f: set_manifest(f, _shape), "fingerprint"),
    "path in a split's name": (lambda f: set_manifest(f, _traversal), "no split name"),
}


@pytest.mark.parametrize("verified_before", [False, True])
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_by_name(tmp_path, case, verified_before):
    folder = tmp_path / "mixed"
    write(folder)
    if verified_before:
        open_store(folder)
    damage, words = DAMAGE[case]
    damage(folder)
    with pytest.raises(UserError) as error:
        open_store(folder)
    assert words in str(error.value)
    assert str(folder) in str(error.value)
    assert "--force" in str(error.value)


def test_columns_of_other_types_are_refused(tmp_path):
    """A foreign Arrow file of the right size: only its schema tells."""
    folder = tmp_path / "d"
    with StoreWriter(folder, {"x": FieldSpec((), "int64")}) as writer:
        writer.add("train", {"x": np.arange(4)})
    path = folder / "train.arrow"
    schema = pa.schema([pa.field("x", pa.uint64(), nullable=False)])
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([0, 1, 2, 3], pa.uint64())], schema=schema))
    set_manifest(folder, lambda t: t["splits"]["train"].update(num_bytes=path.stat().st_size))
    with pytest.raises(UserError, match="other columns"):
        open_store(folder)


def test_hashing_is_done_once_per_file_state(tmp_path, monkeypatch):
    folder = tmp_path / "mixed"
    write(folder)
    hashed = []
    from rayloom.data.store import verification

    original = verification._check_bytes
    monkeypatch.setattr(
        verification, "_check_bytes", lambda *a: (hashed.append(a[1].name), original(*a))
    )
    open_store(folder)
    open_store(folder)
    assert sorted(hashed) == ["test.arrow", "train.arrow"]
    os.utime(folder / "test.arrow", ns=(1, 1))
    open_store(folder)
    assert hashed[2:] == ["test.arrow"]
    (folder / VERIFIED).write_text("not json")
    open_store(folder)
    assert len(hashed) == 5
    open_store(folder, full=True)
    assert len(hashed) == 7


# --- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"label": np.zeros(7, np.int32)}, "int32"),
        ({"image": np.zeros((7, 3, 4, 6), np.uint8)}, r"\(3, 4, 6\)"),
        ({"label": np.zeros(6, np.int64)}, "number of examples"),
        ({"more": np.zeros(7)}, "more"),
        ({"points": [np.zeros((2, 2), np.float32)] * 7}, "points"),
    ],
)
def test_nothing_is_cast_or_guessed(tmp_path, change, word):
    with pytest.raises(UserError, match=word), StoreWriter(tmp_path / "d", FIELDS) as writer:
        writer.add("train", {**rows(7), **change})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "at least one"),
        ({"x": FieldSpec((2, -1), "uint8")}, "first axis"),
        ({"x": FieldSpec((0,), "uint8")}, "nothing"),
        ({"x": FieldSpec((), "object")}, "object"),
        ({"../x": FieldSpec((), "uint8")}, "field name"),
        ({"x": FieldSpec((-1,), "uint8"), "x_mask": FieldSpec((), "bool")}, "x_mask"),
    ],
)
def test_impossible_fields_are_refused(tmp_path, fields, word):
    with pytest.raises(UserError, match=word):
        StoreWriter(tmp_path / "d", fields)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "x" * 101, "a..b"])
def test_names_that_are_paths_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="name"):
        open_dataset(DataConfig(name=name, root=str(tmp_path)))


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="no examples"), StoreWriter(tmp_path / "d", FIELDS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_open_readers(tmp_path):
    folder = tmp_path / "mixed"
    old = write(folder)
    reader = open_store(folder)
    new = write(folder)
    assert_holds(reader, old)
    assert_holds(open_store(folder), new)
    assert [p.name for p in tmp_path.iterdir()] == ["mixed"]


def test_an_unwritable_root_is_the_users_mistake(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="RAYLOOM_DATA_ROOT"):
        prepare("digits", root=blocked)


# --- preparing ------------------------------------------------------------------------------

KILLED = """
from rayloom.data.preparation import prepare
prepare("digits", root={root!r}, force={force})
"""


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done


@pytest.mark.parametrize("force", [False, True])
def test_a_killed_prepare_leaves_nothing_half_valid(tmp_path, force):
    root = str(tmp_path)
    if force:
        before = prepare("digits", root=root).fingerprint
    done = run(KILLED.format(root=root, force=force), RAYLOOM_FAILPOINT="data.before_rename:1")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".digits.tmp-")]
    assert (tmp_path / "digits").exists() == force
    dataset = prepare("digits", root=root, force=force)
    assert not force or dataset.fingerprint == before
    assert {p.name for p in tmp_path.iterdir()} == {"digits", ".digits.lock"}


class Slow:
    """A data set whose making is counted."""

    made = 0
    gate = threading.Event()

    def prepare(self, folder, *, source=None):
        type(self).made += 1
        self.gate.wait(5)
        with StoreWriter(folder, {"x": FieldSpec((), "int64")}) as writer:
            writer.add("train", {"x": np.arange(3)})


def test_two_at_once_make_it_once(tmp_path):
    register("datasets", "slow", Slow, source="test", summary="")
    try:
        Slow.made = 0
        config = DataConfig(name="slow", root=str(tmp_path))
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(open_dataset(config).fingerprint))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        Slow.gate.set()
        for thread in threads:
            thread.join()
        assert Slow.made == 1
        assert len(found) == 3
        assert len(set(found)) == 1
    finally:
        del CATALOGUE["datasets"]["slow"]


def test_unknown_names_answer_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'fashion-mnist'.*digits"):
        open_dataset(DataConfig(name="fashon-mnist", root=str(tmp_path)))


def test_roots_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYLOOM_DATA_ROOT", str(tmp_path / "a"))
    open_dataset(DataConfig(name="digits"))
    open_dataset(DataConfig(name="digits", root=str(tmp_path / "b")))
    assert (tmp_path / "a" / "digits").is_dir()
    assert (tmp_path / "b" / "digits").is_dir()


def test_a_damaged_store_is_not_silently_replaced(tmp_path):
    folder = tmp_path / "digits"
    prepare("digits", root=tmp_path)
    flip(folder / "train.arrow", 5000)
    with pytest.raises(UserError, match="rayloom data prepare digits --force"):
        open_dataset(DataConfig(name="digits", root=str(tmp_path)))
    assert prepare("digits", root=tmp_path, force=True).fingerprint


def test_a_file_where_the_store_should_be(tmp_path):
    (tmp_path / "digits").write_text("mine")
    with pytest.raises(UserError, match=r"manifest\.json"):
        open_dataset(DataConfig(name="digits", root=str(tmp_path)))


# --- describing -----------------------------------------------------------------------------


def test_describe_tells_the_statistics(tmp_path):
    kept = write(tmp_path / "mixed", source="made here", licence="CC0")
    told = describe(open_store(tmp_path / "mixed"))
    json.dumps(told)
    assert (told["source"], told["licence"]) == ("made here", "CC0")
    train = told["splits"]["train"]
    assert train["rows"] == train["examples"] == 12
    image = np.stack(kept["train"]["image"]).astype(float)
    assert train["fields"]["image"]["mean"] == pytest.approx(image.mean())
    assert train["fields"]["image"]["std"] == pytest.approx(image.std())
    counts = np.bincount(kept["train"]["label"], minlength=4).tolist()
    assert train["fields"]["label"]["counts"] == counts
    lengths = [len(v) for v in kept["train"]["tokens"]]
    assert train["fields"]["tokens"]["length"]["mean"] == pytest.approx(np.mean(lengths))
    steps = np.concatenate(kept["train"]["points"])
    assert train["fields"]["points"]["mean"] == pytest.approx(steps.mean(), rel=1e-6)


@given(
    values=st.lists(st.lists(st.integers(-5, 5), max_size=4), min_size=1, max_size=8),
    index=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_memory_and_store_agree(tmp_path_factory, values, index):
    rows_ = [np.array(v, np.int16) for v in values]
    folder = tmp_path_factory.mktemp("s") / "d"
    with StoreWriter(folder, {"x": FieldSpec((-1,), "int16")}) as writer:
        writer.add("train", {"x": rows_})
    sets = [open_store(folder, 0), open_store(folder), from_arrays("d", {"train": {"x": rows_}})]
    chosen = torch.tensor(index.draw(st.lists(st.integers(0, len(values) - 1), max_size=6)))
    chosen = chosen.long()
    a, b, c = (s.split("train").take(chosen) for s in sets)
    assert len({s.fingerprint for s in sets}) == 1
    assert a.keys() == b.keys() == c.keys()
    for key in a:
        assert torch.equal(a[key], b[key])
        assert torch.equal(a[key], c[key])
    shutil.rmtree(folder)
