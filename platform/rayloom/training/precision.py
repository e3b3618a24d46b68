"""Precision: float32; bfloat16 by autocast in the forward pass; float64 throughout.

Parameters, gradients, optimizer and sums stay in the parameters' own dtype.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from rayloom.core.protocols import Batch

Precision = Literal["fp32", "bf16"]
WARMUP, REPEATS, GAIN = 2, 9, 0.95


def to(fields: Batch, device: torch.device) -> Batch:
    """Fields on the device."""
    return {name: value.to(device) for name, value in fields.items()}


def as_doubles(fields: Batch, device: torch.device) -> Batch:
    """Fields on the device, the floating ones in float64."""
    return {
        name: value.to(device, torch.float64 if value.is_floating_point() else value.dtype)
        for name, value in fields.items()
    }


def under_precision(
    f: Callable[..., Any], precision: str, device: torch.device
) -> Callable[..., Any]:
    """`f` itself, or `f` under bfloat16 autocast."""
    if precision != "bf16":
        return f

    def cast(*args: Any, **settings: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return f(*args, **settings)

    return cast


def probe(
    model: nn.Module, run: Callable[[str], None], device: torch.device
) -> tuple[Precision, dict[str, float]]:
    """Time a forward and backward pass in both precisions; bf16 must be at least 5 % faster.

    The two take turns, and the best pass of each counts, so that other work on the machine does
    not decide. Buffers are put back afterwards; `run` must not touch parameters.

    Args:
        model: The model in training mode.
        run: Does one forward and backward pass in the given precision.
        device: Where the model lives.

    Returns:
        The winner, and the best seconds of each.
    """
    kept = [b.clone() for b in model.buffers()]
    best = dict.fromkeys(("fp32", "bf16"), math.inf)
    try:
        for number in range(WARMUP + REPEATS):
            for precision, seconds in best.items():
                start = time.perf_counter()
                run(precision)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if number >= WARMUP:
                    best[precision] = min(seconds, time.perf_counter() - start)
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
    wins = best["bf16"] < GAIN * best["fp32"]
    return ("bf16" if wins else "fp32"), best
