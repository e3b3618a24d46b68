"""Tables by counting: an exact distribution, and nothing but counts."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from rayloom.config.sections import RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.data import from_arrays, make_source
from rayloom.models.autoregressive.tabular_ar import TabularAR, TabularARConfig
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from thread_ranks import on_ranks

pytestmark = pytest.mark.law("tabular-ar")
N = 6  # pixels of the block: 2 x 3
CUBE = torch.tensor(list(itertools.product([0, 1], repeat=N)))  # (64, 6)


def noise_pictures(num, seed=0):
    """Pictures of 4x5 pixels, neighbours alike, so that contexts matter; some never come."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num, 1, 4, 5)).cumsum(-1).cumsum(-2)
    return np.where(rows > 0, 200, 30).astype(np.uint8)


DATA = from_arrays("x", {"train": {"image": noise_pictures(200)}})


def engine(batch_size=64, collective=None, epochs=1, accumulate=1, **config):
    settings = {"rows": 2, "columns": 3} | config
    return Engine(
        TabularAR(TabularARConfig(**settings), DATA.spec),
        RunConfig(train=TrainConfig(epochs=epochs, accumulate=accumulate)),
        make_source(DATA, "train", batch_size=batch_size, seed=0, shuffle=True),
        make_source(DATA, "train", batch_size=50, seed=0, shuffle=False),
        collective=collective,
    )


def counted(epochs=1, **about):
    made = engine(epochs=epochs, **about)
    until = epochs * made.train_source.batches_per_epoch
    made.advance(until, sink=MemorySink(), interrupted=lambda: False)
    return made.model, made.evaluate()


def blocks():
    """The 2x3 pixels in the middle of each picture, as tuples of bits."""
    middle = DATA.split("train").take(torch.arange(200))["image"][:, 0, 1:3, 1:4]
    return [tuple(int(bit > 127) for bit in block.flatten()) for block in middle]


@pytest.mark.parametrize("order", [None, 0, 1, 3])
def test_the_counts_are_those_of_a_loop_to_the_bit(order):
    """By a dictionary of contexts, pixel after pixel."""
    model, _ = counted(order=order)
    seen, ones = Counter(), Counter()
    for x in blocks():
        for i, bit in enumerate(x):
            context = x[max(0, i - (N if order is None else order)) : i]
            seen[i, context] += 1
            ones[i, context] += bit
    checked = 0
    for x in CUBE.tolist():
        for i, entry in enumerate(model.entries(torch.tensor([x]))[0].tolist()):
            context = tuple(x[max(0, i - (N if order is None else order)) : i])
            assert int(model.seen[entry]) == seen[i, context]
            assert int(model.ones[entry]) == ones[i, context]
            checked += 1
    assert checked == 64 * N
    assert int(model.seen.sum()) == 200 * N


@pytest.mark.parametrize("order", [None, 0, 2])
@pytest.mark.parametrize("pseudo_count", [0.0, 0.5, 2.0])
def test_it_sums_to_one(order, pseudo_count):
    """Over all 64 blocks, unseen contexts included; also before anything is counted."""
    fresh = engine(order=order, pseudo_count=pseudo_count).model
    for model in (counted(order=order, pseudo_count=pseudo_count)[0], fresh):
        total = model.log_prob_of(CUBE).exp().sum()
        torch.testing.assert_close(total, torch.ones(()).double(), rtol=0, atol=1e-12)


def test_frequencies_multiply_to_the_frequency_of_the_block():
    """Without pseudo-counts p(x) is how often x was seen, and the mean NLL is their entropy."""
    model, metrics = counted(pseudo_count=0.0)
    often = Counter(blocks())
    for x, log_p in zip(CUBE.tolist(), model.log_prob_of(CUBE).tolist(), strict=True):
        assert math.exp(log_p) == pytest.approx(often[tuple(x)] / 200, abs=1e-12)
    entropy = -sum(n / 200 * math.log(n / 200) for n in often.values())
    assert metrics["eval/nll_nats"] == pytest.approx(entropy, rel=1e-6)
    assert metrics["eval/bpd"] == pytest.approx(entropy / N / math.log(2), rel=1e-6)
    assert metrics["eval/unseen"] == 0


def test_a_table_has_two_to_the_n_minus_one_numbers():
    for rows, columns in ((1, 1), (2, 2), (2, 3), (3, 4)):
        model = TabularAR(TabularARConfig(rows=rows, columns=columns), DATA.spec)
        assert len(model.ones) == 2 ** (rows * columns) - 1
    entries = TabularAR(TabularARConfig(rows=2, columns=3), DATA.spec).entries(CUBE)
    assert sorted(set(entries.flatten().tolist())) == list(range(63)), "none twice, none unused"


@pytest.mark.parametrize("order", [None, 2])
def test_a_pixel_knows_the_ones_before_it_alone(order):
    """Flipping pixel j changes the entry of pixel i exactly where j is among those before i."""
    model = TabularAR(TabularARConfig(rows=2, columns=3, order=order), DATA.spec)
    x = torch.randint(2, (50, N), generator=torch.Generator().manual_seed(0))
    for j in range(N):
        flipped = x.clone()
        flipped[:, j] = 1 - flipped[:, j]
        changed = (model.entries(flipped) != model.entries(x)).all(0).tolist()
        untouched = (model.entries(flipped) == model.entries(x)).all(0).tolist()
        knows = [j < i <= j + (N if order is None else order) for i in range(N)]
        assert changed == knows
        assert untouched == [not one for one in knows]


def test_the_estimator_of_krichevsky_and_trofimov():
    """(ones + 1/2) / (seen + 1): a first observation moves one half to three quarters."""
    model = TabularAR(TabularARConfig(rows=1, columns=1), DATA.spec)
    assert model.log_odds()[1].exp().tolist() == [0.5]
    model.seen.fill_(1)
    model.ones.fill_(1)
    torch.testing.assert_close(model.log_odds()[1].exp(), torch.tensor([0.75]).double())
    torch.testing.assert_close(model.log_odds()[0].exp(), torch.tensor([0.25]).double())


def test_samples_come_as_often_as_they_are_likely():
    """Chi-square of 20,000 draws over the 64 blocks (63 degrees, one in a million above 125)."""
    model, _ = counted(order=None)
    drawn = model.sample({}, rng=Noise(3, total=20_000))["image"].flatten(1).long()
    places = (drawn * 2 ** torch.arange(N - 1, -1, -1)).sum(1)
    observed = torch.bincount(places, minlength=64).double()
    expected = 20_000 * model.log_prob_of(CUBE).exp()
    assert float(((observed - expected) ** 2 / expected).sum()) < 125


@pytest.mark.parametrize("batch_size", [64, 7])
def test_ranks_and_chunks_equal_one_process_to_the_bit(batch_size):
    alone, metrics = counted(batch_size=batch_size)
    chunks = counted(batch_size=batch_size, accumulate=4)
    found = on_ranks(2, lambda rank, group: counted(batch_size=batch_size, collective=group))
    for model, values in [chunks, *found]:
        assert torch.equal(model.seen, alone.seen)
        assert torch.equal(model.ones, alone.ones)
        assert values == metrics


def test_killed_and_resumed_is_bit_equal():
    whole, first, second = engine(batch_size=30), engine(batch_size=30), engine(batch_size=30)
    for made, until in ((whole, 7), (first, 3)):
        made.advance(until, sink=MemorySink(), interrupted=lambda: False)
    second.load_state_dict(first.state_dict())
    second.advance(7, sink=MemorySink(), interrupted=lambda: False)
    assert second.parameters_sha256() == whole.parameters_sha256()


def test_each_picture_is_counted_once():
    once, twice = counted()[0], counted(epochs=2)[0]
    assert torch.equal(once.seen, twice.seen)
    assert torch.equal(once.ones, twice.ones)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"rows": 5},
            "5x4 grey pixels does not fit into pictures of 1 channels and 4x5",
        ),
        ({"rows": 2, "columns": 3, "stride": 3}, "a block of 4x7 grey pixels does not fit"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(config, said):
    with pytest.raises(UserError, match=said):
        TabularAR(TabularARConfig(**config), DATA.spec)


def test_tables_that_are_too_large_are_refused():
    big = from_arrays("x", {"train": {"image": np.zeros((2, 1, 8, 8), np.uint8)}}).spec
    with pytest.raises(UserError, match="tables of 16,777,215 entries are too large"):
        TabularAR(TabularARConfig(rows=4, columns=6), big)
    TabularAR(TabularARConfig(rows=8, columns=8, order=10), big)
