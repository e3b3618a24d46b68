"""Drawing samples, and writing them to files."""

from pathlib import Path
from typing import Any

import torch

from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.seeding import stream_seed

CHUNK = 256  # samples drawn at a time
BLOCK = 16  # samples that share noise: what a single one costs


def draw(model: Any, num: int, *, seed: int, start: int = 0) -> torch.Tensor:
    """Samples number `start` to `start + num` of the sequence that `seed` names.

    Every block of 16 has its own noise, so that a longer draw starts like a shorter one and
    workers can draw chunks of 256 apart. (Its last digits may differ: how a matrix product is
    summed depends on the number of rows.)

    Args:
        model: With a method `sample(num, *, rng)`.
        num: How many.
        seed: Of the sequence.
        start: First one; a multiple of 256.

    Raises:
        UserError: The model cannot sample.
    """
    if not hasattr(model, "sample"):
        raise UserError(f"{type(model).__name__} cannot draw samples")
    if start % CHUNK:
        raise ValueError(f"start is {start}, not a multiple of {CHUNK}")
    like = next(model.parameters())
    blocks = []
    for first in range(start, start + num, CHUNK):
        wanted = min(CHUNK, start + num - first)
        rows = -(-wanted // BLOCK) * BLOCK
        rng = Noise(
            stream_seed(seed, "samples"),
            step=first // CHUNK,
            total=rows,
            device=like.device,
            dtype=like.dtype,
            block=BLOCK,
        )
        with torch.no_grad():
            blocks.append(model.sample(rows, rng=rng)[:wanted].cpu())
    return torch.cat(blocks)


def write(samples: torch.Tensor, out: Path) -> Path:
    """Write samples as a picture grid (.png), an array (.npy, .npz) or a tensor (.safetensors).

    Raises:
        UserError: Another ending, or samples that are no pictures for a .png.
    """
    import numpy as np

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npy":
            np.save(out, samples.numpy())
        elif out.suffix == ".npz":
            np.savez_compressed(out, samples=samples.numpy())
        elif out.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({"samples": samples.contiguous()}, out)
        elif out.suffix == ".png":
            from PIL import Image

            from rayloom.media.grid import tile, visible

            if samples.ndim != 4:
                raise UserError(f"{out}: samples of shape {tuple(samples.shape)} are no pictures")
            Image.fromarray(tile(visible(samples))).save(out)
        else:
            raise UserError(f"--out {out}: must end in .png, .npy, .npz or .safetensors")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return out
