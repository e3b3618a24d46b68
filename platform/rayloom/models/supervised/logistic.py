"""Logistic regression, of two classes or many, to its optimum.

Cox, 1958, doi:10.1111/j.2517-6161.1958.tb00292.x (two classes); many by the softmax. With a squared
penalty on the weights the problem is strictly convex: one optimum, found by L-BFGS (Liu and
Nocedal, 1989, doi:10.1007/BF01589116) on the whole data set, from zero.

    minimise over W, b:   sum_n -log p(y_n|x_n) + |W|^2 / (2 C)

Deviations from the paper: the penalty, which Cox does not have (C = infinity); many classes keep a
row of W each, of which the penalty makes the sum over classes zero, instead of a reference class.

Dimension key: B images, D pixels, Y classes, R rows of W (1 for two classes, else Y).
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayloom.config.sections import Config, PositiveFloat
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Export, Part, Player, Sum, Turn, operation
from rayloom.functional.classification import bin_confidences, expected_calibration_error, f1_macro
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.preprocess import to_unit


class LogisticRegressionConfig(Config):
    """Settings of logistic regression (Cox, 1958)."""

    name: Literal["logistic-regression"] = "logistic-regression"
    inverse_penalty: PositiveFloat = Field(
        1.0, description="C: beside the summed loss stands |W|^2 / (2 C); the bias is free"
    )


class LogisticRegression(nn.Module):
    """p(label | image), log-linear in the pixels.

    Args:
        config: Settings.
        spec: The data, with fields `image` and `label`; its number of training rows turns the
            penalty into one an example.

    Raises:
        UserError: The data have no such fields.
    """

    config_class: ClassVar[type] = LogisticRegressionConfig
    task: ClassVar[str] = "supervised"
    reads: ClassVar[tuple[str, ...]] = ("image", "label")
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/accuracy", "eval/nll_nats", "eval/f1_macro", "eval/ece"),
        Metric("loss/nats", "nats/example", "min", "-log p(y|x) without the penalty"),
    )
    default_metric: ClassVar[str | None] = "eval/accuracy"

    @classmethod
    def example(cls) -> tuple[LogisticRegressionConfig, Arrays]:
        """Tiny settings and data, for laws and checks."""
        return LogisticRegressionConfig(), tiny_images()

    def __init__(self, config: LogisticRegressionConfig, spec: DataSpec) -> None:
        super().__init__()
        self.image_shape, self.image_dtype = spec.image.shape, getattr(torch, spec.image.dtype)
        self.num_classes = spec.field("label").num_classes
        if self.num_classes < 2:
            raise UserError(f"data set {spec.name!r} has no field 'label' of two classes or more")
        self.penalty = 1.0 / (config.inverse_penalty * max(1, spec.num_train))
        rows = 1 if self.num_classes == 2 else self.num_classes
        num_inputs = int(torch.Size(self.image_shape).numel())
        self.weight = nn.Parameter(torch.zeros(rows, num_inputs))  # (R, D)
        self.bias = nn.Parameter(torch.zeros(rows))

    @property
    def players(self) -> tuple[Player, ...]:
        """One."""
        return (Player("model", [self.weight, self.bias]),)

    def logits(self, image: Tensor) -> Float[Tensor, "B Y"]:
        """Unnormalised log p(y|x) of stored images; of two classes the first one's are zero."""
        x = to_unit(image, self.weight.dtype).flatten(1)  # (B, D)
        z = x @ self.weight.T + self.bias  # (B, R)
        return torch.cat([torch.zeros_like(z), z], 1) if self.num_classes == 2 else z

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """-log p(y|x) and the example's share of the penalty."""
        logits = self.logits(batch["image"])
        nats = cross_entropy(logits, batch["label"].long(), reduction="none")
        return {"loss": nats + 0.5 * self.penalty * self.weight.square().sum(), "nats": nats}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """Per example; the confusion matrix (Y, Y); confidences by bin."""
        logits, label = self.logits(batch["image"]), batch["label"].long()
        nats = cross_entropy(logits, label, reduction="none")
        confidence, taken = logits.softmax(-1).max(-1)
        hits = (taken == label).to(nats.dtype)
        pairs = torch.bincount(label * self.num_classes + taken, minlength=self.num_classes**2)
        return {
            "loss": nats + 0.5 * self.penalty * self.weight.square().sum(),
            "nll_nats": nats,
            "accuracy": hits,
            "confusion": Sum(pairs.view(self.num_classes, -1)),
            "bins": Sum(bin_confidences(confidence, hits)),
        }

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """Of the whole split."""
        return {
            "f1_macro": f1_macro(done.sums["confusion"]),
            "ece": expected_calibration_error(done.sums["bins"]),
        }

    # Use ----------------------------------------------------------------------------------------

    @operation(reads=("image",), gives={"label": "label", "probability": "vector"})
    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The likeliest class of each image, and the probabilities of all."""
        probability = self.logits(batch["image"]).softmax(-1)
        return {"label": probability.argmax(-1), "probability": probability}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """The weights of each class as pictures, around middle grey."""
        scaled = self.weight / self.weight.abs().amax(1, keepdim=True).clamp_min(1e-12)
        return {"weights": Images((0.5 + 0.5 * scaled).unflatten(1, self.image_shape))}

    def exports(self) -> dict[str, Export]:
        """`classifier`: images to the probabilities of the classes."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {"classifier": Export(Probabilities(self), example)}


class Probabilities(nn.Module):
    """Images (B, C, H, W) to the probabilities of the classes (B, Y).

    Args:
        model: Whose weights are shared.
    """

    def __init__(self, model: LogisticRegression) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities."""
        return self.model.logits(image).softmax(-1)
