"""The engine augments training batches, and those alone."""

import torch

from rayloom.config.sections import DataConfig, RunConfig, TrainConfig
from rayloom.core.protocols import Player
from rayloom.data import from_arrays, make_source
from rayloom.training.engine import Engine


class Looker(torch.nn.Module):
    """Hands on what it is shown."""

    def __init__(self, trained, scored):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.note_trained, self.note_scored = trained.append, scored.append

    @property
    def players(self):
        return (Player("model", tuple(self.parameters())),)

    def loss(self, batch, *, rng, turn):
        self.note_trained(batch["image"].clone())
        return {"loss": self.weight.expand(len(batch["image"]))}

    def evaluate_batch(self, batch, *, rng):
        self.note_scored(batch["image"].clone())
        return {"loss": self.weight.expand(len(batch["image"]))}


class Sink:
    def scalars(self, step, values):
        pass


def test_training_batches_are_augmented_and_no_others():
    images = torch.arange(8 * 16).reshape(8, 1, 4, 4).to(torch.uint8)
    data = from_arrays("d", {"train": {"image": images}, "test": {"image": images}})
    flip = {"name": "flip", "probability": 1.0}
    config = RunConfig(data=DataConfig(name="d", augment=[flip]), train=TrainConfig(grad_steps=2))
    trained, scored = [], []
    model = Looker(trained, scored)
    train = make_source(data, "train", batch_size=8, seed=0, shuffle=False)
    test = make_source(data, "test", batch_size=8, seed=0, shuffle=False)
    engine = Engine(model, config, train, test)
    engine.advance(2, sink=Sink(), interrupted=lambda: False)
    engine.evaluate()
    assert all(torch.equal(seen, images.flip(-1)) for seen in trained)
    assert len(trained) == 2
    assert all(torch.equal(seen, images) for seen in scored)
