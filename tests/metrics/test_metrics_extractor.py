"""The classifiers that are shipped are those that their cards tell of."""

import pytest
import torch

from rayloom.core.errors import UserError
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.metrics import extractor as shipped
from rayloom.metrics.extractor import cards, load_extractor


def test_a_shipped_extractor_is_the_one_its_card_tells_of(monkeypatch, tmp_path):
    for name, card in cards().items():
        field = FieldSpec(tuple(card["image_shape"]), "uint8", "image")
        model = load_extractor(DataSpec({"image": field}, name))
        image = torch.zeros(2, *card["image_shape"], dtype=torch.uint8)
        assert model(image)[1].shape == (2, card["num_classes"])
        assert card["test_accuracy"] > 0.89
    (tmp_path / "fashion-mnist.json").write_text(
        (shipped.FOLDER / "fashion-mnist.json").read_text()
    )
    data = (shipped.FOLDER / "fashion-mnist.safetensors").read_bytes()
    (tmp_path / "fashion-mnist.safetensors").write_bytes(data[:-1] + b"x")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    field = FieldSpec((1, 28, 28), "uint8", "image")
    with pytest.raises(UserError, match="damaged"):
        load_extractor(DataSpec({"image": field}, "fashion-mnist"))
