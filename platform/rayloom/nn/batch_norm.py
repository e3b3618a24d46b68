"""Batch normalisation over the global batch, on any number of workers, CPUs included.

Ioffe and Szegedy, 2015, arXiv:1502.03167. Statistics are sums over all workers' rows, by an
all-reduce that can be differentiated twice, so that gradient penalties pass through it.
`torch.nn.SyncBatchNorm` refuses CPUs, and a plain `BatchNorm` on N workers is another function.

Dimension key: B examples of the local slice, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rayloom.core.collective import Solo
from rayloom.core.protocols import Collective


class _SumOverRanks(torch.autograd.Function):
    """y_r = sum_s x_s on every rank r; the gradient is the same sum, hence any order works."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, collective: Collective) -> Tensor:
        ctx.collective = collective
        return collective.all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return sum_over_ranks(grads[0], ctx.collective), None


def sum_over_ranks(tensor: Tensor, collective: Collective) -> Tensor:
    """Sum over the workers; differentiable any number of times; the tensor is left alone.

    Every rank must call it, in the same order, also with an empty slice, and every rank must
    also run the backward pass: the gradient of a rank's loss is summed over the ranks.
    """
    if collective.world == 1:
        return tensor
    return _SumOverRanks.apply(tensor, collective)


def set_collective(module: nn.Module, collective: Collective) -> None:
    """Give the workers' collective to every submodule that has an attribute `collective`."""
    for part in module.modules():
        if hasattr(part, "collective"):
            setattr(part, "collective", collective)  # noqa: B010 - modules type their attributes


class GlobalBatchNorm(nn.Module):
    """Batch normalisation with the statistics of the whole global batch.

    Takes (B, C) or (B, C, *space); B may be 0 on some worker. One worker gives what
    `torch.nn.BatchNorm1d/2d/3d` gives. Accumulation chunks would change the statistics, so the
    engine refuses `train.accumulate` above 1 with it (`whole_batch`).

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Share of the new statistics in the running ones.
        affine: Whether a scale and a shift per channel are learned.
    """

    whole_batch = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.collective: Collective = Solo()
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel; in training also update the running statistics."""
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected (B, {self.num_features}, ...), got {tuple(x.shape)}")
        shape = (1, self.num_features) + (1,) * (x.ndim - 2)
        mean, var = self._batch_statistics(x) if self.training else self._running_statistics()
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = (x - mean.view(shape)) * scale.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)

    def _running_statistics(self) -> tuple[Tensor, Tensor]:
        return self.running_mean, self.running_var

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance per channel, two passes so that large means cost no digits."""
        x = x if x.dtype == torch.float64 else x.float()  # under autocast x may be half precision
        axes = [0, *range(2, x.ndim)]
        rows = x.numel() // self.num_features
        count = x.new_full((1,), float(rows))
        totals = sum_over_ranks(torch.cat([x.sum(axes), count]), self.collective)  # (C + 1,)
        number = totals[-1].detach().clamp(min=1)
        mean = totals[:-1] / number
        centred = x - mean.view((1, self.num_features) + (1,) * (x.ndim - 2))
        var = sum_over_ranks(centred.square().sum(axes), self.collective) / number
        with torch.no_grad():
            unbiased = var * (number / (number - 1).clamp(min=1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return mean, var

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
