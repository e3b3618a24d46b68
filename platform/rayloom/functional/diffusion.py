"""The equations of diffusion models in discrete time: schedules, q, samplers, guidance, the bound.

Papers: Ho, Jain and Abbeel, 2020, arXiv:2006.11239 (DDPM); Song, Meng and Ermon, 2021,
arXiv:2010.02502 (DDIM); Nichol and Dhariwal, 2021, arXiv:2102.09672 (cosine schedule); Ho and
Salimans, 2022, arXiv:2207.12598 (classifier-free guidance).

Time runs from clean data to noise: t = 0 is x, t = T almost pure noise. `alpha_bar` has T + 1
numbers, alpha_bar[0] = 1, so that an index is the papers' t.

Dimension key: B examples, T steps of the chain, T1 = T + 1; `*event` the axes of an example.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_BETA = 0.999  # of the cosine schedule, whose last beta would be 1


def linear_alpha_bar(num_steps: int) -> Float[Tensor, " T1"]:
    """alpha_bar of betas that grow linearly, 1e-4 to 0.02 at T = 1000 (DDPM), float64.

    At another T the betas are scaled by 1000 / T, so that the chain ends in as much noise.

    Args:
        num_steps: T.
    """
    scale = 1000 / num_steps
    beta = torch.linspace(1e-4 * scale, 0.02 * scale, num_steps, dtype=torch.float64)
    return _alpha_bar(beta)


def cosine_alpha_bar(num_steps: int, *, offset: float = 0.008) -> Float[Tensor, " T1"]:
    """alpha_bar[t] = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) pi / 2), float64.

    Args:
        num_steps: T.
        offset: s, which keeps the first betas from being too small.
    """
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return _alpha_bar(1 - f[1:] / f[:-1])


def _alpha_bar(beta: Tensor) -> Tensor:
    kept = (1 - beta.clamp(max=MAX_BETA)).cumprod(0)
    return torch.cat([kept.new_ones(1), kept])


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_alpha_bar,
    "cosine": cosine_alpha_bar,
}


def diffuse(
    x: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"], alpha_bar_t: Float[Tensor, " B"]
) -> Float[Tensor, "B *event"]:
    """A draw of q(x_t|x): sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) eps."""
    a = _like(alpha_bar_t, x)
    return a.sqrt() * x + (1 - a).sqrt() * eps


def predict_x(
    x_t: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"], alpha_bar_t: Float[Tensor, " B"]
) -> Float[Tensor, "B *event"]:
    """The x from which `diffuse` makes x_t with this noise."""
    a = _like(alpha_bar_t, x_t)
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


def posterior_variance(alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
    """Variance of q(x_s|x_t, x), s < t: (1 - a_s) / (1 - a_t) (1 - a_t / a_s); 0 at s = 0.

    With s = t - 1 it is the beta-tilde of DDPM.
    """
    return (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)


@dataclass(frozen=True)
class Step:
    """One step of a sampler.

    Attributes:
        t: Where it came from.
        s: Where it is now; 0 is the end.
        x_s: The state.
        x: What the network took the clean data for.
    """

    t: int
    s: int
    x_s: Tensor
    x: Tensor


def reverse_chain(
    denoise: Callable[[Tensor, int], Tensor],
    x_T: Float[Tensor, "B *event"],
    times: Sequence[int],
    alpha_bar: Float[Tensor, " T1"],
    *,
    eta: float,
    noise: Callable[[int], Tensor],
    clip: bool,
) -> Iterator[Step]:
    """From noise to data along `times`, down to 0.

    x_s = sqrt(a_s) x + sqrt(1 - a_s - sigma^2) eps + sigma z, sigma^2 = eta^2 posterior_variance

    With eta = 1 this is a draw of q(x_s|x_t, x), DDPM's ancestral step, also where steps are left
    out; with eta = 0 it is DDIM, which draws nothing after x_T.

    Args:
        denoise: (x_t, t) to the eps in it.
        x_T: Standard normal noise.
        times: T = t_1 > t_2 > ... >= 1.
        alpha_bar: See the module.
        eta: Share of the posterior's standard deviation that is drawn anew.
        noise: t to standard normal noise of the step from there; asked only if some is needed.
        clip: Keep the x that is aimed at in [-1, 1], where pixels are.
    """
    x_t = x_T
    for t, s in zip(times, [*times[1:], 0], strict=True):
        a_t, a_s = float(alpha_bar[t]), float(alpha_bar[s])
        eps = denoise(x_t, t)
        x = (x_t - math.sqrt(1 - a_t) * eps) / math.sqrt(a_t)
        if clip:
            x = x.clamp(-1, 1)
            eps = (x_t - math.sqrt(a_t) * x) / math.sqrt(1 - a_t)
        variance = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        x_s = math.sqrt(a_s) * x + math.sqrt(max(0.0, 1 - a_s - variance)) * eps
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * noise(t)
        yield Step(t, s, x_s, x)
        x_t = x_s


def sampling_times(num_steps: int, wanted: int) -> list[int]:
    """`wanted` of the times T..1, evenly spaced, T first.

    Args:
        num_steps: T.
        wanted: How many, at most T.
    """
    return [round(num_steps * (wanted - k) / wanted) for k in range(wanted)]


def guide(eps_unconditional: Tensor, eps_conditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance, eps_u + w (eps_c - eps_u): w = 0 and w = 1 are the plain branches.

    The paper's own weight is w - 1: it counts from the conditional branch.
    """
    return torch.lerp(eps_unconditional, eps_conditional, weight)


def bound_weight(alpha_bar: Float[Tensor, " T1"], t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Weight of |eps - eps_hat|^2 in KL(q(x_{t-1}|x_t, x) || p(x_{t-1}|x_t)), t >= 2, nats.

    Both have the variance beta-tilde, so the KL is the squared distance of the means over twice
    that: (1 / 2) (SNR(t-1) - SNR(t)) |x - x_hat|^2, and |x - x_hat|^2 = |eps - eps_hat|^2 / SNR(t).
    """
    snr_t = alpha_bar[t] / (1 - alpha_bar[t])
    snr_s = alpha_bar[t - 1] / (1 - alpha_bar[t - 1])
    return 0.5 * (snr_s / snr_t - 1)


def prior_kl(x: Float[Tensor, "B *event"], alpha_bar_T: float) -> Float[Tensor, " B"]:
    """KL(q(x_T|x) || N(0, I)), nats."""
    flat = x.flatten(1)
    variance = 1 - alpha_bar_T
    constant = variance - 1 - math.log(variance)
    return 0.5 * (alpha_bar_T * flat.square() + constant).sum(1)


def discretised_gaussian_log_prob(
    x: Float[Tensor, "B *event"], mean: Float[Tensor, "B *event"], std: float, *, levels: int = 256
) -> Float[Tensor, " B"]:
    """Log mass of the grey levels x in [-1, 1] under N(mean, std^2); edge bins hold the tails.

    Args:
        x: Values -1 + 2 k / (levels - 1).
        mean: Means.
        std: Standard deviation.
        levels: Grey levels.
    """
    half = 1 / (levels - 1)
    upper, lower = (x + half - mean) / std, (x - half - mean) / std
    mirrored = lower + upper > 0  # both tails by the left one, where differences keep their digits
    upper, lower = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    low_edge, high_edge = x <= -1 + half, x >= 1 - half
    infinite = torch.full_like(x, math.inf)
    upper = torch.where(torch.where(mirrored, low_edge, high_edge), infinite, upper)
    lower = torch.where(torch.where(mirrored, high_edge, low_edge), -infinite, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    mass: Tensor = log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-1e-12)))
    return mass.flatten(1).sum(1)


def _like(per_example: Tensor, x: Tensor) -> Tensor:
    """(B,) to (B, 1, ...), in the dtype of x."""
    return per_example.to(x).view(-1, *[1] * (x.ndim - 1))
