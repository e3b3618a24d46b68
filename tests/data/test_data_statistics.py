"""Laws of a data set's spec: statistics of the training rows in use alone, fields that are read."""

import json
import pickle

import numpy as np
import pytest
import torch

from rayloom.config.resolved import load_config
from rayloom.config.sections import DataConfig
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.data import StoreWriter, from_arrays, make_source, open_dataset, open_store
from rayloom.data.use import Use
from rayloom_pipelines.shipped import find_config


def mixed(n: int = 50, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (n, 3, 4, 5)).astype(np.uint8),
        "vector": rng.normal(1e6, 1e-3, (n, 2)),  # far from zero: naive sums of squares fail
        "steps": [rng.normal(size=(k % 4, 2)).astype(np.float32) for k in range(1, n + 1)],
        "label": rng.integers(0, 3, n),
    }


FIELDS = {
    "image": FieldSpec((3, 4, 5), "uint8", "image"),
    "vector": FieldSpec((2,), "float64"),
    "steps": FieldSpec((-1, 2), "float32"),
    "label": FieldSpec((), "int64", "label", 3, ("a", "b", "c")),
}


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "mixed"
    with StoreWriter(folder, FIELDS) as writer:
        writer.add("train", mixed())
        writer.add("test", mixed(20, seed=9))
    return folder


def expected(train, rows):
    image = train["image"][rows].astype(np.float64)
    steps = np.concatenate([train["steps"][r] for r in rows]).astype(np.float64)
    vector = train["vector"][rows]
    return {
        "image": (image.mean((0, 2, 3)), image.std((0, 2, 3))),
        "vector": (vector.mean(0), vector.std(0)),
        "steps": (steps.mean(0), steps.std(0)),
    }


@pytest.mark.parametrize("use", [Use(), Use(limit=7), Use(0.3), Use(0.3, 11)], ids=str)
@pytest.mark.parametrize("chunk", [1, 64, 1 << 20])
def test_statistics_are_those_of_the_training_rows_in_use(store, use, chunk, monkeypatch):
    monkeypatch.setattr("rayloom.data.statistics.CHUNK", chunk)
    dataset = open_store(store).using(use)
    source = make_source(dataset, "train", batch_size="all", seed=0, shuffle=True)
    batch = source.batch(0).fields
    assert dataset.spec.num_train == source.num_examples == len(batch["label"])
    train = {k: batch[k].numpy() for k in ("image", "vector")}
    lengths = batch["steps_length"].tolist()
    train["steps"] = [v[:n] for v, n in zip(batch["steps"].numpy(), lengths, strict=True)]
    wanted = expected(train, range(len(batch["label"])))
    assert set(dataset.spec.statistics) == {"image", "vector", "steps"}
    for name, (mean, std) in wanted.items():
        found = dataset.spec.statistics[name]
        tight = 1e-15 if name == "image" else 1e-9
        np.testing.assert_allclose(found.mean, mean, rtol=tight)
        np.testing.assert_allclose(found.std, std, rtol=1e-12 if name == "image" else 1e-6)


def test_held_out_rows_change_nothing(store):
    """A leak is found: the same training rows beside other test and validation rows."""
    whole = mixed()
    dataset = open_store(store).using(Use(0.3))
    rows = dataset.split("train").rows.numpy()
    spoilt = {k: [*v] if isinstance(v, list) else v.copy() for k, v in whole.items()}
    for row in set(range(50)) - set(rows.tolist()):
        spoilt["image"][row] = 0
        spoilt["vector"][row] = -1
        spoilt["steps"][row] = np.full_like(spoilt["steps"][row], 1e3)
    other = from_arrays("mixed", {"train": spoilt, "test": spoilt}, fields=FIELDS).using(Use(0.3))
    for name in dataset.spec.statistics:
        assert dataset.spec.statistics[name] == other.spec.statistics[name]
    assert dataset.spec.statistics["image"] != open_store(store).spec.statistics["image"]


def test_the_digits_are_exact():
    dataset = open_dataset(DataConfig(name="digits"))
    levels = dataset.split("train").take(torch.arange(1437))["image"].long()
    total, squares = int(levels.sum()), int((levels**2).sum())
    found = dataset.spec.statistics["image"]
    assert (found.count, found.mean) == (1437 * 64, (total / (1437 * 64),))
    assert found.std[0] ** 2 == pytest.approx(squares / found.count - found.mean[0] ** 2, rel=1e-13)
    assert dataset.spec.field("label").classes == tuple("0123456789")


def test_statistics_are_kept_in_the_store_and_recomputed_where_the_file_is_damaged(store):
    asked = open_store(store).spec.statistics["image"]
    file = store / ".statistics.json"
    kept = json.loads(file.read_text())
    [part] = kept
    assert list(kept[part]) == ["image"]  # only what was asked for
    kept[part]["image"]["count"] = 1
    file.write_text(json.dumps(kept))
    assert open_store(store).spec.statistics["image"].count == 1  # really read
    for text in ("", "{", "[]", json.dumps({part: {"image": {}}}), json.dumps({part: 3})):
        file.write_text(text)
        assert open_store(store).spec.statistics["image"] == asked
    assert not list(store.glob(".statistics.json?*"))


def test_a_spec_travels_as_plain_data_with_what_was_asked_of_it(store):
    spec = open_store(store).using(Use(limit=5)).spec
    image = spec.statistics["image"]
    plain = json.loads(json.dumps(spec.plain()))
    for back in (DataSpec.from_plain(plain), pickle.loads(pickle.dumps(spec))):
        assert back == spec
        assert back.fields["label"].classes == ("a", "b", "c")
        assert back.num_train == 5
        assert dict(back.statistics) == {"image": image}
    with pytest.raises(KeyError, match="'vector' has no mean"):
        back.statistics["vector"]
    old = {"name": "x", "fields": {"image": {"shape": [1, 2, 2], "dtype": "uint8",
                                             "kind": "image", "num_classes": 0}}}  # fmt: skip
    assert DataSpec.from_plain(old).image.shape == (1, 2, 2)


def test_only_what_is_read_is_gathered(store):
    dataset = open_store(store)
    for world in (1, 3):
        for rank in range(world):
            source = make_source(
                dataset, "train", batch_size=8, seed=0, shuffle=True, fields=("steps",)
            )
            got = source.batch(2, rank=rank, world=world).fields
            assert set(got) == {"steps", "steps_mask", "steps_length"}
    assert list(source.spec.fields) == ["steps"]
    with pytest.raises(UserError, match=r"no field 'labl'.*did you mean 'label'.*image"):
        make_source(dataset, "train", batch_size=8, seed=0, shuffle=True, fields=("labl",))


@pytest.mark.parametrize("world", [1, 2, 7])
def test_all_is_one_batch_as_stored(store, world):
    dataset = open_store(store)
    source = make_source(dataset, "train", batch_size="all", seed=0, shuffle=True)
    assert (source.batches_per_epoch, source.batch_size) == (1, 50)
    for number in (0, 5):
        parts = [source.batch(number, rank=r, world=world) for r in range(world)]
        assert torch.cat([p.index for p in parts]).tolist() == list(range(50))


def test_the_last_batch_can_be_left_out(store):
    dataset = open_store(store)
    kwargs = {"seed": 0, "shuffle": True, "drop_last": True}
    source = make_source(dataset, "train", batch_size=16, **kwargs)
    assert (source.batches_per_epoch, source.num_examples) == (3, 48)
    assert [source.batch(k).total for k in range(6)] == [16] * 6
    with pytest.raises(UserError, match="50 examples, fewer than a batch of 51"):
        make_source(dataset, "train", batch_size=51, **kwargs)


@pytest.mark.parametrize("kind", ["labl", "audio?", ""])
def test_a_kind_that_is_none_is_refused(kind):
    with pytest.raises(UserError, match="is none of image, label"):
        from_arrays(
            "x", {"train": {"y": np.zeros(3)}}, fields={"y": FieldSpec((), "float64", kind)}
        )


def test_names_of_classes_are_as_many_as_the_classes():
    fields = {"label": FieldSpec((), "int64", "label", 3, ("a", "b"))}
    with pytest.raises(UserError, match="2 names for 3 classes"):
        from_arrays("x", {"train": {"label": np.zeros(3, np.int64)}}, fields=fields)


@pytest.mark.parametrize(("word", "right"), [("all", True), ("al", False), ("0", False)])
def test_the_word_all_in_a_config(word, right):
    flags = [f"data.batch_size={word}"]
    if right:
        found = load_config("autoencoders/vae-digits", flags, find=find_config)
        assert found.config.data.batch_size == "all"
    else:
        with pytest.raises(ConfigError, match="batch_size"):
            load_config("autoencoders/vae-digits", flags, find=find_config)
