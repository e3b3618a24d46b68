"""Tiny data sets for `example()`: they feed laws, conformance checks, exports and operations."""

import numpy as np

Arrays = dict[str, np.ndarray]


def tiny_images(num: int = 12, *, channels: int = 1, size: int = 8, classes: int = 3) -> Arrays:
    """Pictures of noise around a bar whose place is the class: `image` uint8, `label` int64.

    Args:
        num: Examples; the classes take turns.
        channels: C.
        size: H and W.
        classes: How many.
    """
    rng = np.random.default_rng(0)
    label = np.arange(num, dtype=np.int64) % classes
    image = rng.integers(0, 60, (num, channels, size, size), dtype=np.uint8)
    for row, which in enumerate(label):
        image[row, :, :, (int(which) * size) // classes] += 180
    return {"image": image, "label": label}


def tiny_tokens(num: int = 12, *, length: int = 6, vocabulary: int = 5) -> Arrays:
    """Sequences that count upwards and now and then do not: `tokens` int64 (num, length).

    Args:
        num: Examples.
        length: T.
        vocabulary: Tokens 0 to this, exclusive.
    """
    rng = np.random.default_rng(0)
    start, slips = rng.integers(vocabulary, size=(num, 1)), rng.random((num, length)) < 0.1
    return {"tokens": (start + np.arange(length) + slips).astype(np.int64) % vocabulary}
