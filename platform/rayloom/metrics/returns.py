"""Statistics of episode returns: interquartile mean and bootstrap intervals.

Dimension key: R runs or episodes, K tasks, M resamples.

Agarwal et al., 2021, "Deep RL at the edge of the statistical precipice", arXiv:2108.13264:
report the interquartile mean with a stratified bootstrap interval. Everything is vectorised and
takes its own seed; nothing touches NumPy's global generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Reduced = np.ndarray | np.floating
Statistic = Callable[[np.ndarray], Reduced]  # reduces the last axis
_CHUNK = 4_000_000  # float64 values of resamples held at once


@dataclass(frozen=True)
class Interval:
    """A point estimate with its bootstrap interval."""

    estimate: float
    low: float
    high: float


def mean(values: np.ndarray) -> Reduced:
    """Mean over the last axis."""
    return values.mean(-1)


def iqm(values: np.ndarray) -> Reduced:
    """Interquartile mean over the last axis: the mean without the lowest and highest quarter.

    floor(n / 4) values are cut at each end, as a 25 % trimmed mean does.
    """
    n = values.shape[-1]
    cut = n // 4
    if cut == 0:
        return values.mean(-1)
    inner = np.partition(values, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
    return inner.mean(-1)


def bootstrap(
    values: np.ndarray,
    *,
    statistic: Statistic = mean,
    resamples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of all values.

    Args:
        values: Shape (R,), or (R, K): then each of the K tasks is resampled on its own
            (stratified) and the statistic is taken over all R * K values.
        statistic: Reduces the last axis, such as `mean` or `iqm`.
        resamples: M.
        level: Coverage of the interval.
        seed: Of the resampling.

    Raises:
        ValueError: No values.
    """
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    runs, tasks = table.shape
    if table.size == 0:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // table.size)
    drawn = []
    for start in range(0, resamples, per_chunk):
        count = min(per_chunk, resamples - start)
        rows = rng.integers(0, runs, size=(count, runs, tasks), dtype=np.int32)
        sample = np.take_along_axis(table[None], rows, axis=1)  # (count, R, K)
        drawn.append(statistic(sample.reshape(count, -1)))
    tail = (1.0 - level) / 2
    low, high = np.quantile(np.concatenate(drawn), (tail, 1.0 - tail))
    return Interval(float(statistic(table.reshape(-1))), float(low), float(high))


def summarize(
    returns: np.ndarray, lengths: np.ndarray, *, prefix: str = "eval/", seed: int = 0
) -> dict[str, float]:
    """The standard metrics of a set of episodes, both arguments shape (R,)."""
    interval = bootstrap(returns, seed=seed)
    return {
        f"{prefix}return_mean": interval.estimate,
        f"{prefix}return_iqm": float(iqm(np.asarray(returns, float))),
        f"{prefix}return_low": interval.low,
        f"{prefix}return_high": interval.high,
        f"{prefix}return_std": float(np.std(returns)),
        f"{prefix}length_mean": float(np.mean(lengths)),
        f"{prefix}episodes": float(len(returns)),
    }
