"""U-Net: the class of every pixel (Ronneberger, Fischer and Brox, 2015, arXiv:1505.04597).

A network that halves the picture several times and doubles it again, each level joined to its
mirror, gives K logits per pixel; the loss is softmax cross-entropy, in nats, mean over the pixels
of a picture:

    -1/P sum_p log softmax(f(x)_p)_{y_p}

How well it does is one confusion matrix of the whole split, so that a class of few pixels counts as
much as the ground: intersection over union of a class is TP / (TP + FP + FN), and mIoU its mean.

Deviations from the paper: residual blocks with group normalisation and padded convolutions
(`rayloom.nn.unet`), so that the mask has the size of the picture; no weights at borders; elastic
deformation is not among the augmentations (`data.augment` has rotation, scale, shift, flips).

Dimension key: B pictures, C channels, H height, W width, P = H W pixels, Y classes.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayloom.config.sections import Config
from rayloom.core.errors import UserError
from rayloom.core.metric_table import Metric, shared
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, Done, Export, Part, Player, Sum, Turn, operation
from rayloom.functional.classification import mean_iou
from rayloom.media import Images, Media
from rayloom.models.examples import Arrays, tiny_images
from rayloom.nn.dropout import dropout_from
from rayloom.nn.method import Method
from rayloom.nn.preprocess import to_unit
from rayloom.nn.unet import UNet, UNetNetwork

SHOWN = 8


class UNetSegmenterConfig(Config):
    """Settings of a U-Net for segmentation (Ronneberger et al., 2015)."""

    name: Literal["unet"] = "unet"
    network: UNetNetwork = Field(
        UNetNetwork(channels=(16, 32, 64), attention_levels=0), description="its levels"
    )


class UNetSegmenter(nn.Module):
    """Pictures to a class per pixel.

    Args:
        config: Settings.
        spec: The data, with fields `image` and `mask` of the same size.

    Raises:
        UserError: The data have no such fields.
    """

    config_class: ClassVar[type] = UNetSegmenterConfig
    task: ClassVar[str] = "supervised"
    reads: ClassVar[tuple[str, ...]] = ("image", "mask")
    metrics: ClassVar[tuple[Metric, ...]] = (
        *shared("eval/loss", "eval/miou"),
        Metric("eval/pixel_accuracy", "share", "max", "pixels whose likeliest class is right"),
        Metric("eval/iou_worst", "share", "max", "intersection over union of the worst class"),
        Metric("loss/pixel_accuracy", "share", "max", "pixels whose likeliest class is right"),
    )
    default_metric: ClassVar[str | None] = "eval/miou"

    @classmethod
    def example(cls) -> tuple[UNetSegmenterConfig, Arrays]:
        """Tiny settings and data, for laws and checks: pictures and where they are bright."""
        image = tiny_images()["image"]
        mask = (image[:, 0] > 120).astype(np.uint8)  # two classes
        small = UNetNetwork(channels=(4, 8), attention_levels=0, groups=2)
        return UNetSegmenterConfig(network=small), {"image": image, "mask": mask}

    def __init__(self, config: UNetSegmenterConfig, spec: DataSpec) -> None:
        super().__init__()
        self.image_shape, self.image_dtype = spec.image.shape, getattr(torch, spec.image.dtype)
        mask = spec.fields.get("mask")
        if mask is None or mask.num_classes < 2 or mask.shape != self.image_shape[1:]:
            have = "none" if mask is None else f"{mask.num_classes} classes of {mask.shape}"
            raise UserError(
                f"data set {spec.name!r} has no field 'mask' of two classes or more in the size of "
                f"its pictures, {self.image_shape[1:]} (it has: {have}); import folders images and "
                "masks, or take emoji-scenes"
            )
        self.num_classes = mask.num_classes
        self.classes = mask.classes or tuple(map(str, range(mask.num_classes)))
        self.network = UNet(config.network, self.image_shape[0], self.num_classes)

    @property
    def players(self) -> tuple[Player, ...]:
        """One."""
        return (Player("model", list(self.parameters())),)

    def logits(self, image: Tensor) -> Float[Tensor, "B Y H W"]:
        """Unnormalised log-probabilities of each pixel's classes."""
        dtype = next(self.network.parameters()).dtype
        return self.network(2.0 * to_unit(image, dtype) - 1.0)

    def probabilities(self, image: Tensor) -> Float[Tensor, "B Y H W"]:
        """p(y_p | x) of each pixel."""
        return self.logits(image).softmax(1)

    def loss(self, batch: Batch, *, rng: Noise, turn: Turn) -> dict[str, Part]:
        """-log p of a pixel's class, nats, mean over the pixels of each picture."""
        with dropout_from(self, rng):
            logits = self.logits(batch["image"])
        return self._told(logits, batch["mask"].long())

    def _told(self, logits: Float[Tensor, "B Y H W"], mask: Tensor) -> dict[str, Part]:
        nats = cross_entropy(logits, mask, reduction="none").flatten(1).mean(1)
        hits = (logits.argmax(1) == mask).flatten(1).to(nats.dtype).mean(1)
        return {"loss": nats, "pixel_accuracy": hits}

    @torch.no_grad()
    def evaluate_batch(self, batch: Batch, *, rng: Noise) -> dict[str, Part]:
        """Per picture, and `confusion`: how often class i was taken for class j, (Y, Y)."""
        logits, mask = self.logits(batch["image"]), batch["mask"].long()
        pair = mask.flatten() * self.num_classes + logits.argmax(1).flatten()
        confusion = torch.bincount(pair, minlength=self.num_classes**2)
        return {
            **self._told(logits, mask),
            "confusion": Sum(confusion.view(self.num_classes, self.num_classes)),
        }

    def summarise(self, done: Done) -> dict[str, Tensor]:
        """Metrics of the whole confusion matrix."""
        mean, worst = mean_iou(done.sums["confusion"])
        return {"miou": mean, "iou_worst": worst}

    @operation(reads=("image",), gives={"mask": "mask"})
    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: Noise, settings: None = None) -> Batch:
        """The likeliest class of each pixel."""
        return {"mask": self.logits(batch["image"]).argmax(1)}

    @torch.no_grad()
    def show(self, batch: Batch, *, rng: Noise) -> dict[str, Media]:
        """Pictures, their masks and the masks that were found, a column each."""
        image, mask = batch["image"][:SHOWN], batch["mask"][:SHOWN].long()
        colours = palette(self.num_classes).to(image.device)
        picture = to_unit(image)[:, :3].expand(-1, 3, -1, -1)
        true, found = colours[mask], colours[self.logits(image).argmax(1)]  # (B, H, W, 3)
        rows = torch.stack([picture, *(c.permute(0, 3, 1, 2) for c in (true, found))])
        return {"masks": Images(rows, columns=len(image))}

    def exports(self) -> dict[str, Export]:
        """`segmenter`: images to the probabilities of each pixel's classes."""
        example = torch.zeros((2, *self.image_shape), dtype=self.image_dtype)
        return {"segmenter": Export(Method(self, "probabilities"), example)}


def palette(num: int) -> Float[Tensor, "num 3"]:
    """Colours of classes: black, then evenly spaced hues."""
    hue: Int[Tensor, " rest"] = torch.arange(num - 1)
    angle = hue[:, None] / max(1, num - 1) + torch.tensor([0.0, 1 / 3, 2 / 3])
    bright = 0.5 + 0.5 * torch.cos(2 * torch.pi * angle)
    return torch.cat([torch.zeros(1, 3), bright])
