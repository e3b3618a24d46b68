"""A set larger than memory, made and trained on: what `rayloom bench data` and a test measure."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rayloom.core.protocols import FieldSpec
from rayloom.core.seeding import numpy_stream
from rayloom.data.dataset import open_store
from rayloom.data.source import make_source
from rayloom.data.store.writer import StoreWriter

SIDE = 64  # pixels; an example has SIDE * SIDE bytes and a label of 8
_LR = 2e-3
_BLOCK = 2048  # examples written at once: 8 MiB


def write_noise(folder: Path, num_bytes: int, *, seed: int = 0) -> int:
    """Write a store of random 64x64 pictures whose label is the quarter that is black.

    Args:
        folder: Where; its parent must have room for twice as much while writing.
        num_bytes: Size of the pictures, in bytes.
        seed: Seed of the pictures.

    Returns:
        The number of examples.
    """
    total = max(1, num_bytes // (SIDE * SIDE))
    fields = {
        "image": FieldSpec((1, SIDE, SIDE), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 4),
    }
    with StoreWriter(folder, fields, source="random numbers", licence="CC0") as writer:
        for start in range(0, total, _BLOCK):
            rng = numpy_stream(seed, "noise", start)
            count = min(_BLOCK, total - start)
            image = rng.integers(0, 256, (count, 1, SIDE, SIDE), np.uint8)
            label = rng.integers(0, 4, count)
            for quarter in range(4):  # something to learn
                image[label == quarter, :, 16 * quarter : 16 * quarter + 16] = 0
            writer.add("train", {"image": image, "label": label})
    return total


def peak_rss() -> int:
    """Largest resident set of this process so far, in bytes (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no VmHWM")


def train_on(
    folder: Path,
    *,
    grad_steps: int,
    batch_size: int = 256,
    shuffle_window: int = 0,
    budget: int | None = None,
) -> dict[str, Any]:
    """Train a small classifier on a store and report the memory it took.

    Args:
        folder: The store.
        grad_steps: Batches to train on, in order from the first.
        batch_size: Examples per batch.
        shuffle_window: As in `make_source`.
        budget: As in `open_store`.

    Returns:
        `bytes` of the split, `examples`, `seen`, `streamed`, `peak_rss_bytes`, `loss_first`,
        `loss_last` (means over 20 steps), `examples_per_s` and `open_s` (verification included).
    """
    began = time.perf_counter()
    dataset = open_store(folder, budget)
    opened = time.perf_counter()
    source = make_source(
        dataset,
        "train",
        batch_size=batch_size,
        seed=0,
        shuffle=True,
        shuffle_window=shuffle_window,
    )
    net = nn.Linear(SIDE * SIDE, 4)
    nn.init.zeros_(net.weight)
    losses, seen = [], 0
    for number in range(grad_steps):
        local = source.batch(number)
        pixels = local.fields["image"].flatten(1).float() / 255 - 0.5  # (B, SIDE * SIDE)
        loss = nn.functional.cross_entropy(net(pixels), local.fields["label"])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():  # torch.optim would import a compiler of 200 MB
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.sub_(_LR * gradient)
        losses.append(loss.item())
        seen += local.total
    return {
        "bytes": dataset.manifest["splits"]["train"]["num_bytes"],
        "examples": len(dataset.split("train")),
        "seen": seen,
        "streamed": dataset.split("train").streamed,
        "peak_rss_bytes": peak_rss(),
        "loss_first": sum(losses[:20]) / len(losses[:20]),
        "loss_last": sum(losses[-20:]) / len(losses[-20:]),
        "examples_per_s": seen / (time.perf_counter() - opened),
        "open_s": opened - began,
    }
