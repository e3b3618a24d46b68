"""Gymnasium environments with exact answers: `gym.make("rayloom/GridWorld-v0")`.

Importing this package registers the ids and nothing else; an environment's module is imported when
the environment is made. See docs/envs.md.
"""

from gymnasium.envs.registration import register, registry

PROBES = {
    "rayloom/ProbeConstantReward-v0": ("constant_reward", 1),
    "rayloom/ProbeObsReward-v0": ("obs_reward", 1),
    "rayloom/ProbeTwoStep-v0": ("two_step", 2),
    "rayloom/ProbeTwoAction-v0": ("two_action", 1),
    "rayloom/ProbeObsAction-v0": ("obs_action", 1),
}


def register_all() -> None:
    """Register every id of this package; ids that are registered already stay as they are."""
    if "rayloom/GridWorld-v0" not in registry:
        register(
            id="rayloom/GridWorld-v0",
            entry_point="rayloom_envs.gridworld:GridWorld",
            vector_entry_point="rayloom_envs.gridworld:GridWorldVector",
            max_episode_steps=100,
        )
    for name, (probe, steps) in PROBES.items():
        if name not in registry:
            register(
                id=name,
                entry_point="rayloom_envs.probes:Probe",
                vector_entry_point="rayloom_envs.probes:ProbeVector",
                kwargs={"probe": probe},
                max_episode_steps=steps + 8,
            )


register_all()
