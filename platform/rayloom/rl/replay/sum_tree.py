"""Sums of priorities in a tree, with array operations.

Dimension key: C capacity, F fan-out, B indices of a batch.

Each node is the sum of its F children, computed from them afresh whenever one changes. So the tree
is a function of its leaves alone: it never drifts and needs no place in a checkpoint.
"""

import numpy as np

_FANOUT = 64


class SumTree:
    """Non-negative weights of C slots; draws slots in proportion to them.

    Args:
        capacity: C.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.levels: list[np.ndarray] = []  # leaves first, each padded to a multiple of F
        size = capacity
        while True:
            padded = -(-size // _FANOUT) * _FANOUT
            self.levels.append(np.zeros(padded))
            size = padded // _FANOUT
            if size == 1:
                break

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self.levels[-1].sum())

    @property
    def leaves(self) -> np.ndarray:
        """The weights, (C,), a view."""
        return self.levels[0][: self.capacity]

    def set(self, index: np.ndarray, weight: np.ndarray | float) -> None:
        """Replace weights; of a repeated index the last one counts.

        Args:
            index: int64 (B,).
            weight: (B,) or one number.
        """
        self.levels[0][index] = weight
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            index = index // _FANOUT
            above[index] = below.reshape(-1, _FANOUT)[index].sum(-1)

    def load(self, leaves: np.ndarray) -> None:
        """Replace all weights, (C,)."""
        self.levels[0][: self.capacity] = leaves
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            above[: len(below) // _FANOUT] = below.reshape(-1, _FANOUT).sum(-1)

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Slots by inversion of the cumulative weights.

        Args:
            u: Uniform numbers in [0, 1), (B,).

        Returns:
            int64 (B,); never a slot of weight zero.
        """
        top = self.levels[-1]
        cumulative = top.cumsum()
        node = np.searchsorted(cumulative, u * cumulative[-1], side="right")
        node = np.minimum(node, np.flatnonzero(top)[-1])
        left = u * cumulative[-1] - (cumulative[node] - top[node])
        for level in reversed(self.levels[:-1]):
            children = level.reshape(-1, _FANOUT)[node]  # (B, F)
            sums = children.cumsum(-1)
            left = np.minimum(left, np.nextafter(sums[:, -1], 0.0))  # rounding stays inside
            child = (sums <= left[:, None]).sum(-1)
            rows = np.arange(len(node))
            left = left - (sums[rows, child] - children[rows, child])
            node = node * _FANOUT + child
        return node
