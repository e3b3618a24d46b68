"""Interquartile mean and bootstrap."""

import numpy as np
import pytest

from rayloom.metrics.returns import bootstrap, iqm, mean, summarize


def test_iqm_is_the_trimmed_mean():
    for n in (1, 3, 4, 7, 8, 101):
        values = np.random.default_rng(n).normal(size=n)
        cut = n // 4
        assert iqm(values) == pytest.approx(np.sort(values)[cut : n - cut].mean())
    assert iqm(np.array([0.0, 1.0, 2.0, 1e9])) == 1.5  # one outlier moves nothing


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        interval = bootstrap(rng.exponential(size=60), resamples=400, seed=seed)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 300 <= 0.99


def test_bootstrap_is_seeded_and_stratified():
    table = np.arange(30.0).reshape(10, 3) * np.array([1.0, 10.0, 100.0])
    first = bootstrap(table, statistic=iqm, seed=1)
    assert first == bootstrap(table, statistic=iqm, seed=1)
    assert first != bootstrap(table, statistic=iqm, seed=2)
    # Columns that are constant cannot vary when each is resampled on its own.
    still = bootstrap(np.tile([1.0, 2.0, 30.0], (5, 1)), statistic=mean)
    assert still.low == still.high == pytest.approx(11.0)


def test_chunks_change_nothing(monkeypatch):
    import rayloom.metrics.returns as module

    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap(values, resamples=100)
    monkeypatch.setattr(module, "_CHUNK", 50 * 7)
    assert bootstrap(values, resamples=100).estimate == whole.estimate


def test_summary_and_empty():
    got = summarize(np.array([1.0, 3.0]), np.array([10, 20]))
    assert got["eval/return_mean"] == 2.0
    assert got["eval/length_mean"] == 15.0
    assert got["eval/episodes"] == 2.0
    assert got["eval/return_low"] <= 2.0 <= got["eval/return_high"]
    with pytest.raises(ValueError, match="no values"):
        bootstrap(np.zeros(0))
