"""Orders that are a function of content, so that every machine makes the same store."""

import hashlib
from collections.abc import Iterable

import numpy as np

from rayloom.core.errors import UserError

_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def content_order(rows: Iterable[bytes], salt: str) -> np.ndarray:
    """A fixed "random" order: rows sorted by a hash of `salt` and their bytes.

    Equal rows keep their order. Needs no random generator, whose stream may change.

    Returns:
        int64 (n,), the permutation.
    """
    key = hashlib.sha256(salt.encode()).digest()[:32]
    hashes = [hashlib.blake2b(row, digest_size=16, key=key).digest() for row in rows]
    return np.array(sorted(range(len(hashes)), key=hashes.__getitem__), np.int64)


def array_order(array: np.ndarray, salt: str) -> np.ndarray:
    """`content_order` of an array's rows."""
    return content_order((row.tobytes() for row in array), salt)


def row_hash(rows: int) -> np.ndarray:
    """uint64 (rows,), a well spread hash of each row number (splitmix64)."""
    return spread(np.arange(rows, dtype=np.uint64))


def spread(numbers: np.ndarray, key: int = 0) -> np.ndarray:
    """uint64, a well spread hash of each of some uint64 (splitmix64), another one for each key."""
    with np.errstate(over="ignore"):
        z = (numbers + np.uint64(1)) * np.uint64(_GOLDEN)
        if key:
            z = z ^ spread(np.array([key], np.uint64))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX2)
        return z ^ (z >> np.uint64(31))


def num_test(rows: int, fraction: float) -> int:
    """How many of `rows` examples become the test split: at least one of two, if any.

    Raises:
        UserError: The fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UserError(f"test_fraction is {fraction}; it must be at least 0 and below 1")
    if fraction == 0 or rows < 2:
        return 0
    return min(rows - 1, max(1, round(rows * fraction)))


def split_order(order: np.ndarray, fraction: float) -> dict[str, np.ndarray]:
    """Cut an order of rows into `train` and, unless it is empty, `test` (its first rows)."""
    count = num_test(len(order), fraction)
    splits = {"train": order[count:]}
    if count:
        splits["test"] = order[:count]
    return splits
