"""The DQN learner: kernels, schedules, exact values on small worlds."""

import numpy as np
import pytest
import torch
from rl_helpers import Points, equal_states, make_config, never, train

from rayloom.config.sections import AdamConfig, EnvConfig, RunConfig, SGDConfig, TrainConfig
from rayloom.core.errors import NonFiniteError, UserError
from rayloom.optim import FlatParameters
from rayloom.rl.algorithms.dqn import DQN, DQNConfig
from rayloom.rl.algorithms.q_kernel import AutogradKernel, PerceptronKernel, make_kernel
from rayloom.rl.algorithms.q_network import NumpyQ, QNetwork
from rayloom.rl.collect import make_learner
from rayloom.rl.envs.spaces import EnvSpec
from rayloom.rl.learner import LearnerContext
from rayloom.rl.loop import RLTrainable
from rayloom_envs import gridworld, probes

pytestmark = pytest.mark.law("dqn")

SPEC = EnvSpec(name="toy", obs_shape=(3,), num_actions=4)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("widths", [[], [8], [16, 8]])
@pytest.mark.parametrize("weighted", [False, True])
def test_hand_written_gradient_equals_autograd(dueling, double, activation, widths, weighted):
    nets = [
        QNetwork(SPEC, widths, activation=activation, dueling=dueling, seed=1) for _ in range(2)
    ]
    flats = [FlatParameters(net.parameters()) for net in nets]
    fast = make_kernel(nets[0], flats[0], batch_size=6, double=double, delta=0.7)
    assert isinstance(fast, PerceptronKernel)
    slow = AutogradKernel(nets[1], flats[1], double=double, delta=0.7)
    rng = np.random.default_rng(0)
    for _ in range(3):
        batch = (
            rng.normal(size=(2, 6, 3)).astype(np.float32),
            rng.integers(0, 4, 6),
            rng.normal(size=6).astype(np.float32),
            (0.9 * (rng.random(6) < 0.7)).astype(np.float32),
            rng.normal(size=(6, 4)).astype(np.float32),
            rng.random(6).astype(np.float32) if weighted else None,
        )
        for a, b in zip(fast.gradient(*batch), slow.gradient(*batch), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert flats[1].grad.abs().max() > 0
        torch.testing.assert_close(flats[0].grad, flats[1].grad, atol=1e-6, rtol=1e-5)


def test_numpy_acting_equals_the_torch_network():
    for dueling in (False, True):
        net = QNetwork(SPEC, [16, 8], dueling=dueling, seed=2)
        acting = NumpyQ(activation="relu", dueling=dueling)
        acting.load({name: p.detach() for name, p in net.state_dict().items()})
        x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        np.testing.assert_allclose(acting(x), net(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_pictures_are_scaled_alike_in_torch_and_numpy():
    spec = EnvSpec(name="toy", obs_shape=(2, 2, 3), obs_dtype="uint8", num_actions=2)
    net = QNetwork(spec, [8], seed=2)
    acting = NumpyQ(activation="relu", dueling=False)
    acting.load({name: p.detach() for name, p in net.state_dict().items()})
    x = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3)).astype(np.uint8)
    np.testing.assert_allclose(acting(x), net(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_initial_weights_come_from_the_seed_and_leave_torch_alone():
    before = torch.get_rng_state()
    a, b, c = (QNetwork(SPEC, [8], seed=s) for s in (1, 1, 2))
    assert torch.equal(a.body[0].weight, b.body[0].weight)
    assert not torch.equal(a.body[0].weight, c.body[0].weight)
    assert torch.equal(before, torch.get_rng_state())


def test_epsilon_and_update_count_follow_the_clock():
    config = DQNConfig(
        learning_starts=100, train_every=0.5, epsilon={"start": 1.0, "end": 0.2, "env_steps": 100}
    )
    assert config.epsilon_at(0) == 1.0
    assert config.epsilon_at(50) == pytest.approx(0.6)
    assert config.epsilon_at(1000) == pytest.approx(0.2)
    assert config.grad_steps(99) == 0
    assert config.grad_steps(110) == 20
    trained = train(make_config(steps=1000, train_every=3.0))
    assert trained.updater.learner.grad_step == trained.algorithm.grad_steps(trained.env_step)
    assert trained.to_clock("grad_steps", 10) == 130
    with pytest.raises(UserError, match="env_steps"):
        trained.to_clock("epochs", 1)


def test_the_target_network_is_a_copy_of_so_many_steps_ago():
    config = make_config(steps=2000, target_period=7, round_env_steps=16, num_envs=2)
    trainable = RLTrainable(config)
    learner = trainable.updater.learner
    seen = {}
    step = learner._step

    def watched():
        step()
        seen[learner.grad_step] = learner.flat.data.clone()

    learner._step = watched
    while trainable.env_step < 600:
        trainable.advance(trainable.env_step + 1, sink=Points(), interrupted=never)
        last = learner.grad_step // 7 * 7
        if last:
            assert torch.equal(learner.flat_target.data, seen[last])
    assert learner.grad_step > 30


def probe_config(name, steps, **more):
    settings = {
        "gamma": 0.9,
        "learning_starts": 64,
        "round_env_steps": 64,
        "train_every": 1.0,
        "target_period": 20,
        "batch_size": 32,
        "widths": [32],
        "epsilon": {"start": 1.0, "end": 1.0, "env_steps": 1},
    }
    return RunConfig(
        algorithm=DQNConfig(**{**settings, **more}),
        env=EnvConfig(name=name, num_envs=8, group_size=8),
        optimizer=AdamConfig(lr=5e-3),
        train=TrainConfig(env_steps=steps),
    )


VARIANTS = {
    "plain": {"double": False},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "prioritized": {"replay": {"prioritized": True}},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("probe", probes.NAMES)
def test_dqn_solves_the_probe_ladder(probe, variant):
    """Its values equal the exact ones in every state that a decision is taken in."""
    name = "rayloom/Probe" + "".join(w.title() for w in probe.split("_")) + "-v0"
    trained = train(probe_config(name, 1500, **VARIANTS[variant]))
    mdp, observations = probes.make_mdp(probe)
    alive = ~mdp.terminal
    q = trained.updater.learner.online(torch.from_numpy(observations[alive])).detach().numpy()
    np.testing.assert_allclose(q, probes.optimal_q(mdp, 0.9)[alive], atol=0.08)


@pytest.mark.parametrize("n_step", [1, 3])
def test_values_on_the_grid_are_those_of_dynamic_programming(n_step):
    """One-hot cells and a linear network make it tabular Q-learning.

    n-step targets without correction are those of the behaviour policy for n - 1 steps, so for
    n = 3 the exploration is small and the tolerance wider.
    """
    layout = ["S.", ".#", "SG"]
    gamma = 0.8
    config = probe_config(
        "rayloom/GridWorld-v0",
        6000,
        widths=[],
        gamma=gamma,
        n_step=n_step,
        target_period=10,
        batch_size=64,
        epsilon={"start": 1.0, "end": 0.5 if n_step == 1 else 0.02, "env_steps": 2000},
        replay={"capacity": 4000},
    )
    env = config.env.model_copy(update={"kwargs": {"layout": layout, "slip": 0.0}})
    config = config.model_copy(update={"env": env, "optimizer": AdamConfig(lr=1e-2)})
    trained = train(config)
    mdp = gridworld.make_mdp(layout, slip=0.0)
    exact = probes.optimal_q(mdp, gamma)
    q = trained.updater.learner.online(torch.eye(6)).detach().numpy()
    cells = [s for s in range(6) if layout[s // 2][s % 2] in "S."]
    tolerance = 0.03 if n_step == 1 else 0.1
    np.testing.assert_allclose(q.max(1)[cells], exact.max(1)[cells], atol=tolerance)
    assert (exact[cells, q.argmax(1)[cells]] > exact[cells].max(1) - 0.05).all()


def test_terminated_and_truncated_worlds_get_different_values():
    """An endless reward of 1 under a time limit is worth 1 / (1 - gamma), not what is left."""
    layout = {"layout": ["S"], "step_reward": 1.0}
    config = probe_config("rayloom/GridWorld-v0", 6000, gamma=0.8, widths=[], target_period=5)
    wrappers = [{"name": "TimeLimit", "max_episode_steps": 3}]
    env = EnvConfig(
        name="rayloom/GridWorld-v0", num_envs=8, group_size=8, kwargs=layout, wrappers=wrappers
    )
    trained = train(config.model_copy(update={"env": env, "optimizer": AdamConfig(lr=2e-2)}))
    q = trained.updater.learner.online(torch.ones(1, 1)).detach()
    torch.testing.assert_close(q, torch.full((1, 4), 5.0), atol=0.3, rtol=0)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("prioritized", [False, True])
def test_learner_state_round_trip(n_step, prioritized):
    config = make_config(n_step=n_step, replay={"prioritized": prioritized, "capacity": 500})
    trained = train(config)
    learner, twin = trained.updater.learner, make_learner(config)
    state = learner.state_dict()
    twin.load_state_dict(state)
    equal_states(twin.state_dict(), state)
    assert all(torch.equal(a, twin.parameters()[k]) for k, a in learner.parameters().items())


def test_prioritized_updates_weigh_by_the_probability_of_the_draw():
    """Each gradient gets (N P)^-beta / max, with the priorities as the last update left them."""
    config = make_config(replay={"prioritized": True, "beta": 0.5, "alpha": 1.0})
    trainable = RLTrainable(config)
    learner, seen = trainable.updater.learner, []
    draw, gradient = learner.replay.draw, learner.kernel.gradient

    def spied_draw(batch_size):
        slots, probability = draw(batch_size)
        leaves = learner.replay.tree.leaves
        np.testing.assert_allclose(probability, leaves[slots] / leaves.sum())
        beta = 0.5 + 0.5 * learner.grad_step / learner.horizon
        w = (len(learner.replay) * probability) ** -beta
        seen.append((w / w.max(), slots))
        return slots, probability

    def spied_gradient(pair, action, reward, discount, q_next, weight):
        np.testing.assert_allclose(weight, seen[-1][0], rtol=1e-5)
        return gradient(pair, action, reward, discount, q_next, weight)

    learner.replay.draw, learner.kernel.gradient = spied_draw, spied_gradient
    trainable.advance(300, sink=Points(), interrupted=never)
    assert len(seen) > 20
    assert np.ptp(seen[-1][0]) > 0.01


def test_other_optimizers_clipping_and_schedule():
    config = make_config(steps=600)
    for optimizer in (SGDConfig(lr=1e-2, momentum=0.9), AdamConfig(lr=1e-3)):
        train_section = TrainConfig(env_steps=600, clip_norm=1e-4, schedule={"name": "linear"})
        trained = train(config.model_copy(update={"optimizer": optimizer, "train": train_section}))
        assert trained.updater.learner.grad_step > 0
        if isinstance(optimizer, SGDConfig):  # a clipped gradient moves next to nothing
            fresh = make_learner(config).flat.data
            moved = (trained.updater.learner.flat.data - fresh).abs().max()
            assert 0 < moved < 1e-2


def test_a_loss_that_is_not_finite_is_named():
    learner = make_learner(make_config())
    td = np.full((1, 16), np.nan, np.float32)
    with pytest.raises(NonFiniteError, match="loss/td"):
        learner._metrics(td, td)


def test_continuous_actions_are_refused():
    with pytest.raises(UserError, match="discrete"):
        make_learner(make_config("Pendulum-v1"))
    box = EnvSpec(name="x", obs_shape=(1,), action_kind="box", action_shape=(1,))
    with pytest.raises(UserError, match="discrete"):
        DQN(LearnerContext(config=DQNConfig(), spec=box))
