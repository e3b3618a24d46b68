"""The two photographs that scikit-learn ships, 64x96: something to fit one picture to.

The middle 384x576 pixels of each, averaged over blocks of 6x6.
"""

from pathlib import Path

import numpy as np

from rayloom.core.protocols import FieldSpec
from rayloom.data.store.writer import StoreWriter

NAMES = ("china", "flower")
BLOCK, HEIGHT, WIDTH = 6, 64, 96


class Photographs:
    """Fields: `image` uint8 (3, 64, 96) and `label` int64; one split, `train`."""

    fields = {  # noqa: RUF012 - read only
        "image": FieldSpec((3, HEIGHT, WIDTH), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", len(NAMES)),
    }

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store; needs no source but scikit-learn.

        Args:
            folder: Where the store will be.
            source: Not used.
        """
        from sklearn.datasets import load_sample_image

        image = np.stack([small(load_sample_image(f"{name}.jpg")) for name in NAMES])
        with StoreWriter(
            folder,
            self.fields,
            source="scikit-learn, sklearn.datasets.load_sample_image",
            licence="CC-BY (china.jpg: danielbuechele; flower.jpg: vultilion)",
            description="two photographs, 64x96, colour",
            classes={"label": list(NAMES)},
        ) as writer:
            writer.add("train", {"image": image, "label": np.arange(len(NAMES))})


def small(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) to (3, 64, 96): block means of the middle, rounded."""
    top = (pixels.shape[0] - BLOCK * HEIGHT) // 2
    left = (pixels.shape[1] - BLOCK * WIDTH) // 2
    middle = pixels[top : top + BLOCK * HEIGHT, left : left + BLOCK * WIDTH].astype(np.float64)
    means = middle.reshape(HEIGHT, BLOCK, WIDTH, BLOCK, 3).mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8).transpose(2, 0, 1)
