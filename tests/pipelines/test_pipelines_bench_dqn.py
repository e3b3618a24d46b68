"""The first table of `rayloom bench dqn`: the same settings on every side."""

from rayloom_pipelines.benchmarks import dqn_sides as sides


def test_our_side_takes_the_updates_of_the_table():
    row = sides.rayloom(num_envs=4, steps=1_600, seed=0, best=False)
    assert row["env_steps"] >= 1_600
    assert row["updates"] == (row["env_steps"] - sides.WARM_UP) // sides.TRAIN_EVERY
    assert 8 <= row["score"] <= 500


def test_stock_rllib_has_our_network_loss_clipping_and_exploration():
    """RLlib's defaults differ in each of these (tanh, 40, double and dueling, prioritised)."""
    config = sides._rllib_config(num_envs=1, seed=0, best=False)
    model = config.model_config
    assert (model["fcnet_hiddens"], model["fcnet_activation"]) == (sides.WIDTHS, sides.ACTIVATION)
    assert model["head_fcnet_hiddens"] == []
    assert (config.grad_clip, config.grad_clip_by) == (sides.CLIP_NORM, "global_norm")
    assert (config.double_q, config.dueling, config.noisy, config.n_step) == (0, 0, 0, 1)
    assert (config.num_atoms, config.tau, config.td_error_loss_fn) == (1, 1.0, "huber")
    assert config.replay_buffer_config["type"] == "EpisodeReplayBuffer"
    assert config.epsilon == [(0, 1.0), (sides.EPSILON_STEPS, sides.EPSILON_END)]
    assert config.target_network_update_freq == sides.TARGET_ENV_STEPS
    assert sides.TARGET_ENV_STEPS % sides.TRAIN_EVERY == sides.WARM_UP % sides.TARGET_ENV_STEPS == 0
    per_sample = config.rollout_fragment_length * config.num_envs_per_env_runner
    assert per_sample == sides.TRAIN_EVERY
    assert config.training_intensity * sides.TRAIN_EVERY == sides.BATCH
