"""A grid world that exposes its transition matrix.

Observation: `Discrete(rows * columns)`, the cell's number `row * columns + column`.
Actions: 0 up, 1 right, 2 down, 3 left. Bumping into a wall or the border stays in place.
Rewards: `step_reward` for each step; `goal_reward` on arriving at G and `pit_reward` on arriving at
H are added to it.
Episode end: termination at G or H; truncation after 100 steps (the id's time limit).
Start: uniform over the cells marked S.
Arguments: `layout` (rows of equal length made of S start, `.` floor, `#` wall, G goal, H pit),
`slip` (probability that the move goes to one of the two sides instead, half each), the rewards.
"""

from typing import Any

import numpy as np

from rayloom_envs.tabular import MDP, TabularEnv, TabularVectorEnv

DEFAULT_LAYOUT = ("S...", ".#.H", "....", "H..G")
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
_COLOURS = {
    "S": (222, 235, 247),
    ".": (255, 255, 255),
    "#": (90, 90, 90),
    "G": (120, 190, 120),
    "H": (60, 60, 120),
}


def make_mdp(
    layout: tuple[str, ...] | list[str] = DEFAULT_LAYOUT,
    *,
    slip: float = 0.1,
    step_reward: float = -0.01,
    goal_reward: float = 1.0,
    pit_reward: float = -1.0,
) -> MDP:
    """The process of a grid.

    Raises:
        ValueError: Rows of unequal length, an unknown mark, no start, or slip outside [0, 1].
    """
    _check(layout, slip)
    columns = len(layout[0])
    cells = "".join(layout)
    s = len(cells)
    transition, reward = np.zeros((s, 4, s)), np.zeros((s, 4, s))
    gain = np.array([{"G": goal_reward, "H": pit_reward}.get(c, 0.0) for c in cells])
    for state, mark in enumerate(cells):
        for action in range(4):
            if mark in "GH#":
                transition[state, action, state] = 1.0
                continue
            for turn, p in ((0, 1.0 - slip), (-1, slip / 2), (1, slip / 2)):
                there = _neighbour(layout, state, MOVES[(action + turn) % 4], columns)
                transition[state, action, there] += p
            reward[state, action] = np.where(transition[state, action] > 0, step_reward + gain, 0.0)
    terminal = np.array([c in "GH" for c in cells])
    initial = np.array([c == "S" for c in cells], float)
    return MDP(transition, reward, terminal, initial / initial.sum())


def _check(layout: tuple[str, ...] | list[str], slip: float) -> None:
    if not layout or len({len(row) for row in layout}) != 1 or not layout[0]:
        raise ValueError(f"layout must be rows of equal length, got {list(layout)}")
    unknown = set("".join(layout)) - set(_COLOURS)
    if unknown:
        raise ValueError(f"layout has unknown marks {sorted(unknown)}; known: {''.join(_COLOURS)}")
    if "S" not in "".join(layout):
        raise ValueError("layout has no start S")
    if not 0.0 <= slip <= 1.0:
        raise ValueError(f"slip must lie in [0, 1], got {slip}")


def _neighbour(
    layout: tuple[str, ...] | list[str], state: int, move: tuple[int, int], columns: int
) -> int:
    row, column = state // columns + move[0], state % columns + move[1]
    inside = 0 <= row < len(layout) and 0 <= column < columns
    return row * columns + column if inside and layout[row][column] != "#" else state


class GridWorld(TabularEnv):
    """One grid world; the arguments are those of `make_mdp`."""

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        *,
        layout: tuple[str, ...] | list[str] = DEFAULT_LAYOUT,
        slip: float = 0.1,
        step_reward: float = -0.01,
        goal_reward: float = 1.0,
        pit_reward: float = -1.0,
        render_mode: str | None = None,
    ) -> None:
        self.layout = tuple(layout)
        mdp = make_mdp(
            self.layout,
            slip=slip,
            step_reward=step_reward,
            goal_reward=goal_reward,
            pit_reward=pit_reward,
        )
        super().__init__(mdp, render_mode=render_mode)

    def render(self) -> Any:
        """`ansi`: text with the agent as A. `rgb_array`: uint8 (32 rows, 32 columns, 3)."""
        columns = len(self.layout[0])
        row, column = divmod(self.state, columns)
        if self.render_mode == "ansi":
            text = [list(line) for line in self.layout]
            text[row][column] = "A"
            return "\n".join("".join(line) for line in text) + "\n"
        if self.render_mode == "rgb_array":
            small = np.array([[_COLOURS[c] for c in line] for line in self.layout], np.uint8)
            frame = small.repeat(32, axis=0).repeat(32, axis=1)
            frame[::32], frame[:, ::32] = 200, 200  # grid lines
            frame[32 * row + 9 : 32 * row + 24, 32 * column + 9 : 32 * column + 24] = (200, 60, 60)
            return frame
        return None


class GridWorldVector(TabularVectorEnv):
    """N grid worlds stepped by array operations; arguments as in `GridWorld`."""

    def __init__(
        self,
        *,
        num_envs: int = 1,
        layout: tuple[str, ...] | list[str] = DEFAULT_LAYOUT,
        slip: float = 0.1,
        step_reward: float = -0.01,
        goal_reward: float = 1.0,
        pit_reward: float = -1.0,
        max_episode_steps: int = 0,
        render_mode: str | None = None,
    ) -> None:
        mdp = make_mdp(
            tuple(layout),
            slip=slip,
            step_reward=step_reward,
            goal_reward=goal_reward,
            pit_reward=pit_reward,
        )
        super().__init__(
            mdp, num_envs=num_envs, max_episode_steps=max_episode_steps, render_mode=render_mode
        )
