"""Densities in the plane for exact likelihoods: two moons, and eight Gaussians in a ring.

Made by NumPy from a fixed seed, 20,000 points for `train` and 5,000 for `test`, so that nothing is
fetched. The eight Gaussians have a known density (`EightGaussians.log_prob`), hence a known
entropy: a model's nats can be held against it.
"""

import math
from pathlib import Path

import numpy as np

from rayloom.core.protocols import FieldSpec
from rayloom.data.store.writer import StoreWriter

SIZES = {"train": 20_000, "test": 5_000}
_SEED = 20_181_103


class _Plane:
    """Fields: `vector` float32 (2,)."""

    fields = {"vector": FieldSpec((2,), "float32", "vector")}  # noqa: RUF012 - read only
    description = ""

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store; needs no source.

        Args:
            folder: Where the store will be.
            source: Not used.
        """
        rng = np.random.default_rng(_SEED)
        with StoreWriter(
            folder,
            self.fields,
            source="made by rayloom",
            licence="MIT",
            description=f"25,000 points in the plane: {self.description}",
        ) as writer:
            for split, size in SIZES.items():
                writer.add(split, {"vector": self.draw(size, rng).astype(np.float32)})

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Points, (size, 2)."""
        raise NotImplementedError


class TwoMoons(_Plane):
    """Two half circles that reach into each other, with noise of deviation 0.1."""

    description = "two half circles that reach into each other"

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Points, (size, 2)."""
        angle, lower = rng.uniform(0, math.pi, size), rng.integers(0, 2, size) == 1
        x = np.where(lower, 1 - np.cos(angle), np.cos(angle)) - 0.5
        y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle)) - 0.25
        return np.stack([x, y], 1) + 0.1 * rng.standard_normal((size, 2))


class EightGaussians(_Plane):
    """Eight Gaussians of deviation 0.2 on a circle of radius 2, equally likely."""

    description = "eight Gaussians on a circle"
    radius, deviation = 2.0, 0.2

    @classmethod
    def centres(cls) -> np.ndarray:
        """(8, 2)."""
        angle = np.arange(8) * (math.pi / 4)
        return cls.radius * np.stack([np.cos(angle), np.sin(angle)], 1)

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Points, (size, 2)."""
        chosen = self.centres()[rng.integers(0, 8, size)]
        return chosen + self.deviation * rng.standard_normal((size, 2))

    @classmethod
    def log_prob(cls, points: np.ndarray) -> np.ndarray:
        """The true log density at points (..., 2), nats."""
        squares = ((points[..., None, :] - cls.centres()) ** 2).sum(-1)
        exponent = -0.5 * squares / cls.deviation**2
        top = exponent.max(-1)
        total = np.log(np.exp(exponent - top[..., None]).sum(-1)) + top
        return total - math.log(8 * 2 * math.pi * cls.deviation**2)
