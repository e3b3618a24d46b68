"""Train and write the classifier whose features compare samples of a data set.

    python -m rayloom_pipelines.benchmarks.extractor fashion-mnist

The weights and their card go to `rayloom/metrics/extractors/`; see `rayloom.metrics.extractor`.
"""

import argparse
import json
from hashlib import sha256
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from rayloom.config.sections import DataConfig
from rayloom.core.seeding import stream_seed
from rayloom.data import make_source, open_dataset
from rayloom.metrics.extractor import FOLDER, Extractor

EPOCHS, BATCH, RATE, SEED = 8, 128, 2e-3, 0


def train(name: str, *, epochs: int = EPOCHS, seed: int = SEED) -> tuple[Extractor, dict[str, Any]]:
    """An extractor for the pictures and labels of a data set, and its card.

    Args:
        name: Of the data set; it has the fields `image` and `label`.
        epochs: Passes, with a learning rate that falls to zero as a cosine.
        seed: Of weights and order.
    """
    dataset = open_dataset(DataConfig(name=name))
    label = dataset.spec.fields["label"]
    source = make_source(dataset, "train", batch_size=BATCH, seed=seed, shuffle=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "extractor"))
        model = Extractor(dataset.spec.image.shape[0], label.num_classes)
    steps = epochs * source.batches_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(steps):
        fields = source.batch(number).fields
        optimizer.zero_grad()
        cross_entropy(model(fields["image"])[1], fields["label"].long()).backward()
        optimizer.step()
        schedule.step()
    held_out = make_source(dataset, "test", batch_size=500, seed=0, shuffle=False)
    card = {
        "dataset": name,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.spec.image.shape),
        "num_classes": label.num_classes,
        "seed": seed,
        "epochs": epochs,
        "test_accuracy": accuracy(model.eval(), held_out),
    }
    return model, card


@torch.no_grad()
def accuracy(model: Extractor, source: Any) -> float:
    """Share of a split's rows whose class it tells."""
    right: list[Tensor] = []
    for number in range(source.batches_per_epoch):
        fields = source.batch(number).fields
        right.append(model(fields["image"])[1].argmax(1) == fields["label"])
    return float(torch.cat(right).double().mean())


def main() -> None:
    """Train one and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    name: str = parser.parse_args().name
    model, card = train(name)
    data = save({key: value.contiguous() for key, value in model.state_dict().items()})
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.safetensors").write_bytes(data)
    card["sha256"] = sha256(data).hexdigest()
    text = json.dumps(card, indent=2) + "\n"
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
