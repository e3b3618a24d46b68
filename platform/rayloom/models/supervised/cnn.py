"""Convolutional classifier of pictures.

LeCun, Bottou, Bengio and Haffner, 1998, doi:10.1109/5.726791. Convolutions that halve the picture,
then a perceptron over all of it, and a softmax: log p(y|x) is maximised, one term an example.

Deviations from the paper: softmax and cross entropy instead of radial basis functions; strided
convolutions with ReLU instead of subsampling layers with tanh; dropout (arXiv:1207.0580); Adam.
With `network: {name: mlp, widths: []}` and `hidden: []` it is softmax regression.

Dimension key: B images, C channels, H height, W width, Y classes.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayloom.config.sections import Config, Sizes
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import (
    Batch,
    DataSpec,
    Done,
    Export,
    Part,
    Player,
    Sum,
    Turn,
    operation,
)
from rayloom.functional.classification import f1_macro, worst_recall
from rayloom.media import Images, Media, Table
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.dropout import Dropout, dropout_from
from rayloom.nn.method import Method
from rayloom.nn.mlp import MLP
from rayloom.nn.network import ConvNetwork, NetworkConfig, make_encoder
from rayloom.nn.preprocess import to_unit

SHOWN = 32  # pictures that are shown


class CNNClassifierConfig(Config):
    """Settings of a convolutional classifier (LeCun et al., 1998)."""

    name: Literal["cnn-classifier"] = "cnn-classifier"
    network: NetworkConfig = Field(ConvNetwork(), description="pictures to features")
    hidden: Sizes = Field((128,), description="widths of the perceptron behind it; [] for none")
    dropout: float = Field(0.25, ge=0, lt=1, description="rate before each layer of that")


class CNNClassifier(nn.Module):
    """p(label | image).

    Args:
        config: Settings.
        spec: The data, with fields `image` and `label`.

    Raises:
        UserError: The data have no such fields, or too small pictures for the network.
    """

    config_class: ClassVar[type] = CNNClassifierConfig
    task: ClassVar[str] = "supervised"
    reads: ClassVar[tuple[str, ...]] = ("image", "label")
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/accuracy", "eval/nll_nats", "eval/f1_macro"),
        Metric("eval/recall_worst", "share", "max", "recall of the class that is found least"),
        Metric("loss/accuracy", "share", "max", "examples whose likeliest class is the right one"),
    )
    default_metric: ClassVar[str | None] = "eval/accuracy"

    @classmethod
    def example(cls) -> tuple[CNNClassifierConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        small = ConvNetwork(channels=(4, 6))
        return CNNClassifierConfig(network=small, hidden=(8,)), tiny_images()

    def __init__(self, config: CNNClassifierConfig, spec: DataSpec) -> None:
        super().__init__()
        self.image_shape, self.image_dtype = spec.image.shape, getattr(torch, spec.image.dtype)
        label = spec.fields.get("label")
        if label is None or label.num_classes < 2:
            raise UserError(f"data set {spec.name!r} has no field 'label' of two classes or more")
        self.classes = label.classes or tuple(map(str, range(label.num_classes)))
        self.encoder = make_encoder(config.network, self.image_shape)
        layers: list[nn.Module] = []
        width = self.encoder.out_dim
        for out in (*config.hidden, None):
            layers.append(Dropout(config.dropout))
            layers.append(MLP(width, [out] if out else [], None if out else len(self.classes)))
            width = out or width
        self.head = nn.Sequential(*layers)

    @property
    def players(self) -> tuple[Player, ...]:
        """One."""
        return (Player("model", list(self.parameters())),)

    def logits(self, image: Tensor) -> Float[Tensor, "B Y"]:
        """Unnormalised log p(y|x) of stored images."""
        x = to_unit(image, self.head[-1][-1].weight.dtype)
        return self.head(self.encoder(2.0 * x - 1.0))

    def probabilities(self, image: Tensor) -> Float[Tensor, "B Y"]:
        """p(y|x) of stored images."""
        return self.logits(image).softmax(-1)

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """-log p(y|x) per image, nats."""
        with dropout_from(self, rng):
            logits = self.logits(batch["image"])
        nats = cross_entropy(logits, batch["label"], reduction="none")
        return {"loss": nats, "accuracy": _hits(logits, batch["label"])}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """Per image, and `confusion`: how often class i was taken for class j, (Y, Y)."""
        logits, label = self.logits(batch["image"]), batch["label"]
        nats = cross_entropy(logits, label, reduction="none")
        pair = label * len(self.classes) + logits.argmax(-1)
        confusion = torch.bincount(pair, minlength=len(self.classes) ** 2)
        return {
            "loss": nats,
            "nll_nats": nats,
            "accuracy": _hits(logits, label),
            "confusion": Sum(confusion.view(len(self.classes), -1)),
        }

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """Metrics of the whole confusion matrix."""
        confusion = done.sums["confusion"]
        return {"f1_macro": f1_macro(confusion), "recall_worst": worst_recall(confusion)}

    @operation(reads=("image",), gives={"label": "label", "probability": "vector"})
    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The likeliest class of each image, and the probabilities of all."""
        probability = self.probabilities(batch["image"])
        return {"label": probability.argmax(-1), "probability": probability}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """The worst mistakes on some images, the worst first, and what they were taken for."""
        log_p = self.logits(batch["image"]).log_softmax(-1)
        label, taken = batch["label"], log_p.argmax(-1)
        nats = -log_p.gather(1, label[:, None])[:, 0]
        worst = nats.argsort(descending=True)[:SHOWN]
        return {
            "mistakes": Images(to_unit(batch["image"][worst])),
            "mistakes_told": Table(
                {
                    "class": [self.classes[i] for i in label[worst].tolist()],
                    "taken for": [self.classes[i] for i in taken[worst].tolist()],
                    "nats": nats[worst].tolist(),
                }
            ),
        }

    def exports(self) -> dict[str, Export]:
        """`classifier`: images to the probabilities of the classes."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {"classifier": Export(Method(self, "probabilities"), example)}


def _hits(logits: Float[Tensor, "B Y"], label: Tensor) -> Float[Tensor, " B"]:
    return (logits.argmax(-1) == label).to(logits.dtype)
