"""Laws of the batches: nothing lost, nothing repeated, the same for every number of ranks."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.core.errors import UserError
from rayloom.core.protocols import slice_of
from rayloom.data import from_arrays, make_source


def numbered(n: int):
    """A data set in which every example is its own number."""
    return from_arrays("numbered", {"train": {"x": np.arange(n, dtype=np.int64)}})


def ragged(lengths):
    rows = [np.full((length, 2), k, np.float32) for k, length in enumerate(lengths)]
    label = np.arange(len(lengths), dtype=np.int64)
    return from_arrays("ragged", {"train": {"x": rows, "label": label}})


sizes = st.integers(1, 70)
batches = st.integers(1, 20)
windows = st.integers(0, 40)
seeds = st.integers(0, 2**63 - 1)


@given(n=sizes, batch_size=batches, window=windows, seed=seeds, shuffle=st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_epoch_is_a_permutation(n, batch_size, window, seed, shuffle):
    source = make_source(
        numbered(n),
        "train",
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        shuffle_window=window,
    )
    for epoch in range(3):
        first = epoch * source.batches_per_epoch
        got = [source.batch(first + k) for k in range(source.batches_per_epoch)]
        assert [b.total for b in got[:-1]] == [batch_size] * (len(got) - 1)
        assert sorted(torch.cat([b.fields["x"] for b in got]).tolist()) == list(range(n))
        for b in got:
            assert torch.equal(b.index, b.fields["x"])
            assert (b.start, b.stop) == (0, b.total)


@given(n=sizes, batch_size=batches, world=st.integers(1, 9), window=windows, seed=seeds)
@settings(max_examples=150, deadline=None)
def test_ranks_together_are_one_process(n, batch_size, world, window, seed):
    source = make_source(
        numbered(n),
        "train",
        batch_size=batch_size,
        seed=seed,
        shuffle=True,
        shuffle_window=window,
    )
    for number in range(source.batches_per_epoch + 2):
        whole = source.batch(number)
        parts = [source.batch(number, rank=r, world=world) for r in range(world)]
        assert torch.equal(torch.cat([p.fields["x"] for p in parts]), whole.fields["x"])
        assert torch.equal(torch.cat([p.index for p in parts]), whole.index)
        assert {p.total for p in parts} == {whole.total}
        assert [(p.start, p.stop) for p in parts] == [
            slice_of(whole.total, r, world) for r in range(world)
        ]


@given(
    n=sizes,
    batch_size=batches,
    window=windows,
    seed=seeds,
    cursor=st.integers(0, 100),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_batch_depends_on_its_number_alone(n, batch_size, window, seed, cursor, data):
    """Resume at any batch: a fresh source gives what one that ran from the start gives."""
    kwargs = {"batch_size": batch_size, "seed": seed, "shuffle": True, "shuffle_window": window}
    old, new = (make_source(numbered(n), "train", **kwargs) for _ in range(2))
    for number in data.draw(st.lists(st.integers(0, 100), max_size=5)):
        old.batch(number)
    assert torch.equal(old.batch(cursor).index, new.batch(cursor).index)


@given(n=st.integers(1, 200), window=st.integers(1, 50), seed=seeds)
@settings(max_examples=100, deadline=None)
def test_windows_stay_together(n, window, seed):
    """In order of training, the rows of one window come in one go."""
    source = make_source(
        numbered(n), "train", batch_size=n, seed=seed, shuffle=True, shuffle_window=window
    )
    visited = (source.batch(0).index // window).tolist()
    runs = 1 + sum(a != b for a, b in pairwise(visited))
    expected = -(-n // window) if window < n else runs
    assert runs == expected


def test_epochs_and_seeds_differ():
    kwargs = {"batch_size": 50, "shuffle": True}
    a = make_source(numbered(50), "train", seed=1, **kwargs)
    b = make_source(numbered(50), "train", seed=2, **kwargs)
    orders = [tuple(a.batch(k).index.tolist()) for k in range(4)]
    orders += [tuple(b.batch(k).index.tolist()) for k in range(4)]
    assert len(set(orders)) == 8


@pytest.mark.parametrize("window", [0, 25])
def test_every_place_is_reached_by_every_row(window):
    """No bias a person could see: each row stands at each place about equally often."""
    n, epochs = 50, 2000
    source = make_source(
        numbered(n), "train", batch_size=n, seed=3, shuffle=True, shuffle_window=window
    )
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), source.batch(epoch).index.numpy()] += 1
    expected = epochs / n
    chi2 = ((counts - expected) ** 2 / expected).sum()
    degrees = (n - 1) ** 2
    assert abs(chi2 - degrees) < 6 * np.sqrt(2 * degrees)


def test_the_order_is_pinned():
    """A change here changes every run: it needs a migration note."""
    source = make_source(numbered(10), "train", batch_size=10, seed=0, shuffle=True)
    windowed = make_source(
        numbered(10), "train", batch_size=10, seed=0, shuffle=True, shuffle_window=4
    )
    assert source.batch(0).index.tolist() == PINNED[0]
    assert windowed.batch(1).index.tolist() == PINNED[1]


def test_a_user_of_the_index_cannot_spoil_the_order():
    source = make_source(numbered(20), "train", batch_size=20, seed=0, shuffle=True)
    before = source.batch(0).index.clone()
    source.batch(0).index.zero_()
    source.batch(0).fields["x"].zero_()
    assert torch.equal(source.batch(0).index, before)
    assert torch.equal(source.batch(0).fields["x"], before)


def test_limit_takes_the_first_rows():
    source = make_source(numbered(20), "train", batch_size=3, seed=0, shuffle=True, limit=7)
    assert (source.num_examples, source.batches_per_epoch) == (7, 3)
    rows = torch.cat([source.batch(k).index for k in range(3)])
    assert sorted(rows.tolist()) == list(range(7))
    generous = make_source(numbered(20), "train", batch_size=3, seed=0, shuffle=False, limit=99)
    assert generous.num_examples == 20


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    batch_size=batches,
    world=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_varying_fields_are_padded_to_the_global_batch(lengths, batch_size, world):
    source = make_source(ragged(lengths), "train", batch_size=batch_size, seed=0, shuffle=True)
    for number in range(source.batches_per_epoch):
        rows = source.batch(number).index.tolist()
        longest = max(lengths[row] for row in rows)
        parts = [source.batch(number, rank=r, world=world) for r in range(world)]
        for part in parts:
            f = part.fields
            assert f["x"].shape == (len(part.index), longest, 2)
            assert f["x_mask"].shape == (len(part.index), longest)
            assert f["x_mask"].dtype == torch.bool
            assert torch.equal(f["x_mask"].sum(1), f["x_length"])
            assert f["x_length"].tolist() == [lengths[row] for row in part.index.tolist()]
            want = f["label"].float()[:, None, None] * f["x_mask"][..., None]
            assert torch.equal(f["x"], want.expand_as(f["x"]))


def test_prefetching_changes_nothing():
    plain = make_source(ragged([3, 1, 2, 0, 5, 4, 1]), "train", batch_size=2, seed=5, shuffle=True)
    ahead = make_source(
        ragged([3, 1, 2, 0, 5, 4, 1]), "train", batch_size=2, seed=5, shuffle=True, prefetch=3
    )
    try:
        for number, rank, world in [
            (0, 0, 1),
            (1, 0, 1),
            (2, 0, 1),
            (7, 1, 2),
            (8, 1, 2),
            (3, 0, 1),
        ]:
            a = plain.batch(number, rank=rank, world=world)
            b = ahead.batch(number, rank=rank, world=world)
            assert a.fields.keys() == b.fields.keys()
            assert all(torch.equal(a.fields[k], b.fields[k]) for k in a.fields)
            assert (a.total, a.start) == (b.total, b.start)
        with pytest.raises(IndexError):
            ahead.batch(-1)
        assert torch.equal(ahead.batch(0).index, plain.batch(0).index)
    finally:
        ahead.close()


@pytest.mark.parametrize(
    ("change", "word"),
    [({"batch_size": 0}, "batch_size"), ({"limit": -1}, "limit"), ({"split": "tset"}, "test")],
)
def test_mistakes_are_named(change, word):
    dataset = from_arrays("d", {s: {"x": np.zeros(3, np.float32)} for s in ("train", "test")})
    kwargs = {"split": "train", "batch_size": 2, "seed": 0, "shuffle": True, **change}
    split = kwargs.pop("split")
    with pytest.raises(UserError, match=word):
        make_source(dataset, split, **kwargs)


PINNED = ([1, 3, 8, 4, 6, 7, 0, 2, 5, 9], [5, 4, 6, 7, 1, 3, 2, 0, 8, 9])


@pytest.mark.parametrize("budget", [1 << 40, 0])
def test_what_is_held_out_is_not_trained_on(tmp_path, budget):
    """A partition of train by row number alone, and the same after a journey to a worker."""
    from rayloom.core.protocols import FieldSpec
    from rayloom.data import StoreWriter, open_store

    fields = {"row": FieldSpec((), "int64"), "tokens": FieldSpec((-1,), "uint8")}
    with StoreWriter(tmp_path / "rows", fields) as writer:
        for split, count in (("train", 101), ("test", 7)):
            tokens = [np.full(k % 5, k, np.uint8) for k in range(count)]
            writer.add(split, {"row": np.arange(count), "tokens": tokens})
    whole = open_store(tmp_path / "rows", budget)
    kept = whole.hold_out(0.1)
    for dataset in (kept, pickle.loads(pickle.dumps(kept))):
        assert set(dataset.splits) == {"train", "validation", "test"}
        assert dataset.fingerprint == whole.fingerprint
        rows = {}
        for split in dataset.splits:
            source = make_source(dataset, split, batch_size=8, seed=3, shuffle=split == "train")
            batches = [source.batch(k).fields for k in range(source.batches_per_epoch)]
            rows[split] = [row for batch in batches for row in batch["row"].tolist()]
            for batch in batches:
                assert batch["tokens_length"].tolist() == [r % 5 for r in batch["row"].tolist()]
        assert len(rows["validation"]) == 10
        assert sorted(rows["train"] + rows["validation"]) == list(range(101))
        assert rows["validation"] == sorted(rows["validation"]) != list(range(10))
        assert rows["test"] == list(range(7))
    with pytest.raises(UserError, match="validation already"):
        kept.hold_out(0.1)
    with pytest.raises(UserError, match="none to hold out"):
        from_arrays("one", {"train": {"x": np.zeros((1, 2))}}).hold_out(0.5)
