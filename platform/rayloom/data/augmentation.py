"""Augmentation of a batch on its device: pictures, masks and key points moved together.

Dimension key: B examples of the local slice, K key points, C channels.

What is drawn comes from the batch's global noise, row by row: the same on any number of workers and
chunks, and after a resume. Transforms of place in a row are joined to one affine map per example,
so that a picture is sampled once: bilinear for pictures, nearest for masks; beyond the border the
border's value is met. A map goes from places in the picture before to places in the one after, in
pixels, x to the right and y down, (0, 0) the middle of the first pixel.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rayloom.config.augment import (
    BlurConfig,
    ChannelDropoutConfig,
    FlipConfig,
    NoiseConfig,
    RotateConfig,
    SaltPepperConfig,
    ScaleConfig,
    ShiftConfig,
    TransformConfig,
)
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import Batch, DataSpec, FieldSpec

PLACE = (RotateConfig, FlipConfig, ShiftConfig, ScaleConfig)


def check_augment(transforms: Sequence[TransformConfig], spec: DataSpec) -> None:
    """Whether the transforms fit the data.

    Raises:
        UserError: There is no picture, or a picture or mask of another size; says which.
    """
    if not transforms:
        return
    try:
        size = spec.image.shape[1:]
    except UserError as error:
        raise UserError(f"data.augment: {error}") from None
    for name, field in spec.fields.items():
        if field.kind in ("image", "mask") and field.shape[-2:] != size:
            raise UserError(
                f"data.augment moves pictures and masks of one size: `image` is {size}, {name!r} "
                f"is {field.shape[-2:]}"
            )


def augment(
    batch: Batch, rng: Noise, transforms: Sequence[TransformConfig], spec: DataSpec
) -> Batch:
    """The batch with its examples transformed; what is no picture, mask or key point stays.

    Args:
        batch: Fields of the local slice, on its device. It is not changed.
        rng: Noise of the batch.
        transforms: In the order in which they act.
        spec: Of the data: which fields are what.
    """
    if not transforms:
        return batch
    made = dict(batch)
    place = 0
    while place < len(transforms):
        first = place
        while place < len(transforms) and isinstance(transforms[place], PLACE):
            place += 1
        if place > first:
            names = range(first, place)
            _move(made, rng, [(k, transforms[k]) for k in names], spec.fields)
            continue
        made["image"] = _shade(made["image"], rng, place, transforms[place])
        place += 1
    return made


# Transforms of place -----------------------------------------------------------------------------


def _move(
    batch: Batch,
    rng: Noise,
    steps: Sequence[tuple[int, TransformConfig]],
    fields: Mapping[str, FieldSpec],
) -> None:
    height, width = batch["image"].shape[-2:]
    matrix = identity(len(batch["image"]), batch["image"].device)
    for number, step in steps:
        drawn = _matrix(step, rng, f"augment.{number}", height, width)
        acts = _acts(step.probability, rng, number)
        matrix = torch.where(acts[:, None, None], drawn, identity(1, drawn.device)) @ matrix
    for name, value in list(batch.items()):
        kind = fields[name].kind if name in fields else ""
        if kind == "image":
            batch[name] = sample(value, matrix)
        elif kind == "mask":
            batch[name] = sample(value.unsqueeze(1), matrix, nearest=True).squeeze(1)
        elif kind == "keypoints":
            batch[name] = move_points(value, matrix)


def identity(num: int, device: torch.device | str = "cpu") -> Tensor:
    """The map that moves nothing, (num, 3, 3)."""
    return torch.eye(3, device=device).repeat(num, 1, 1)


def _uniform(rng: Noise, name: str, low: float, high: float) -> Tensor:
    return low + (high - low) * rng.uniform(name).float()


def _acts(probability: float, rng: Noise, number: int) -> Tensor:
    """Bool (B,)."""
    return rng.uniform(f"augment.{number}.acts") < probability


def _matrix(step: TransformConfig, rng: Noise, name: str, height: int, width: int) -> Tensor:
    """The map of one transform, (B, 3, 3)."""
    if isinstance(step, RotateConfig):
        return rotation(_uniform(rng, name, -step.degrees, step.degrees), height, width)
    if isinstance(step, ScaleConfig):
        factor = _uniform(rng, name, math.log(step.low), math.log(step.high)).exp()
        return about_middle(torch.diag_embed(torch.stack([factor, factor], 1)), height, width)
    if isinstance(step, ShiftConfig):
        made = identity(len(rng), rng.device)
        made[:, 0, 2] = _uniform(rng, f"{name}.x", -1, 1) * step.fraction * width
        made[:, 1, 2] = _uniform(rng, f"{name}.y", -1, 1) * step.fraction * height
        return made
    assert isinstance(step, FlipConfig)
    signs = [-1.0, 1.0] if step.axis == "horizontal" else [1.0, -1.0]
    turned = torch.diag(torch.tensor(signs, device=rng.device)).expand(len(rng), 2, 2)
    return about_middle(turned, height, width)


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """The map that turns a picture anticlockwise about its middle, (B, 3, 3).

    Args:
        degrees: (B,).
        height: Pixels.
        width: Pixels.
    """
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    return about_middle(turned, height, width)


def about_middle(linear: Tensor, height: int, width: int) -> Tensor:
    """The map with a linear part (B, 2, 2) that leaves the middle where it is, (B, 3, 3)."""
    made = identity(len(linear), linear.device)
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=linear.device)
    made[:, :2, :2] = linear
    made[:, :2, 2] = middle - linear @ middle
    return made


def sample(images: Tensor, matrix: Tensor, *, nearest: bool = False) -> Tensor:
    """Pictures (B, C, H, W) after a map; whole numbers are rounded to the nearest.

    Args:
        images: Of any dtype.
        matrix: (B, 3, 3), from places before to places after.
        nearest: Take the nearest pixel's value, as masks need it.
    """
    if not len(images):
        return images
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device, dtype=torch.float32),
        torch.arange(width, device=images.device, dtype=torch.float32),
        indexing="ij",
    )
    after = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)  # (3, H * W)
    before = torch.linalg.inv(matrix.double()).float() @ after  # (B, 3, H * W)
    x, y = before[:, 0], before[:, 1]
    if nearest:
        column = x.round().clamp(0, width - 1).long()
        row = y.round().clamp(0, height - 1).long()
        index = (row * width + column).unsqueeze(1).expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, index).reshape(images.shape)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    wide = images if images.is_floating_point() else images.float()
    moved = functional.grid_sample(
        wide,
        grid.reshape(-1, height, width, 2).to(wide.dtype),
        padding_mode="border",
        align_corners=False,
    )
    return moved if images.is_floating_point() else moved.round().to(images.dtype)


def move_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Key points (B, K, 2) after a map."""
    linear, shift = matrix[:, :2, :2].to(points.dtype), matrix[:, :2, 2].to(points.dtype)
    return points @ linear.mT + shift.unsqueeze(1)


# Transforms of shade -----------------------------------------------------------------------------


def _shade(images: Tensor, rng: Noise, number: int, step: TransformConfig) -> Tensor:
    """Pictures after a transform of their values, in their dtype and range."""
    if not len(images):
        return images
    top = 1.0 if images.is_floating_point() else 255.0
    name, wide = f"augment.{number}", images.float() / top
    if isinstance(step, NoiseConfig):
        made = wide + step.std * rng.normal(name, *images.shape[1:]).float()
    elif isinstance(step, BlurConfig):
        made = blur(wide, _uniform(rng, name, 0, step.sigma), step.sigma)
    elif isinstance(step, SaltPepperConfig):
        drawn = rng.uniform(name, 1, *images.shape[2:]).float()  # all channels of a pixel
        made = torch.where(drawn < step.share / 2, 0.0, wide)
        made = torch.where(drawn > 1 - step.share / 2, 1.0, made)
    else:
        assert isinstance(step, ChannelDropoutConfig)
        channels = images.shape[1]
        lost = rng.integers(name, channels).unsqueeze(1) == torch.arange(
            channels, device=images.device
        )
        made = wide.masked_fill(lost[:, :, None, None], 0.0)
    acts = _acts(step.probability, rng, number)[:, None, None, None]
    made = made.clamp(0, 1) * top
    made = made.round().to(images.dtype) if top != 1.0 else made.to(images.dtype)
    return torch.where(acts, made, images)


def blur(images: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Pictures through Gaussians of their own widths.

    Args:
        images: (B, C, H, W), floating.
        sigma: (B,), pixels, from 0 to `most`.
        most: What the kernel has room for.
    """
    num, channels, height, width = images.shape
    radius = min(math.ceil(3 * most), height - 1, width - 1)
    offset = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    width_ = sigma.to(images.dtype).clamp(min=1e-3).unsqueeze(1)
    kernel = torch.exp(-0.5 * (offset / width_) ** 2)  # (B, 2 radius + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = images.reshape(1, num * channels, height, width)
    across = functional.conv2d(
        functional.pad(flat, (radius, radius, 0, 0), mode="reflect"),
        kernel[:, None, None, :],
        groups=num * channels,
    )
    down = functional.conv2d(
        functional.pad(across, (0, 0, radius, radius), mode="reflect"),
        kernel[:, None, :, None],
        groups=num * channels,
    )
    return down.reshape(images.shape)
