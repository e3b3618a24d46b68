"""Orders that are a function of content, so that every machine makes the same store."""

import hashlib
from collections.abc import Iterable

import numpy as np


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
