"""The equations of value-based and policy-gradient reinforcement learning.

Dimension key: B transitions, A actions, T time steps, N environments, S = T - n + 1 start steps.

`terminated` (the world ended, the future is worth nothing) and `truncated` (we stopped looking, the
future keeps its value) are never merged: all bootstrapping goes through
`discount = gamma * (1 - terminated)`.

Papers: Watkins and Dayan, 1992, doi:10.1007/BF00992698 (Q-learning); Williams, 1992,
doi:10.1007/BF00992696 (REINFORCE); Mnih et al., 2015, doi:10.1038/nature14236 (DQN); van Hasselt
et al., 2016, arXiv:1509.06461 (double DQN); Wang et al., 2016, arXiv:1511.06581 (dueling); Schaul
et al., 2016, arXiv:1511.05952 (prioritised replay); Sutton and Barto, 2018, sections 7.1 and 13.3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def q_learning_target(
    r: Float[Tensor, " B"],
    discount: Float[Tensor, " B"],
    q_next: Float[Tensor, "B A"],
    q_select: Float[Tensor, "B A"],
) -> Float[Tensor, " B"]:
    """Target of (double) Q-learning. No gradient flows into it.

    y = r + discount * q_next[argmax_a q_select]

    Args:
        r: Reward of the step, or the discounted sum of n rewards.
        discount: gamma^n * (1 - terminated). A time limit keeps the bootstrap: a truncated step
            passes gamma^n here, not 0.
        q_next: Values to evaluate: the target network at the next observation.
        q_select: Values that choose the action: the online network for double Q-learning, else
            `q_next` itself.
    """
    with torch.no_grad():
        best = q_select.argmax(-1, keepdim=True)  # (B, 1)
        return r + discount * q_next.gather(-1, best).squeeze(-1)  # (B,)


def huber(td_error: Float[Tensor, " B"], delta: float) -> Float[Tensor, " B"]:
    """Huber loss: 0.5 d^2 within `delta`, else delta (|d| - 0.5 delta).

    Its derivative is the TD error clipped to [-delta, delta], which is the "error clipping" of Mnih
    et al. (2015).
    """
    size = td_error.abs()
    return torch.where(size <= delta, 0.5 * td_error**2, delta * (size - 0.5 * delta))


def dueling_q(
    value: Float[Tensor, "*batch 1"], advantage: Float[Tensor, "*batch A"]
) -> Float[Tensor, "*batch A"]:
    """Q = V + (advantage - mean_a advantage), equation 9 of Wang et al. (2016)."""
    return value + advantage - advantage.mean(-1, keepdim=True)


class NStep(NamedTuple):
    """What `n_step_transitions` returns, each (S, N).

    Attributes:
        reward: sum_{k < span} gamma^k r_{t+k}.
        discount: gamma^span * (1 - terminated at the last step): the factor of the bootstrap value.
        span: Steps from t to the bootstrap observation, 1..n: it is `observation[t + span]`.
    """

    reward: Tensor
    discount: Tensor
    span: Tensor


def n_step_transitions(
    r: Float[Tensor, "T N"],
    terminated: Bool[Tensor, "T N"],
    truncated: Bool[Tensor, "T N"],
    valid: Bool[Tensor, "T N"],
    *,
    gamma: float,
    n: int,
) -> NStep:
    """n-step transitions of every start t = 0..T-n of each environment.

    A window stops early at the end of an episode; a termination drops the bootstrap, a truncation
    keeps it with gamma^span. A step followed by an invalid one (an autoreset) that did not end
    counts as truncated: the stream was cut there.

    Args:
        r: Rewards.
        terminated: The step ended the episode for good.
        truncated: The step was the last one before a time limit.
        valid: False where the environment only reset itself. Results at such starts mean nothing.
        gamma: Discount per step.
        n: Window; T >= n - 1 (with T = n - 1 there is no start).
    """
    starts = r.shape[0] - n + 1
    if n < 1 or starts < 0:
        raise ValueError(f"n must lie in 1..{r.shape[0] + 1} for {r.shape[0]} steps, got {n}")
    total = torch.zeros_like(r[:starts])
    discount = torch.ones_like(total)
    span = torch.zeros(total.shape, dtype=torch.int64, device=r.device)
    going = torch.ones(total.shape, dtype=torch.bool, device=r.device)
    for k in range(n):
        rows = slice(k, k + starts)
        total = torch.where(going, total + gamma**k * r[rows], total)
        span = span + going
        end = terminated[rows] | truncated[rows]
        if k + 1 < n:
            end = end | ~valid[k + 1 : k + 1 + starts]
        keeps = gamma ** (k + 1) * (~terminated[rows]).to(r.dtype)
        discount = torch.where(going, keeps, discount)
        going = going & ~end
    return NStep(total, discount, span)


def returns_to_go(
    r: Float[Tensor, "T N"],
    terminated: Bool[Tensor, "T N"],
    truncated: Bool[Tensor, "T N"],
    *,
    gamma: float,
    v_end: Float[Tensor, "T N"] | None = None,
) -> Float[Tensor, "T N"]:
    """Discounted return G_t = sum_k gamma^k r_{t+k} up to the end of the episode.

    Args:
        r: Rewards.
        terminated: Ends that drop the future.
        truncated: Ends that keep it, as far as `v_end` knows it.
        gamma: Discount per step.
        v_end: Value of the observation after each step; used after truncations and after the last
            row. None means zero, which biases returns of cut episodes towards zero.
    """
    out = torch.empty_like(r)
    zero = torch.zeros_like(r[0])
    running = zero if v_end is None else v_end[-1]
    for t in range(r.shape[0] - 1, -1, -1):
        cut = zero if v_end is None else v_end[t]
        running = torch.where(truncated[t], cut, running)
        running = torch.where(terminated[t], zero, running)
        running = r[t] + gamma * running
        out[t] = running
    return out


def policy_gradient_loss(
    log_prob: Float[Tensor, " B"], weight: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """-log pi(a_t | s_t) * weight: descent on it ascends the expected return (Williams, 1992).

    The weight is G_t, or G_t - b(s_t) with a baseline that does not depend on a_t. The exact
    gradient of the discounted objective has a further factor gamma^t, which practice drops; pass it
    inside `weight` to keep it. No gradient flows into the weight.
    """
    return -log_prob * weight.detach()


def priority_probabilities(priority: Float[Tensor, " B"], alpha: float) -> Float[Tensor, " B"]:
    """P(i) = p_i^alpha / sum_j p_j^alpha (Schaul et al., 2016, equation 1)."""
    powered = priority**alpha
    return powered / powered.sum()


def importance_weights(
    probability: Float[Tensor, " B"], size: int | Int[Tensor, ""], beta: float
) -> Float[Tensor, " B"]:
    """w_i = (N P(i))^-beta / max_j w_j, the maximum over this batch (Schaul et al., 2016, 3.4).

    Args:
        probability: P(i) with which each element of the batch was drawn.
        size: N, transitions in the replay.
        beta: 0 corrects nothing, 1 makes the expected update that of uniform replay, up to scale.
    """
    w = (size * probability) ** -beta
    return w / w.max()
