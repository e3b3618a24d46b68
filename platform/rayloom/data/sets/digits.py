"""The 1,797 handwritten digits, 8x8, that scikit-learn ships (Alpaydin and Kaynak, 1998).

Levels 0..16 become 0..255 as `(level * 255 + 8) // 16`. The order is that of a hash of the
pictures (`ordering.content_order`); the first 360 are the split `test`, the other 1,437 `train`.
This split is rayloom's own: do not compare with numbers on another one.
"""

from pathlib import Path

import numpy as np

from rayloom.core.protocols import FieldSpec
from rayloom.data.ordering import array_order
from rayloom.data.store.writer import StoreWriter

NUM_TEST = 360


class Digits:
    """Fields: `image` uint8 (1, 8, 8) and `label` int64."""

    fields = {  # noqa: RUF012 - read only
        "image": FieldSpec((1, 8, 8), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 10),
    }

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store; needs no source but scikit-learn.

        Args:
            folder: Where the store will be.
            source: Not used.
        """
        from sklearn.datasets import load_digits

        raw = load_digits()
        levels = raw.images.astype(np.int64)  # (1797, 8, 8), 0..16
        image = ((levels * 255 + 8) // 16).astype(np.uint8)[:, None]
        label = raw.target.astype(np.int64)
        order = array_order(image, "digits")
        with StoreWriter(
            folder,
            self.fields,
            source="scikit-learn, sklearn.datasets.load_digits (UCI optdigits, test part)",
            licence="BSD-3-Clause (scikit-learn); UCI: CC-BY-4.0",
            description="1,797 handwritten digits, 8x8 grey",
            classes={"label": [str(digit) for digit in range(10)]},
        ) as writer:
            for split, rows in (("train", order[NUM_TEST:]), ("test", order[:NUM_TEST])):
                writer.add(split, {"image": image[rows], "label": label[rows]})
