"""The RL equations against tables, naive loops and autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.functional.rl import (
    dueling_q,
    huber,
    importance_weights,
    n_step_transitions,
    policy_gradient_loss,
    priority_probabilities,
    q_learning_target,
    returns_to_go,
)


@pytest.mark.parametrize(("terminated", "expected"), [(True, 1.0), (False, 1.0 + 0.9 * 10.0)])
def test_only_termination_drops_the_bootstrap(terminated, expected):
    q_next = torch.tensor([[10.0, -3.0]])
    discount = 0.9 * torch.tensor([float(not terminated)])
    y = q_learning_target(torch.tensor([1.0]), discount, q_next, q_next)
    assert y.item() == pytest.approx(expected)


def test_double_q_evaluates_the_action_that_the_online_net_chooses():
    q_next, q_select = torch.tensor([[10.0, -3.0]]), torch.tensor([[0.0, 1.0]])
    y = q_learning_target(torch.zeros(1), torch.ones(1), q_next, q_select)
    assert y.item() == -3.0


def test_no_gradient_flows_into_the_target():
    q = torch.ones(2, 3, requires_grad=True)
    assert not q_learning_target(torch.zeros(2), torch.ones(2), q, q).requires_grad


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_huber_equals_torch_and_its_slope_is_the_clipped_error(error, delta):
    x = torch.tensor([error], dtype=torch.float64, requires_grad=True)
    loss = huber(x, delta)
    zero = torch.zeros(1, dtype=torch.float64)
    expected = torch.nn.functional.huber_loss(x.detach(), zero, delta=delta)
    torch.testing.assert_close(loss.detach()[0], expected)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert slope.item() == pytest.approx(max(-delta, min(delta, error)))


def test_dueling_advantage_has_mean_zero():
    value, advantage = torch.randn(5, 1), torch.randn(5, 4)
    q = dueling_q(value, advantage)
    torch.testing.assert_close(q.mean(-1, keepdim=True), value)
    torch.testing.assert_close(q - q[:, :1], advantage - advantage[:, :1])


def naive_n_step(r, terminated, truncated, valid, gamma, n):
    """The definition, one start at a time."""
    steps, num = r.shape
    total = np.zeros((steps - n + 1, num))
    discount, span = np.zeros_like(total), np.zeros(total.shape, int)
    for t in range(steps - n + 1):
        for i in range(num):
            for k in range(n):
                total[t, i] += gamma**k * r[t + k, i]
                span[t, i] += 1
                discount[t, i] = 0.0 if terminated[t + k, i] else gamma ** (k + 1)
                ends = terminated[t + k, i] or truncated[t + k, i]
                if ends or (k + 1 < n and not valid[t + k + 1, i]):
                    break
    return total, discount, span


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(0, 8), st.integers(1, 3))
def test_n_step_equals_the_naive_loop(seed, n, extra, num):
    rng = np.random.default_rng(seed)
    steps = n + extra
    shape = (steps, num)
    terminated, truncated = rng.random(shape) < 0.2, rng.random(shape) < 0.2
    ended = terminated | truncated
    valid = np.concatenate([np.ones((1, num), bool), ~ended[:-1]])
    valid &= rng.random(shape) < 0.95  # a stream may be cut anywhere
    r = rng.normal(size=shape)
    got = n_step_transitions(
        *map(torch.from_numpy, (r, terminated, truncated, valid)), gamma=0.9, n=n
    )
    total, discount, span = naive_n_step(r, terminated, truncated, valid, 0.9, n)
    np.testing.assert_allclose(got.reward.numpy()[valid[: extra + 1]], total[valid[: extra + 1]])
    np.testing.assert_allclose(got.discount[valid[: extra + 1]], discount[valid[: extra + 1]])
    np.testing.assert_array_equal(got.span[valid[: extra + 1]], span[valid[: extra + 1]])


def test_n_step_refuses_a_window_longer_than_the_rollout():
    flags = torch.zeros(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="got 4"):
        n_step_transitions(torch.zeros(2, 1), flags, flags, ~flags, gamma=0.9, n=4)


def test_returns_to_go_stops_at_ends_and_uses_the_value_only_after_a_truncation():
    r = torch.ones(4, 1, dtype=torch.float64)
    terminated = torch.tensor([[False], [True], [False], [False]])
    truncated = torch.tensor([[False], [False], [True], [False]])
    v = torch.full((4, 1), 100.0, dtype=torch.float64)
    got = returns_to_go(r, terminated, truncated, gamma=0.5, v_end=v)
    assert got[:, 0].tolist() == [1.5, 1.0, 51.0, 51.0]
    assert returns_to_go(r, terminated, truncated, gamma=0.5)[:, 0].tolist() == [1.5, 1.0, 1.0, 1.0]


def test_policy_gradient_loss_gives_the_score_function_estimate():
    """Over all actions with their probabilities, its gradient is -grad of the expected reward."""
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    reward = torch.randn(4, dtype=torch.float64)
    expected = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)[0]
    log_prob, p = logits.log_softmax(0), logits.softmax(0).detach()
    got = torch.autograd.grad((p * policy_gradient_loss(log_prob, reward)).sum(), logits)[0]
    torch.testing.assert_close(got, -expected)
    shifted = torch.autograd.grad(  # a baseline changes nothing in expectation
        (p * policy_gradient_loss(logits.log_softmax(0), reward - 3.0)).sum(), logits
    )[0]
    torch.testing.assert_close(shifted, -expected)


def test_priorities_and_weights_are_the_definitions():
    priority = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    p = priority_probabilities(priority, 0.5)
    expected = [math.sqrt(x) / (1 + math.sqrt(2) + 2) for x in (1, 2, 4)]
    np.testing.assert_allclose(p, expected)
    np.testing.assert_allclose(priority_probabilities(priority, 0.0), [1 / 3] * 3)
    w = importance_weights(p, 3, 1.0)
    assert w.max() == 1.0
    torch.testing.assert_close(w * p, torch.full_like(p, float((w * p)[0])))  # beta = 1 undoes P
    assert importance_weights(p, 3, 0.0).tolist() == [1.0] * 3
