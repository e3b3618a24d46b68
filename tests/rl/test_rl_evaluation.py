"""Evaluation without first-finisher bias, and videos."""

import numpy as np
import pytest

from rayloom.config.sections import EnvConfig
from rayloom.core.errors import UserError
from rayloom.media.video import write_video
from rayloom.rl.envs.making import spec_of
from rayloom.rl.evaluation import run_episodes
from rayloom.rl.policies import RandomPolicy
from rayloom.rl.video import record

CARTPOLE = EnvConfig(name="CartPole-v1")


def lengths(slots, episodes, seed):
    policy = RandomPolicy(spec_of(CARTPOLE))
    found = run_episodes(
        policy, CARTPOLE, episodes=episodes, num_envs=slots, seed=seed, greedy=False
    ).lengths
    assert len(found) == episodes  # also those that were still running when the first were done
    return found


def test_lengths_of_a_random_policy_do_not_depend_on_the_slots():
    """8 episodes a time, as few as slots: taking the first to finish would halve the mean."""
    truth = lengths(50, 3000, 10_000)
    assert 21.0 < truth.mean() < 23.5
    for slots in (1, 8, 32):
        found = np.concatenate([lengths(slots, max(8, slots), seed) for seed in range(40)])
        error = np.sqrt(truth.var() / len(truth) + found.var() / len(found))
        assert abs(found.mean() - truth.mean()) < 3.5 * error, slots


def test_quotas_and_seeds():
    policy = RandomPolicy(spec_of(CARTPOLE))
    one = run_episodes(policy, CARTPOLE, episodes=13, num_envs=5, seed=4, greedy=False)
    two = run_episodes(policy, CARTPOLE, episodes=13, num_envs=5, seed=4, greedy=False)
    other = run_episodes(policy, CARTPOLE, episodes=13, num_envs=5, seed=5, greedy=False)
    assert len(one.returns) == len(one.lengths) == 13
    np.testing.assert_array_equal(one.returns, two.returns)
    assert not np.array_equal(one.returns, other.returns)
    np.testing.assert_array_equal(one.returns, one.lengths)  # CartPole pays 1 per step
    metrics = one.metrics()
    assert metrics["eval/episodes"] == 13
    assert metrics["eval/return_low"] <= metrics["eval/return_mean"] <= metrics["eval/return_high"]


def test_an_endless_environment_is_named():
    env = EnvConfig(name="rayloom/GridWorld-v0", kwargs={"layout": ["S."]})
    with pytest.raises(UserError, match="time limit"):
        run_episodes(
            RandomPolicy(spec_of(env)), env, episodes=1, num_envs=1, seed=0, greedy=False,
            max_steps=10,
        )  # fmt: skip


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_video_has_one_frame_per_step_and_the_right_return(ending, tmp_path):
    import imageio.v2 as imageio

    policy = RandomPolicy(spec_of(CARTPOLE))
    path = tmp_path / "new" / f"play.{ending}"
    returns = record(policy, CARTPOLE, path, episodes=2, seed=3, greedy=False)
    assert len(returns) == 2
    with imageio.get_reader(path) as reader:
        frames = [np.asarray(frame) for frame in reader]
    drawn = sum(returns) + 2  # the first picture of each episode, and one per step
    assert len(frames) == drawn or (ending == "gif" and 5 < len(frames) < drawn)  # merges twins
    assert frames[0].shape[:2] == (400, 600)
    assert frames[0].std() > 5  # something is drawn
    again = tmp_path / f"again.{ending}"
    assert record(policy, CARTPOLE, again, episodes=2, seed=3, greedy=False) == returns
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("episodes", [0, -3])
def test_no_episodes_are_a_mistake_not_a_default(episodes, tmp_path):
    policy = RandomPolicy(spec_of(CARTPOLE))
    with pytest.raises(UserError, match=f"at least 1, not {episodes}"):
        run_episodes(policy, CARTPOLE, episodes=episodes, num_envs=2, seed=0, greedy=False)
    with pytest.raises(UserError, match=f"at least 1, not {episodes}"):
        record(policy, CARTPOLE, tmp_path / "a.gif", episodes=episodes, greedy=False)


def test_a_path_that_is_no_video_is_told_before_anything_is_played(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.mp4 or \.gif"):
        record(RandomPolicy(spec_of(CARTPOLE)), EnvConfig(name="nothing-v0"), tmp_path / "a.avi")


def test_videos_that_cannot_be_are_told(tmp_path):
    blind = EnvConfig(name="rayloom/ProbeTwoStep-v0")
    with pytest.raises(UserError, match="draw"):
        record(RandomPolicy(spec_of(blind)), blind, tmp_path / "a.mp4", greedy=False)
    with pytest.raises(UserError, match=r"mp4 or \.gif"):
        write_video(tmp_path / "a.avi", [np.zeros((4, 4, 3), np.uint8)], fps=5)
    odd = write_video(tmp_path / "odd.mp4", [np.zeros((5, 7, 3), np.uint8)] * 3, fps=5)
    assert odd.stat().st_size > 0
