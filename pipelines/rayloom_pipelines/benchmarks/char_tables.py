"""Interpolated tables of characters, the baseline of models of text.

p_k(c | the k before) = (n(context, c) + t(context) p_{k-1}(c)) / (n(context) + t(context)), t the
number of different characters seen behind the context (Witten and Bell, 1991,
doi:10.1109/18.87000, as an interpolation), p_{-1} uniform. Counted on `train`, scored on `test`:

    python -m rayloom_pipelines.benchmarks.char_tables shakespeare 4
"""

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch

from rayloom.data import open_dataset
from rayloom.data.dataset import Dataset


def texts(dataset: Dataset, split: str) -> list[np.ndarray]:
    """The tokens of each example, int64."""
    rows = dataset.split(split)
    found = []
    for row in range(len(rows)):
        tokens = rows.take(torch.tensor([row]), fields=("tokens",))["tokens"][0]
        found.append(tokens.numpy().astype(np.int64))
    return found


def table_nats(
    train: Sequence[np.ndarray], test: Sequence[np.ndarray], num_tokens: int, order: int
) -> list[float]:
    """Nats per token of `test` by tables of order 0 to `order`, the first tokens left out.

    Args:
        train: Texts to count.
        test: Texts to score; each token but the first `order` of a text.
        num_tokens: V; V^(order + 1) must fit into 63 bits.
        order: The longest context.
    """
    if num_tokens ** (order + 1) >= 1 << 63:
        raise ValueError(f"{num_tokens} tokens and order {order} are too many")
    previous = np.full(sum(len(text) - order for text in test), 1.0 / num_tokens)
    nats = []
    for length in range(order + 1):
        grams = _grams(train, num_tokens, length)
        kinds, counts = np.unique(grams, return_counts=True)
        contexts, place = np.unique(kinds // num_tokens, return_inverse=True)
        seen = np.bincount(place, counts)
        different = np.bincount(place)
        asked = np.concatenate([_keys(text, num_tokens, length)[order - length :] for text in test])
        count = _look_up(kinds, counts, asked)
        total = _look_up(contexts, seen, asked // num_tokens)
        spread = _look_up(contexts, different, asked // num_tokens)
        known = total + spread > 0
        mixed = (count + spread * previous) / np.maximum(total + spread, 1)
        previous = np.where(known, mixed, previous)
        nats.append(-float(np.log(previous).mean()))
    return nats


def _keys(text: np.ndarray, num_tokens: int, length: int) -> np.ndarray:
    """Each token with the `length` before it, as one number."""
    keys = np.zeros(len(text) - length, np.int64)
    for offset in range(length + 1):
        keys = keys * num_tokens + text[offset : len(text) - length + offset]
    return keys


def _grams(train: Sequence[np.ndarray], num_tokens: int, length: int) -> np.ndarray:
    return np.concatenate([_keys(text, num_tokens, length) for text in train])


def _look_up(kinds: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    place = np.searchsorted(kinds, asked).clip(max=len(kinds) - 1)
    return np.where(kinds[place] == asked, values[place], 0).astype(np.float64)


def main(words: Sequence[str]) -> None:
    """Print the nats of each order."""
    from rayloom.config.sections import DataConfig

    dataset = open_dataset(DataConfig(name=words[0]))
    num_tokens = dataset.spec.fields["tokens"].num_classes
    train, test = (texts(dataset, split) for split in ("train", "test"))
    for order, nats in enumerate(table_nats(train, test, num_tokens, int(words[1]))):
        print(f"order {order}: {nats:.4f} nats, {nats / math.log(2):.4f} bits")


if __name__ == "__main__":
    main(sys.argv[1:])
