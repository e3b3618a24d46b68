"""Precision of the forward pass: float32, or bfloat16 by autocast where it wins.

Parameters, gradients, optimizer and sums stay in the parameters' own dtype.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]
WARMUP, REPEATS, GAIN = 2, 5, 0.95


def under_precision(
    f: Callable[..., Any], precision: str, device: torch.device
) -> Callable[..., Any]:
    """`f` itself, or `f` under bfloat16 autocast."""
    if precision == "fp32":
        return f

    def cast(*args: Any, **settings: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return f(*args, **settings)

    return cast


def probe(
    model: nn.Module, run: Callable[[str], None], device: torch.device
) -> tuple[Precision, dict[str, float]]:
    """Time a forward and backward pass in both precisions; bf16 must be at least 5 % faster.

    Buffers are put back afterwards; `run` must not touch parameters.

    Args:
        model: The model in training mode.
        run: Does one forward and backward pass in the given precision.
        device: Where the model lives.

    Returns:
        The winner, and the median seconds of each.
    """
    kept = [b.clone() for b in model.buffers()]
    medians: dict[str, float] = {}
    try:
        for precision in ("fp32", "bf16"):
            times = []
            for number in range(WARMUP + REPEATS):
                start = time.perf_counter()
                run(precision)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if number >= WARMUP:
                    times.append(time.perf_counter() - start)
            medians[precision] = statistics.median(times)
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
    wins = medians["bf16"] < GAIN * medians["fp32"]
    return ("bf16" if wins else "fp32"), medians
