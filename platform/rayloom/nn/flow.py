"""Invertible layers: each gives y and log |det dy/dx| of every example, and can be undone.

Kingma and Dhariwal, 2018, arXiv:1807.03039 (ActNorm, the 1x1 convolution by its LU factors);
Dinh, Sohl-Dickstein and Bengio, 2017, arXiv:1605.08803 (affine coupling, squeeze).

A layer works on maps (B, C, H, W); a vector of C numbers is a map of one pixel.

Dimension key: B examples, C channels, H height, W width.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, logsigmoid

Maps = Float[Tensor, "B C H W"]
LogDet = Float[Tensor, " B"]


class ActNorm(nn.Module):
    """y = exp(log_scale) * (x + shift) per channel; a batch chooses the two at first.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.choosing = False

    @torch.no_grad()
    def choose(self, x: Maps) -> None:
        """Let y have mean 0 and variance 1 per channel on this batch."""
        std, mean = torch.std_mean(x, (0, 2, 3), correction=0, keepdim=True)
        self.shift.copy_(-mean[0])
        self.log_scale.copy_(-(std[0] + 1e-6).log())

    def forward(self, x: Maps) -> tuple[Maps, LogDet]:
        """Y and the log-determinant, H W sum(log_scale)."""
        if self.choosing:
            self.choose(x)
        log_det = self.log_scale.sum() * (x.shape[2] * x.shape[3])
        return (x + self.shift) * self.log_scale.exp(), log_det.expand(len(x))

    def inverse(self, y: Maps) -> Maps:
        """The x of a y."""
        return y * (-self.log_scale).exp() - self.shift


class InvertibleConv(nn.Module):
    """The 1x1 convolution W = P L (U + diag(s)), log |det| = H W sum log |s|.

    P is a permutation and the signs of s are fixed; L is unit lower, U strictly upper triangular.
    It starts as a random rotation. In evaluation the inverse is kept as long as W stays as it is.

    Args:
        channels: C.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.contiguous())
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_s = nn.Parameter(diagonal.abs().log())
        self._kept: tuple[Tensor, Tensor] | None = None  # W and its inverse

    def weight(self) -> Float[Tensor, "C C"]:
        """W."""
        unit = torch.eye(len(self.log_s), dtype=self.log_s.dtype, device=self.log_s.device)
        lower = self.lower.tril(-1) + unit
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())
        return self.permutation @ lower @ upper

    def inverse_weight(self) -> Float[Tensor, "C C"]:
        """W^-1."""
        weight = self.weight()
        if self.training or torch.is_grad_enabled():
            return weight.inverse()
        if self._kept is None or not torch.equal(self._kept[0], weight):
            self._kept = weight, weight.double().inverse().to(weight)
        return self._kept[1]

    def forward(self, x: Maps) -> tuple[Maps, LogDet]:
        """Y and the log-determinant."""
        log_det = self.log_s.sum() * (x.shape[2] * x.shape[3])
        return conv2d(x, self.weight()[:, :, None, None]), log_det.expand(len(x))

    def inverse(self, y: Maps) -> Maps:
        """The x of a y."""
        return conv2d(y, self.inverse_weight()[:, :, None, None])


class AffineCoupling(nn.Module):
    """y_a = x_a, y_b = (x_b + t(x_a)) * sigmoid(s(x_a) + 2); the network starts at zero.

    Args:
        channels: C, at least 2; the first half (rounded down) is left as it is.
        hidden: Channels inside the network.
        kernel: Side of its outer convolutions; 1 makes it a perceptron.
    """

    def __init__(self, channels: int, hidden: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.kept = channels // 2
        last = nn.Conv2d(hidden, 2 * (channels - self.kept), kernel, padding=kernel // 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.net = nn.Sequential(
            nn.Conv2d(self.kept, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            last,
        )

    def _map(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """t, and the logarithm of the factor."""
        shift, s = self.net(a).chunk(2, 1)
        return shift, logsigmoid(s + 2.0)

    def forward(self, x: Maps) -> tuple[Maps, LogDet]:
        """Y and the log-determinant."""
        a, b = x[:, : self.kept], x[:, self.kept :]
        shift, log_factor = self._map(a)
        return torch.cat([a, (b + shift) * log_factor.exp()], 1), log_factor.sum((1, 2, 3))

    def inverse(self, y: Maps) -> Maps:
        """The x of a y."""
        a, b = y[:, : self.kept], y[:, self.kept :]
        shift, log_factor = self._map(a)
        return torch.cat([a, b * (-log_factor).exp() - shift], 1)


class Chain(nn.ModuleList):
    """Invertible layers one after the other."""

    def forward(self, x: Maps) -> tuple[Maps, LogDet]:
        """Y and the log-determinant."""
        total = x.new_zeros(len(x))
        for layer in self:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Maps) -> Maps:
        """The x of a y."""
        for layer in reversed(self):
            y = layer.inverse(y)  # type: ignore[operator]
        return y


class GaussianPart(nn.Module):
    """N(mean, std) of maps that leave a flow, given those that go on, or alone.

    Args:
        given: Channels that go on; 0: none.
        channels: Channels that leave.
        kernel: Side of the convolution from the ones to the moments of the others.
    """

    def __init__(self, given: int, channels: int, *, kernel: int) -> None:
        super().__init__()
        self.channels = channels
        if given:
            self.net = nn.Conv2d(given, 2 * channels, kernel, padding=kernel // 2)
            nn.init.zeros_(self.net.weight)
            nn.init.zeros_(self.net.bias)  # type: ignore[arg-type]
        else:
            self.free = nn.Parameter(torch.zeros(2 * channels, 1, 1))
        self.alone = not given

    def _moments(self, given: Tensor | None) -> tuple[Tensor, Tensor]:
        both = self.net(given) if given is not None and not self.alone else self.free[None]
        mean, log_std = both.chunk(2, 1)
        return mean, log_std

    def forward(self, z: Maps, given: Tensor | None) -> tuple[Maps, LogDet]:
        """The standardised z and log p(z | given)."""
        mean, log_std = self._moments(given)
        eps = (z - mean) * (-log_std).exp()
        log_p = -0.5 * eps.square() - log_std - 0.5 * math.log(2 * math.pi)
        return eps, log_p.sum((1, 2, 3))

    def inverse(self, eps: Maps, given: Tensor | None) -> Maps:
        """The z of a standard normal one."""
        mean, log_std = self._moments(given)
        return mean + log_std.exp() * eps


def squeeze(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C4 H2 W2"]:
    """Each 2x2 block of pixels becomes four channels: (B, 4 C, H / 2, W / 2)."""
    return nn.functional.pixel_unshuffle(x, 2)


def unsqueeze(x: Float[Tensor, "B C4 H2 W2"]) -> Float[Tensor, "B C H W"]:
    """The inverse of `squeeze`."""
    return nn.functional.pixel_shuffle(x, 2)
