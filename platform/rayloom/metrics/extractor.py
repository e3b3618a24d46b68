"""Classifiers of our own whose features the metrics of samples are in.

Each is trained on the training split of one data set by
`python -m rayloom_pipelines.benchmarks.extractor NAME`, and shipped: weights, and a card with data
set, seed, commit, accuracy on the test split and SHA-256.

Dimension key: B images, C channels, H height, W width, F features, K classes.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn

from rayloom.core.errors import UserError
from rayloom.core.protocols import DataSpec
from rayloom.nn.preprocess import to_unit

FOLDER = Path(__file__).parent / "extractors"
FEATURES = 64


class Extractor(nn.Module):
    """A small convolutional classifier; its features are the last hidden layer.

    Args:
        channels: C.
        num_classes: K.
        title: Name and hash, for protocols.
    """

    def __init__(self, channels: int, num_classes: int, title: str = "") -> None:
        super().__init__()
        self.num_classes, self.title = num_classes, title
        self.stages = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
        )
        self.features = nn.Sequential(nn.Linear(64 * 9, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, image: Tensor) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B K"]]:
        """Features and logits of images, uint8 or floating in [0, 1], (B, C, H, W)."""
        x = to_unit(image, torch.float32)
        features = self.features(self.stages(x).flatten(1))
        return features, self.head(features)


def cards() -> dict[str, dict[str, Any]]:
    """What is known of each shipped extractor, by the name of its data set."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(FOLDER.glob("*.json"))
    }


def load_extractor(spec: DataSpec) -> Extractor:
    """The extractor of a data set, in evaluation mode.

    Raises:
        UserError: There is none, its pictures have another shape, or the file is not the one that
            its card tells of.
    """
    known = cards()
    card = known.get(spec.name)
    if card is None:
        raise UserError(
            f"evaluation.metrics: no feature extractor for data set {spec.name!r}; there are some "
            f"for {', '.join(known) or 'none'}"
        )
    shape = list(spec.image.shape)
    if shape != card["image_shape"]:
        raise UserError(
            f"evaluation.metrics: the extractor {spec.name} takes pictures of "
            f"{card['image_shape']}, the data have {shape}"
        )
    data = (FOLDER / f"{spec.name}.safetensors").read_bytes()
    found = sha256(data).hexdigest()
    if found != card["sha256"]:
        raise UserError(f"the extractor {spec.name} is damaged: {found[:12]}; reinstall rayloom")
    title = f"{spec.name} extractor {found[:12]}"
    extractor = Extractor(shape[0], card["num_classes"], title)
    extractor.load_state_dict(load(data))
    return extractor.requires_grad_(False).eval()
