"""What `auto` means for a device and for threads on this machine."""

import math
import os

import torch

from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import DataSpec


def choose_device(config: RunConfig) -> str:
    """`resources.device`, with `auto` decided: CUDA where there is one.

    Raises:
        UserError: A CUDA device was asked for and there is none.
    """
    asked = config.resources.device
    available = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if available and config.trainable == "engine" else "cpu"
    if asked.startswith("cuda") and not available:
        raise UserError(f"resources.device: {asked!r}, but this machine has no CUDA device")
    return asked


SMALL_BATCH = 50_000  # values in a batch: 128 pictures of 28x28 are 100,000, of 8x8 8,000


def choose_threads(config: RunConfig, spec: DataSpec | None = None) -> int:
    """Torch threads: the config's, else OMP_NUM_THREADS, else what such a run gains from.

    Small networks of RL lose by more than one thread, and so do batches of tiny examples; larger
    ones gain up to the machine's cores.
    """
    if config.resources.threads != "auto":
        return int(config.resources.threads)
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said) > 0:
        return int(said)
    if config.trainable == "rollouts":
        return 1
    if spec is not None and config.data is not None:
        values = sum(abs(math.prod(field.shape)) for field in spec.fields.values())
        size = config.data.batch_size
        if values * (spec.num_train if size == "all" else size) < SMALL_BATCH:
            return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, 8))
