"""Replay, sum tree and n-step streams against definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_helpers import equal_states

from rayloom.core.seeding import numpy_stream
from rayloom.functional.rl import importance_weights, priority_probabilities
from rayloom.rl.replay import buffer as module
from rayloom.rl.replay.buffer import PrioritizedReplay, Replay, Transitions
from rayloom.rl.replay.n_step import NStepStream
from rayloom.rl.replay.sum_tree import SumTree
from rayloom.rl.rollout import Rollout

SHAPES = {
    "obs_shape": (2,),
    "obs_dtype": "float32",
    "action_shape": (),
    "action_dtype": np.int64,
}


def uniform(capacity, seed=0):
    return Replay(capacity, rng=numpy_stream(seed, "replay"), **SHAPES)


def prioritized(capacity, seed=0, alpha=0.6):
    rng = numpy_stream(seed, "replay")
    return PrioritizedReplay(capacity, alpha=alpha, epsilon=1e-3, rng=rng, **SHAPES)


def numbered(start, stop):
    """Transitions that carry their number."""
    n = np.arange(start, stop)
    obs = np.stack([n, -n], 1).astype(np.float32)
    return Transitions(obs, obs + 0.5, n, n.astype(np.float32), np.ones(len(n), np.float32))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)


@pytest.mark.parametrize("make", [uniform, prioritized])
@pytest.mark.parametrize("capacity", [1, 7, 8, 20, 24])
def test_wrap_around_keeps_exactly_the_newest(make, capacity, small_blocks):
    buffer, rng, at = make(capacity), np.random.default_rng(0), 0
    while at < 100:
        count = int(rng.integers(0, 12))
        buffer.insert(numbered(at, at + count))
        at += count
        if not at:
            continue
        slots = (
            buffer.draw(400)[0] if isinstance(buffer, PrioritizedReplay) else buffer.slots((400,))
        )
        got = buffer.gather(slots)
        assert len(buffer) == min(at, capacity)
        assert got.action.min() >= at - len(buffer)
        assert got.action.max() < at
        if capacity < 25:
            assert set(got.action) == set(range(at - len(buffer), at))
        np.testing.assert_array_equal(got.observation[:, 0], got.action)
        np.testing.assert_array_equal(got.next_observation[:, 1], 0.5 - got.action)


def test_uniform_draws_are_uniform():
    buffer = uniform(50)
    buffer.insert(numbered(0, 80))
    counts = np.bincount(buffer.sample(200, 250).action.reshape(-1) - 30, minlength=50)
    chi2 = ((counts - 1000.0) ** 2 / 1000.0).sum()
    assert chi2 < 49 + 5 * np.sqrt(2 * 49)


@pytest.mark.parametrize("make", [uniform, prioritized])
@pytest.mark.parametrize("inserted", [0, 5, 8, 19, 64, 131])
def test_state_round_trip_and_shared_blocks(make, inserted, small_blocks):
    buffer = make(40)
    for at in range(0, inserted, 7):
        buffer.insert(numbered(at, min(inserted, at + 7)))
    state = buffer.state_dict()
    expected = []
    twin = make(40, 5)
    twin.load_state_dict(state)
    equal_states(twin.state_dict(), state)
    for one in (buffer, twin):
        one.insert(numbered(inserted, inserted + 50))
        drawn = one.draw(64)[0] if isinstance(one, PrioritizedReplay) else one.slots((64,))
        expected.append(one.gather(drawn).action)
    np.testing.assert_array_equal(*expected)


def test_chunks_stay_what_they_were_when_the_ring_moves_on(small_blocks):
    buffer = uniform(20)
    buffer.insert(numbered(0, 30))
    state = buffer.state_dict()
    before = {n: chunk.arrays["action"].copy() for n, chunk in state["blocks"].items()}
    assert state["blocks"], "some block is full"
    keys = [chunk.key for chunk in state["blocks"].values()]
    assert buffer.state_dict()["blocks"]["1"].arrays is state["blocks"]["1"].arrays  # shared
    buffer.insert(numbered(30, 300))
    for n, chunk in state["blocks"].items():
        np.testing.assert_array_equal(chunk.arrays["action"], before[n])
    assert not set(keys) & {c.key for c in buffer.state_dict()["blocks"].values()}
    buffer.load_state_dict(state)
    assert set(buffer.sample(10, 40).action.reshape(-1)) == set(range(10, 30))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 5, 64, 65, 5000]))
def test_sum_tree_is_a_function_of_its_leaves(seed, capacity):
    rng = np.random.default_rng(seed)
    tree, leaves = SumTree(capacity), np.zeros(capacity)
    for _ in range(5):
        index = rng.integers(0, capacity, 16)
        weight = rng.random(16) * (rng.random(16) < 0.7)
        tree.set(index, weight)
        leaves[index] = weight
    np.testing.assert_array_equal(tree.leaves, leaves)
    assert tree.total == pytest.approx(leaves.sum())
    other = SumTree(capacity)
    other.load(leaves)
    for a, b in zip(tree.levels, other.levels, strict=True):
        np.testing.assert_array_equal(a, b)
    if leaves.sum() > 0:
        u = np.concatenate([[0.0, np.nextafter(1.0, 0.0)], rng.random(100)])
        drawn = tree.draw(u)
        assert (leaves[drawn] > 0).all()
        cumulative = leaves.cumsum()
        np.testing.assert_array_less(u * leaves.sum(), cumulative[drawn] + 1e-9)
        np.testing.assert_array_less(cumulative[drawn] - leaves[drawn] - 1e-9, u * leaves.sum())


def test_prioritized_draws_and_weights_are_the_definition():
    buffer = prioritized(30, alpha=0.7)
    buffer.insert(numbered(0, 45))
    slots = np.arange(15, 45) % buffer.ring
    errors = np.linspace(-3, 2, 30).astype(np.float32)
    buffer.set_errors(slots, errors)
    priority = torch.from_numpy(np.abs(errors).astype(np.float64) + 1e-3)
    p = priority_probabilities(priority, 0.7).numpy()
    drawn, probability = buffer.draw(200_000)
    counts = np.bincount(buffer.gather(drawn).action - 15, minlength=30)
    assert (np.abs(counts / 200_000 - p) < 5 * np.sqrt(p / 200_000) + 1e-6).all()
    np.testing.assert_allclose(probability, p[buffer.gather(drawn).action - 15])
    w = importance_weights(torch.from_numpy(probability), len(buffer), 0.5).numpy()
    raw = (30 * probability) ** -0.5
    np.testing.assert_allclose(w, raw / raw.max())


def test_new_transitions_get_the_largest_priority_so_far():
    buffer = prioritized(30, alpha=1.0)
    buffer.insert(numbered(0, 3))
    assert buffer.tree.leaves[:3].tolist() == [1.0] * 3
    buffer.set_errors(np.array([0]), np.array([9.0], np.float32))
    buffer.set_errors(np.array([0]), np.array([0.5], np.float32))
    buffer.insert(numbered(3, 4))
    assert buffer.tree.leaves[3] == pytest.approx(9.001)
    assert buffer.tree.leaves[0] == pytest.approx(0.501)


def stream_of(rng, steps, num):
    terminated, truncated = rng.random((steps, num)) < 0.1, rng.random((steps, num)) < 0.1
    valid = np.concatenate([np.ones((1, num), bool), ~(terminated | truncated)[:-1]])
    terminated &= valid
    truncated &= valid
    valid = np.concatenate([np.ones((1, num), bool), ~(terminated | truncated)[:-1]])
    obs = rng.normal(size=(steps + 1, num, 2)).astype(np.float32)
    reward = rng.normal(size=(steps, num)).astype(np.float32) * valid
    action = rng.integers(0, 3, (steps, num))
    return Rollout(0, obs, action, reward.astype(np.float32), terminated, truncated, valid)


def cut(rollout, start, stop):
    rows = slice(start, stop)
    names = ("action", "reward", "terminated", "truncated", "valid")
    parts = [getattr(rollout, name)[rows] for name in names]
    return Rollout(0, rollout.observation[start : stop + 1], *parts)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_n_step_across_rounds_equals_one_long_round(seed, n):
    rng = np.random.default_rng(seed)
    rollout = stream_of(rng, 40, 3)
    whole = NStepStream(n, 0.9).push(rollout)
    stream, parts, at = NStepStream(n, 0.9), [], 0
    while at < 40:
        stop = min(40, at + int(rng.integers(1, 9)))
        parts.append(stream.push(cut(rollout, at, stop)))
        if rng.random() < 0.5:  # saved and restored in between
            state, stream = stream.state_dict(), NStepStream(n, 0.9)
            stream.load_state_dict(state)
        at = stop
    for name in Transitions._fields:
        joined = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_n_step_bootstraps_from_the_observation_after_its_last_step(n):
    rollout = stream_of(np.random.default_rng(1), 60, 3)
    got, row = NStepStream(n, 0.9).push(rollout), 0
    spans = set()
    for t in range(60 - n + 1):
        for i in range(3):
            if not rollout.valid[t, i]:
                continue
            span = next((k + 1 for k in range(n) if rollout.ended[t + k, i]), n)
            spans.add(span)
            np.testing.assert_array_equal(got.observation[row], rollout.observation[t, i])
            later = rollout.observation[t + span, i]
            np.testing.assert_array_equal(got.next_observation[row], later)
            dead = rollout.terminated[t + span - 1, i]
            assert got.discount[row] == pytest.approx(0.0 if dead else 0.9**span)
            row += 1
    assert row == len(got.reward)
    assert spans == set(range(1, n + 1))


def test_one_step_transitions_are_the_rows():
    rollout = stream_of(np.random.default_rng(0), 30, 2)
    got = NStepStream(1, 0.9).push(rollout)
    t, i = np.nonzero(rollout.valid)
    np.testing.assert_array_equal(got.observation, rollout.observation[t, i])
    np.testing.assert_array_equal(got.next_observation, rollout.observation[t + 1, i])
    np.testing.assert_allclose(got.discount, 0.9 * ~rollout.terminated[t, i], rtol=1e-6)
    assert not rollout.valid.all()
