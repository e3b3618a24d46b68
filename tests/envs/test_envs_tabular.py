"""Grid world and probes: registry, P, exact values, states, vector forms."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rayloom_envs
from rayloom.testing.environments import check_env_state
from rayloom_envs import gridworld, probes
from rayloom_envs.tabular import MDP

IDS = ["rayloom/GridWorld-v0", *rayloom_envs.PROBES]


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_accepts_it(name):
    env = gym.make(name)
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", IDS)
def test_state_brings_back_the_same_future(name):
    check_env_state(lambda: gym.make(name).unwrapped)


@pytest.mark.parametrize("name", IDS)
def test_P_is_a_distribution_and_equals_the_arrays(name):
    env = gym.make(name).unwrapped
    mdp = env.mdp
    for s in range(mdp.num_states):
        for a in range(mdp.num_actions):
            rows = env.P[s][a]
            assert sum(p for p, *_ in rows) == pytest.approx(1.0)
            for p, t, r, end in rows:
                assert p == mdp.transition[s, a, t]
                assert r == mdp.reward[s, a, t]
                assert end == mdp.terminal[t]


def test_steps_follow_P():
    """Empirical frequencies and rewards of a slippery move agree with the table."""
    env = gym.make("rayloom/GridWorld-v0", slip=0.4).unwrapped
    env.reset(seed=0)
    state, action, n = 9, 2, 6000
    counts = np.zeros(env.mdp.num_states)
    for _ in range(n):
        env.state = state
        seen, reward, terminated, _, _ = env.step(action)
        counts[seen] += 1
        assert reward == env.mdp.reward[state, action, seen]
        assert terminated == env.mdp.terminal[seen]
    p = env.mdp.transition[state, action]
    assert np.abs(counts / n - p).max() < 4 * np.sqrt(0.25 / n)
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(p))


def test_vector_form_has_the_law_of_the_single_one():
    """Random play: mean return and length of 2,000 episodes each, within 4 standard errors."""
    single, vector = gym.make("rayloom/GridWorld-v0"), gym.make_vec("rayloom/GridWorld-v0", 50)
    assert type(vector).__name__ == "GridWorldVector"
    rng = np.random.default_rng(0)
    one = []
    single.reset(seed=0)
    for _ in range(1500):
        total, length, over = 0.0, 0, False
        while not over:
            _, r, end, cut, _ = single.step(int(rng.integers(4)))
            total, length, over = total + r, length + 1, end or cut
        one.append((total, length))
        single.reset()
    many, total, length = [], np.zeros(50), np.zeros(50)
    vector.reset(seed=1)
    fresh = np.zeros(50, bool)
    quota = np.zeros(50, int)
    while (quota < 30).any():
        _, r, end, cut, _ = vector.step(rng.integers(0, 4, 50))
        assert (r[fresh] == 0).all()  # the autoreset step gives nothing
        assert not (end | cut)[fresh].any()
        total, length = total + r, length + ~fresh
        fresh = end | cut
        for i in np.flatnonzero(fresh):
            if quota[i] < 30:
                many.append((total[i], length[i]))
            quota[i] += 1
            total[i] = length[i] = 0
    one, many = np.array(one), np.array(many)
    error = np.sqrt(one.var(0) / len(one) + many.var(0) / len(many))
    assert (np.abs(one.mean(0) - many.mean(0)) < 4 * error).all()


def test_vector_time_limit_truncates_and_does_not_terminate():
    env = gym.make_vec("rayloom/GridWorld-v0", 3, layout=["S.", ".."], max_episode_steps=5)
    env.reset(seed=0)
    for t in range(1, 7):
        _, _, end, cut, _ = env.step(np.zeros(3, np.int64))
        assert not end.any()
        assert cut.all() == (t == 5)


def test_value_equals_the_linear_solve():
    """optimal_q satisfies Bellman's equation and beats every one-step deviation."""
    mdp = gridworld.make_mdp(slip=0.2)
    gamma = 0.95
    q = probes.optimal_q(mdp, gamma)
    v = np.where(mdp.terminal, 0.0, q.max(1))
    backup = mdp.expected_reward + gamma * mdp.transition @ v
    np.testing.assert_allclose(q[~mdp.terminal], backup[~mdp.terminal], atol=1e-9)
    assert (q[mdp.terminal] == 0).all()


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("constant_reward", [[1.0]]),
        ("obs_reward", [[-1.0], [1.0]]),
        ("two_step", [[0.9], [1.0]]),
        ("two_action", [[-1.0, 1.0]]),
        ("obs_action", [[1.0, -1.0], [-1.0, 1.0]]),
    ],
)
def test_probes_have_the_values_of_the_ladder(probe, expected):
    mdp, observations = probes.make_mdp(probe)
    q = probes.optimal_q(mdp, 0.9)
    np.testing.assert_allclose(q[~mdp.terminal], expected)
    assert observations.dtype == np.float32
    assert probes.describe(probe)["best_return"] == (0.0 if probe == "obs_reward" else 1.0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="known: constant_reward"):
        probes.make_mdp("nothing")
    for layout, words in [
        (["S.", "..."], "equal length"),
        (["SX"], "unknown marks"),
        (["."], "no"),
    ]:
        with pytest.raises(ValueError, match=words):
            gridworld.make_mdp(layout)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        gridworld.make_mdp(slip=2.0)
    half = np.full((1, 1, 1), 0.5)
    with pytest.raises(ValueError, match="sum to one"):
        MDP(half, half, np.array([False]), np.ones(1))


def test_pictures():
    env = gym.make("rayloom/GridWorld-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (128, 128, 3)
    text = gym.make("rayloom/GridWorld-v0", render_mode="ansi")
    text.reset(seed=0)
    assert text.render() == "A...\n.#.H\n....\nH..G\n"


def test_importing_the_package_imports_no_environment():
    code = (
        "import sys, rayloom_envs; "
        "assert 'rayloom_envs.gridworld' not in sys.modules; assert 'torch' not in sys.modules; "
        "assert not any(m.split('.')[0] == 'rayloom' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
