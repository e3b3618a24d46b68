"""The environments that come along, a line each."""

from rayloom.catalogue.entry import Entry

INDEX = (
    Entry(
        "rayloom/GridWorld-v0",
        "rayloom_envs.gridworld:GridWorld",
        "Grid world that exposes its transition matrix P",
        "tabular",
    ),
)
