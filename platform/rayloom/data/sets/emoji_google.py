"""3,786 emoji as Google draws them, 64x64 with transparency (npm `emoji-datasource-google` 16.0.0).

Split by base character (`emoji`): a tenth is `test`. The split is rayloom's own.
"""

from pathlib import Path

import numpy as np

from rayloom.core.protocols import FieldSpec
from rayloom.data.sets import emoji
from rayloom.data.store.writer import StoreWriter
from rayloom.data.text.tokenizers import Bytes


class EmojiGoogle:
    """Fields: `image` RGBA, `label` (the category), `skin_tone` and `name`."""

    fields = {  # noqa: RUF012 - read only
        "image": FieldSpec((4, emoji.SIDE, emoji.SIDE), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", len(emoji.CATEGORIES), emoji.CATEGORIES),
        "skin_tone": FieldSpec((), "int64", "label", len(emoji.TONES), emoji.TONES),
        "name": FieldSpec((-1,), "uint8", "text", 256),
    }

    def prepare(self, folder: Path, *, source: Path | None = None) -> None:
        """Write the store.

        Args:
            folder: Where the store will be.
            source: Local folder with `emoji-datasource-google-16.0.0.tgz`, or unpacked.

        Raises:
            UserError: No way led to the files; tells the reason of each.
        """
        found, way = emoji.read(folder.name, source)
        with StoreWriter(
            folder,
            self.fields,
            source=f"npm package {emoji.PACKAGE} {emoji.VERSION}, from {way}",
            licence="Apache-2.0 (pictures, Google Noto Emoji); MIT (package)",
            description=f"{len(found):,} emoji, 64x64 RGBA, 10 categories",
            tokenizers={"name": Bytes().plain()},
        ) as writer:
            for name, chosen in emoji.split(found, "emoji-google").items():
                if chosen:
                    writer.add(name, _rows(chosen))


def _rows(chosen: list[emoji.Emoji]) -> dict[str, np.ndarray | list[np.ndarray]]:
    return {
        "image": np.stack([one.image for one in chosen]),
        "label": np.array([one.category for one in chosen], np.int64),
        "skin_tone": np.array([one.tone for one in chosen], np.int64),
        "name": [np.frombuffer(one.name.encode(), np.uint8) for one in chosen],
    }
