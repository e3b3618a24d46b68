"""Groups: autoreset, time limits, states, independence of who collects."""

import gymnasium as gym
import numpy as np
import pytest
from rl_helpers import equal_states, make_config

from rayloom.config.sections import EnvConfig
from rayloom.core.errors import UserError
from rayloom.core.protocols import GroupTask
from rayloom.rl.collect import GroupWorker, LocalCollector
from rayloom.rl.envs import groups
from rayloom.rl.envs.groups import LoopGroup, VectorGroup, group_sizes, make_group
from rayloom.rl.envs.making import WRAPPERS, make_env, spec_of
from rayloom.rl.policies import RandomPolicy

CARTPOLE = EnvConfig(name="CartPole-v1")


def random_group(config, size, *, group=0, seed=3):
    spec = spec_of(config)
    return make_group(config, spec, seed=seed, group=group, size=size), RandomPolicy(spec)


def test_native_vectorisation_is_used_when_it_exists_and_pays():
    assert isinstance(random_group(CARTPOLE, 8)[0], VectorGroup)
    assert isinstance(random_group(CARTPOLE, 2)[0], LoopGroup)
    assert isinstance(random_group(EnvConfig(name="rayloom/GridWorld-v0"), 8)[0], VectorGroup)
    assert isinstance(random_group(EnvConfig(name="Acrobot-v1"), 8)[0], LoopGroup)
    limited = EnvConfig(
        name="CartPole-v1", wrappers=[{"name": "TimeLimit", "max_episode_steps": 9}]
    )
    assert isinstance(random_group(limited, 8)[0], LoopGroup)
    # A vector form that lacks an argument of the single one is passed over.
    odd = EnvConfig(name="CartPole-v1", kwargs={"max_episode_steps": 7})
    assert isinstance(random_group(odd, 8)[0], VectorGroup)


@pytest.mark.parametrize("size", [2, 8])
def test_the_autoreset_step_is_marked_and_the_last_observation_is_right(size):
    """Each valid step obeys the dynamics from its row to the next one; resets are invalid."""
    group, policy = random_group(CARTPOLE, size)
    rollout = group.collect(300, policy, {})
    ended = rollout.ended
    assert ended.any()
    np.testing.assert_array_equal(~rollout.valid[1:], ended[:-1])
    assert rollout.valid[0].all()
    assert (rollout.reward == rollout.valid).all()  # CartPole gives 1 per real step
    check = make_env(CARTPOLE)
    check.reset(seed=0)
    for t, n in zip(*np.nonzero(rollout.valid), strict=True):
        check.unwrapped.state = rollout.observation[t, n].astype(np.float64)
        check.unwrapped.steps_beyond_terminated = None
        seen, _, terminated, _, _ = check.unwrapped.step(int(rollout.action[t, n]))
        np.testing.assert_allclose(seen, rollout.observation[t + 1, n], atol=1e-5)
        inside = abs(abs(seen[0]) - 2.4) > 1e-4 and abs(abs(seen[2]) - 0.2094395) > 1e-4
        if inside:
            assert terminated == rollout.terminated[t, n]
    starts = rollout.observation[1:][~rollout.valid]
    assert np.abs(starts).max() <= 0.05


@pytest.mark.parametrize("size", [2, 8])
def test_a_time_limit_truncates_and_does_not_terminate(size):
    config = EnvConfig(name="rayloom/GridWorld-v0", kwargs={"layout": ["S.", ".."]})
    group, policy = random_group(config, size)
    rollout = group.collect(250, policy, {})
    assert not rollout.terminated.any()
    assert rollout.truncated[99].all()
    assert rollout.truncated[200].all()  # row 100 reset
    assert rollout.truncated.sum() == 2 * size
    assert rollout.episode_length.tolist() == [100] * (2 * size)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_episode_accounting_over_rounds_equals_one_long_round(size):
    one, policy = random_group(CARTPOLE, size)
    two, _ = random_group(CARTPOLE, size)
    whole = one.collect(200, policy, {})
    parts = [two.collect(steps, policy, {}) for steps in (1, 13, 86, 100)]
    for name in ("observation", "action", "reward", "terminated", "truncated", "valid"):
        pieces = [getattr(p, name)[: len(p.reward)] for p in parts]
        np.testing.assert_array_equal(np.concatenate(pieces), getattr(whole, name)[:200])
    np.testing.assert_array_equal(
        np.concatenate([p.episode_return for p in parts]), whole.episode_return
    )
    np.testing.assert_array_equal(
        np.concatenate([p.episode_length for p in parts]), whole.episode_length
    )
    assert whole.episode_return.tolist() == whole.episode_length.tolist()


def wrapped(name, *wrappers, **kwargs):
    return EnvConfig(name=name, wrappers=list(wrappers), kwargs=kwargs)


SAVED = [
    (CARTPOLE, 1),
    (CARTPOLE, 8),
    (EnvConfig(name="Acrobot-v1"), 2),
    (EnvConfig(name="MountainCar-v0"), 2),
    (EnvConfig(name="MountainCarContinuous-v0"), 2),
    (EnvConfig(name="Pendulum-v1"), 2),
    (EnvConfig(name="FrozenLake-v1"), 2),
    (EnvConfig(name="Taxi-v3"), 2),
    (EnvConfig(name="CliffWalking-v1"), 2),
    (EnvConfig(name="Blackjack-v1", wrappers=["FlattenObservation"]), 2),
    (EnvConfig(name="rayloom/GridWorld-v0", kwargs={"slip": 0.5}), 2),
    (EnvConfig(name="rayloom/GridWorld-v0", kwargs={"slip": 0.5}), 8),
    (EnvConfig(name="rayloom/ProbeObsAction-v0"), 8),
    (wrapped("CartPole-v1", {"name": "FrameStackObservation", "stack_size": 3}), 2),
    (wrapped("CartPole-v1", {"name": "TimeLimit", "max_episode_steps": 11}), 2),
    (wrapped("Pendulum-v1", {"name": "RescaleAction", "min_action": -1.0, "max_action": 1.0}), 2),
]


@pytest.mark.parametrize(("config", "size"), SAVED)
def test_a_saved_group_goes_on_as_if_never_stopped(config, size):
    group, policy = random_group(config, size)
    group.collect(57, policy, {})
    state = group.state_dict()
    expected = group.collect(150, policy, {})
    fresh, _ = random_group(config, size)
    fresh.load_state_dict(state)
    got = fresh.collect(150, policy, {})
    for name in ("observation", "action", "reward", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    np.testing.assert_array_equal(got.episode_return, expected.episode_return)
    equal_states(fresh.state_dict(), group.state_dict())


class Coin(gym.Env):
    """An environment that no seed fixes."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)
    count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.step(0)[0], {}

    def step(self, action):
        Coin.count += 1  # the outside world
        return np.array([Coin.count % 97 / 97]), 1.0, Coin.count % 31 == 0, False, {}


def test_a_nondeterministic_environment_restarts_its_episode_and_says_so_once(caplog):
    gym.register(id="test/Coin-v0", entry_point=Coin)
    try:
        config = EnvConfig(name="test/Coin-v0")
        group, policy = random_group(config, 2)
        first = group.collect(20, policy, {})
        state = group.state_dict()
        groups._told.clear()
        fresh, _ = random_group(config, 2)
        with caplog.at_level("WARNING"):
            fresh.load_state_dict(state)
        assert len([r for r in caplog.records if "not deterministic" in r.message]) == 1
        got = fresh.collect(20, policy, {})
        # The stream is cut: one invalid step from the old observation to a new episode.
        np.testing.assert_array_equal(got.observation[0], first.observation[-1])
        assert not got.valid[0].any()
        assert got.valid[1].all()
    finally:
        del gym.registry["test/Coin-v0"]


def test_who_collects_a_group_and_in_which_order_changes_nothing():
    """Two groups of 8: together, apart, reversed, on fresh workers; all rollouts equal."""
    config = make_config(num_envs=16, group_size=8)
    weights = __import__("rayloom.rl.collect", fromlist=["x"]).LocalUpdater(config).weights()

    def play(workers, order):
        states, found = {0: {}, 1: {}}, {0: [], 1: []}
        for _ in range(3):
            for g in order:
                task = GroupTask(g, 40, states[g], settings={"epsilon": 0.3})
                rollout, states[g] = workers[g].collect(weights, task)
                found[g].append(rollout)
        return found, states

    one = GroupWorker(config)
    expected, states = play({0: one, 1: one}, [0, 1])
    apart, states_apart = play({0: GroupWorker(config), 1: GroupWorker(config)}, [1, 0])
    equal_states(
        {str(k): v for k, v in states.items()}, {str(k): v for k, v in states_apart.items()}
    )
    for g in (0, 1):
        for a, b in zip(expected[g], apart[g], strict=True):
            np.testing.assert_array_equal(a.observation, b.observation)
            np.testing.assert_array_equal(a.action, b.action)
    assert not np.array_equal(expected[0][0].observation, expected[1][0].observation)


def test_a_lost_round_is_collected_again_from_the_same_state():
    config = make_config(num_envs=8, group_size=8)
    worker = LocalCollector(config)
    weights = __import__("rayloom.rl.collect", fromlist=["x"]).LocalUpdater(config).weights()
    _, state = worker.worker.collect(weights, GroupTask(0, 30, {}, settings={"epsilon": 1.0}))
    task = GroupTask(0, 30, state, settings={"epsilon": 1.0})
    first, after = worker.worker.collect(weights, task)
    again, after_again = worker.worker.collect(weights, task)
    np.testing.assert_array_equal(first.observation, again.observation)
    equal_states(after, after_again)


def test_group_sizes():
    assert group_sizes(16, 8) == [8, 8]
    assert group_sizes(20, 8) == [8, 8, 4]
    assert group_sizes(1, 8) == [1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EnvConfig(name="CartPole-v7"), "CartPole-v1"),
        (EnvConfig(name="os:system"), "--plugin"),
        (EnvConfig(name="CartPole-v1", kwargs={"gravty": 1}), "gravty"),
        (EnvConfig(name="CartPole-v1", wrappers=["FrameStak"]), "FrameStackObservation"),
        (EnvConfig(name="CartPole-v1", wrappers=["NormalizeReward"]), "checkpoint"),
        (
            EnvConfig(name="CartPole-v1", wrappers=[{"name": "TimeLimit", "steps": 3}]),
            "max_episode",
        ),
        (
            EnvConfig(
                name="CartPole-v1", wrappers=[{"name": "TimeLimit", "max_episode_steps": -5}]
            ),
            "env.wrappers.0.: TimeLimit .* cannot be made: AssertionError",
        ),
        (
            EnvConfig(name="CartPole-v1", wrappers=["GrayscaleObservation"]),
            r"on Box\(.* cannot be made: AssertionError: it does not fit these spaces",
        ),
        (EnvConfig(name="CartPole-v1", wrappers=[{"stack": 3}]), "a wrapper is a name"),
        (EnvConfig(name="CartPole-v1", kwargs={"render_mode": "human"}), "nothing is drawn"),
        (EnvConfig(name="Blackjack-v1"), "FlattenObservation"),
    ],
)
def test_mistakes_are_told_with_the_right_name(config, words):
    with pytest.raises(UserError, match=words):
        spec_of(config)


def test_lists_and_names_of_a_config_become_what_wrappers_want():
    """YAML has neither tuples nor NumPy types."""
    wide = {"name": "DtypeObservation", "dtype": "float16"}
    square = {"name": "ReshapeObservation", "shape": [2, 2]}
    scaled = {"name": "RescaleObservation", "min_obs": -1.0, "max_obs": 1.0}
    config = EnvConfig(name="MountainCar-v0", wrappers=[scaled])
    assert spec_of(config).obs_shape == (2,)
    stacked = {"name": "FrameStackObservation", "stack_size": 2}
    config = EnvConfig(name="MountainCar-v0", wrappers=[stacked, square, wide])
    group, policy = random_group(config, 2)
    rollout = group.collect(3, policy, {})
    assert rollout.observation.shape == (4, 2, 2, 2)
    assert rollout.observation.dtype == np.float32


def test_every_wrapper_of_the_table_exists():
    for name in WRAPPERS:
        assert hasattr(gym.wrappers, name)


def test_discrete_observations_are_one_hot():
    group, policy = random_group(EnvConfig(name="Taxi-v3"), 1)
    rollout = group.collect(5, policy, {})
    assert rollout.observation.shape == (6, 1, 500)
    assert (rollout.observation.sum(-1) == 1).all()
