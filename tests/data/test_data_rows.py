"""Laws of virtual rows: every step once, N ranks equal one, any batch by its number alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.config.data import LanesConfig, WindowsConfig
from rayloom.config.resolved import load_config
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.protocols import FieldSpec, slice_of
from rayloom.data import StoreWriter, first_batch, from_arrays, make_source, open_store
from rayloom.data.use import Use
from rayloom_pipelines.shipped import find_config

FIELDS = {
    "tokens": FieldSpec((-1,), "uint16", "tokens", 60_000),
    "pitch": FieldSpec((-1, 2), "float32"),
    "label": FieldSpec((), "int64", "label", 100),
}


def counted(lengths):
    """Documents whose steps are numbered from first to last."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = [np.arange(a, a + n).astype(np.uint16) for a, n in zip(starts, lengths, strict=False)]
    return {
        "tokens": tokens,
        "pitch": [np.stack([t, -t.astype(float)], 1).astype(np.float32) for t in tokens],
        "label": np.arange(len(lengths), dtype=np.int64),
    }


def texts(lengths, rows):
    splits = {"train": counted(lengths), "test": counted(lengths)}
    return from_arrays("texts", splits, fields=FIELDS).using(Use(rows=rows))


lengths_ = st.lists(st.integers(0, 30), min_size=1, max_size=6)


@given(lengths=lengths_, lanes=st.integers(1, 5), length=st.integers(1, 7),
       overlap=st.integers(0, 2), world=st.integers(1, 4))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_row_b_of_the_next_batch_continues_row_b(lengths, lanes, length, overlap, world):
    rows, total = LanesConfig(length=length, overlap=overlap), sum(lengths)
    dataset = _dataset_or_none(lengths, rows)
    kwargs = {"batch_size": lanes, "seed": 0}
    if dataset is None or total - overlap < lanes * length:
        return
    train = make_source(dataset, "train", shuffle=True, **kwargs)
    depth = train.batches_per_epoch
    assert (train.lanes, depth) == (lanes, (total - overlap) // (lanes * length))
    seen = [[] for _ in range(lanes)]
    for number in range(2 * depth):
        whole = train.batch(number)
        parts = [train.batch(number, rank=r, world=world) for r in range(world)]
        for key in whole.fields:
            joined = torch.cat([p.fields[key].view(_plain(p.fields[key])) for p in parts])
            assert torch.equal(joined, whole.fields[key].view(_plain(whole.fields[key])))
        assert [(p.start, p.stop) for p in parts] == [
            slice_of(lanes, r, world) for r in range(world)
        ]
        tokens = whole.fields["tokens"].int()
        assert whole.fields["first"].tolist() == [number % depth == 0] * lanes
        assert bool(whole.fields["tokens_mask"].all())
        assert torch.equal(whole.fields["pitch"][..., 0].int(), tokens)
        for lane, row in enumerate(tokens.tolist()):
            assert len(row) == length + overlap
            if number % depth:
                assert seen[lane][len(seen[lane]) - overlap :] == row[:overlap]
            seen[lane] += row[overlap:] if number % depth else row
    for lane in range(lanes):  # two epochs, each lane a run of the text
        once = seen[lane][: len(seen[lane]) // 2]
        assert seen[lane] == once * 2
        assert once == list(range(lane * depth * length, (lane + 1) * depth * length + overlap))


@given(lengths=lengths_, lanes=st.integers(1, 9), length=st.integers(1, 7),
       overlap=st.integers(0, 2))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_evaluation_sees_every_step_once(lengths, lanes, length, overlap):
    dataset = _dataset_or_none(lengths, LanesConfig(length=length, overlap=overlap))
    if dataset is None:
        return
    source = make_source(dataset, "test", batch_size=lanes, seed=0, shuffle=False)
    own = []
    for number in range(source.batches_per_epoch):
        fields = source.batch(number).fields
        tokens, mask = fields["tokens"].int()[:, overlap:], fields["tokens_mask"][:, overlap:]
        own += tokens[mask].tolist()
        assert not fields["tokens"].int()[~fields["tokens_mask"]].any()
    assert sorted(own) == list(range(overlap, sum(lengths)))


def _dataset_or_none(lengths, rows):
    if sum(lengths) <= getattr(rows, "overlap", 0):
        return None
    try:
        return texts(lengths, rows)
    except UserError:  # not one row of them
        assert sum(lengths) - rows.overlap < rows.length
        return None


def _plain(tensor):
    return torch.int16 if tensor.dtype == torch.uint16 else tensor.dtype


@given(lengths=lengths_, length=st.integers(1, 8), stride=st.integers(1, 9),
       random=st.booleans(), seed=st.integers(0, 9))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_windows_stay_inside_their_example(lengths, length, stride, random, seed):
    if max(lengths) < length:
        with pytest.raises(UserError, match=f"no example of the split 'train' has {length} steps"):
            texts(lengths, WindowsConfig(length=length))
        return
    dataset = texts(lengths, WindowsConfig(length=length, stride=stride, random=random))
    assert dataset.spec.fields["tokens"].shape == (length,)
    assert dataset.spec.fields["pitch"].shape == (length, 2)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    coarse = [
        (d, starts[d] + k) for d, n in enumerate(lengths) for k in range(0, n - length + 1, stride)
    ]
    for split, shuffle in (("train", True), ("test", False)):
        source = make_source(dataset, split, batch_size=3, seed=seed, shuffle=shuffle)
        assert source.num_examples == len(coarse) == dataset.spec.num_train
        got = []
        for number in range(source.batches_per_epoch):
            fields = source.batch(number).fields
            tokens = fields["tokens"].int()
            assert torch.equal(tokens, tokens[:, :1] + torch.arange(length).int())
            assert torch.equal(fields["pitch"][..., 1].int(), -tokens)
            got += zip(fields["label"].tolist(), tokens[:, 0].tolist(), strict=True)
        if not (random and shuffle):
            assert sorted(got) == sorted((int(d), int(a)) for d, a in coarse)
            assert shuffle or got == [(int(d), int(a)) for d, a in coarse]
            continue
        for (d, low), (label, begin) in zip(sorted(coarse), sorted(got), strict=True):
            assert label == d
            assert low <= begin < low + stride
            assert begin + length <= starts[d + 1]


def test_random_windows_move_from_epoch_to_epoch_and_a_fresh_source_finds_them():
    dataset = texts([400], WindowsConfig(length=4, stride=10, random=True))
    make = lambda: make_source(dataset, "train", batch_size=40, seed=1, shuffle=True)  # noqa: E731
    old, new = make(), make()
    starts = [sorted(old.batch(e).fields["tokens"].int()[:, 0].tolist()) for e in range(30)]
    assert torch.equal(new.batch(17).index, old.batch(17).index)
    assert len({tuple(s) for s in starts}) == 30
    offsets = np.bincount(np.concatenate([np.array(s[:-1]) % 10 for s in starts]), minlength=10)
    assert offsets.min() > 80  # 117 each


@pytest.mark.parametrize("budget", [0, 1 << 40])
def test_rows_of_a_store_read_from_the_disk_or_mapped(tmp_path, budget):
    lengths, rows = [40, 0, 25, 60], LanesConfig(length=5)
    with StoreWriter(tmp_path / "texts", FIELDS) as writer:
        for split in ("train", "test"):
            writer.add(split, counted(lengths))
    stored = open_store(tmp_path / "texts", budget).using(Use(rows=rows, validation_fraction=0.3))
    assert stored.split("train").streamed == (budget == 0)
    kept = [lengths[k] for k in stored.split("train").rows.tolist()]
    assert sum(kept) < 125
    source = make_source(stored, "train", batch_size=2, seed=0, shuffle=True)
    assert source.lanes == 2
    got = source.batch(1).fields["tokens"].int()
    assert got[0].tolist() == [*range(5, 11)]
    only = make_source(stored, "train", batch_size=2, seed=0, shuffle=True, fields=("pitch",))
    assert set(only.batch(1).fields) == {"pitch", "pitch_mask", "first"}


def test_the_limit_counts_rows():
    dataset = texts([100], LanesConfig(length=5)).using(Use(limit=6, rows=LanesConfig(length=5)))
    source = make_source(dataset, "train", batch_size=2, seed=0, shuffle=True)
    assert (dataset.spec.num_train, source.num_examples) == (6, 6)
    tokens = torch.cat([source.batch(k).fields["tokens"].int() for k in range(3)])
    assert int(tokens.max()) == 30
    mean = dataset.spec.statistics["pitch"].mean  # rows 0..5, 5..10 and so on
    assert mean[0] == pytest.approx(np.mean([range(5 * k, 5 * k + 6) for k in range(6)]))


@pytest.mark.parametrize(("rows", "batch", "message"), [
    (LanesConfig(length=50), 3, "100 steps of the split 'train' do not fill 3 lanes of 50"),
    (LanesConfig(length=5), "all", "say how many lanes"),
])  # fmt: skip
def test_lanes_that_cannot_be_filled(rows, batch, message):
    with pytest.raises(UserError, match=message):
        make_source(texts([100], rows), "train", batch_size=batch, seed=0, shuffle=True)


def test_rows_need_something_to_cut():
    dataset = from_arrays("flat", {"train": {"x": np.zeros((9, 2))}})
    with pytest.raises(UserError, match=r"lanes are pieces.*'flat' has none: x \(2,\)"):
        dataset.using(Use(rows=LanesConfig(length=5)))
    uneven = {"a": [np.zeros(3)], "b": [np.zeros(4)]}
    fields = {k: FieldSpec((-1,), "float64") for k in "ab"}
    with pytest.raises(UserError, match="'a' and 'b' differ in length"):
        from_arrays("u", {"train": uneven}, fields=fields).using(Use(rows=WindowsConfig(length=2)))


def test_a_first_look_has_what_batches_have():
    assert set(first_batch(texts([50], LanesConfig(length=5)), "test")) == {
        *("tokens", "tokens_mask", "pitch", "pitch_mask", "first")
    }
    assert first_batch(texts([50], WindowsConfig(length=5)), "test")["tokens"].shape == (1, 5)


@pytest.mark.parametrize(("words", "wrong"), [
    ("{name: lanes, length: 8}", None),
    ("{name: windows, length: 8, stride: 4, random: true}", None),
    ("{name: lane, length: 8}", "did you mean 'lanes'"),
    ("{name: lanes}", r"data.rows.length.*is required"),
    ("{name: lanes, length: 8, stride: 2}", "unknown key of data.rows; known: name, length, over"),
    ("{length: 8}", r"data.rows.name.*is required"),
])  # fmt: skip
def test_the_section_of_a_config(words, wrong):
    flags = [f"data.rows={words}"]
    if wrong is None:
        made = load_config("autoencoders/vae-digits", flags, find=find_config)
        assert made.config.data.rows.length == 8
        return
    with pytest.raises(ConfigError, match=wrong):
        load_config("autoencoders/vae-digits", flags, find=find_config)
