"""An environment that cannot be made says which package brings it; nothing far off is suggested."""

import sys

import pytest
from gymnasium.envs.registration import registry

from rayloom.core.errors import UserError
from rayloom.rl.envs import packages as env_packages
from rayloom.rl.envs.making import check_id, id_problem


@pytest.fixture
def bare(monkeypatch):
    """A machine with none of the optional packages."""
    optional = {package.module for package in env_packages.PACKAGES}
    real = env_packages.find_spec
    monkeypatch.setattr(
        env_packages, "find_spec", lambda name: None if name in optional else real(name)
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ALE/Pong-v5", 'ale_py, which is not installed: pip install "gymnasium[atari]"'),
        ("ale/breakout-v5", 'pip install "gymnasium[atari]"'),
        ("PongNoFrameskip-v4", 'pip install "gymnasium[atari]"'),
        ("Breakout-v4", 'pip install "gymnasium[atari]"'),
        ("Ant-v5", 'mujoco, which is not installed: pip install "gymnasium[mujoco]"'),
        ("Humanoid-v4", 'pip install "gymnasium[mujoco]"'),
        ("Ant-v3", "use 'Ant-v5'"),
        ("LunarLander-v3", "Box2D, which is not installed: pip install box2d"),
        ("CarRacing-v3", "pip install box2d"),
        ("phys2d/CartPole-v1", 'jax, which is not installed: pip install "gymnasium[jax]"'),
        ("tabular/Blackjack-v0", 'pip install "gymnasium[jax]"'),
        ("MiniGrid-Empty-5x5-v0", "pip install minigrid"),
        ("BabyAI-GoToObj-v0", "pip install minigrid"),
        ("highway-fast-v0", "pip install highway-env"),
        ("mo-lunar-lander-v3", "pip install mo-gymnasium"),
        ("FetchReach-v4", "pip install gymnasium-robotics"),
        ("dm_control/cartpole-swingup-v0", 'pip install "shimmy[dm-control]"'),
        ("MinAtar/Breakout-v1", "pip install minatar"),
        ("procgen/coinrun-v0", "no installed package has environments of the namespace 'procgen'"),
        ("ale_py:ALE/Pong-v5", "give the id alone, 'ALE/Pong-v5'"),
        ("mo_gymnasium:mo-reacher-v5", "give the id alone, 'mo-reacher-v5'"),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(bare, name, words):
    message, near = id_problem(name)
    assert words in message
    assert near is None
    with pytest.raises(UserError) as caught:
        check_id(name)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole", "CartPole-v1"),
        ("CartPole-v9", "CartPole-v1"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("Ant-v9", "Ant-v5"),
        ("rayloom/Gridworld-v3", "rayloom/GridWorld-v0"),
        ("gridworld", "rayloom/GridWorld-v0"),
        ("other/CartPole-v1", "CartPole-v1"),
        ("rayloom/Reacher-v0", None),
        ("Quadruped-v1", None),
    ],
)
def test_only_a_near_name_is_suggested(name, near):
    assert id_problem(name)[1] == near


def test_an_installed_package_is_imported_when_its_id_is_asked_for(tmp_path, monkeypatch):
    """Most register at import only; a package outside the table is never imported."""
    text = "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
    (tmp_path / "minigrid.py").write_text(
        f"{text}gymnasium.register(id='MiniGrid-Test-v0', entry_point=CartPoleEnv)\n"
    )
    (tmp_path / "highway_env.py").write_text("1 / 0")
    (tmp_path / "minatar").mkdir()  # its ids are registered by a function of a module inside
    (tmp_path / "minatar" / "__init__.py").write_text("")
    (tmp_path / "minatar" / "gym.py").write_text(
        f"{text}def register_envs():\n"
        "    gymnasium.register(id='MinAtar/Breakout-v1', entry_point=CartPoleEnv)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert id_problem("MiniGrid-Test-v0") is None
        assert id_problem("MiniGrid-Tset-v0")[1] == "MiniGrid-Test-v0"
        assert "which fails: ZeroDivisionError" in id_problem("highway-fast-v0")[0]
        assert id_problem("MinAtar/Breakout-v1") is None
    finally:
        registry.pop("MinAtar/Breakout-v1", None)
        for module in ("minatar.gym", "minatar", "minigrid"):
            sys.modules.pop(module, None)
        registry.pop("MiniGrid-Test-v0", None)
