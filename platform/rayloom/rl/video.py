"""Videos of a policy at work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.config.sections import EnvConfig
from rayloom.core.errors import UserError
from rayloom.core.seeding import numpy_stream, stream_seed
from rayloom.core.swaps import variables
from rayloom.media.video import checked_path, write_video
from rayloom.rl.envs.making import make_env
from rayloom.rl.envs.spaces import EnvSpec, make_spec
from rayloom.rl.policies import Policy

# Drawing libraries do without a screen, a sound card and a greeting.
_NO_SCREEN = {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}


def frames(
    policy: Policy,
    env: EnvConfig,
    *,
    episodes: int,
    seed: int,
    greedy: bool = True,
    settings: Mapping[str, Any] | None = None,
    max_frames: int = 2_000,
) -> tuple[list[np.ndarray], list[float], int]:
    """Play and draw.

    Args:
        policy: With weights loaded.
        env: The environment.
        episodes: Episodes to play, one after the other.
        seed: Of starts and actions.
        greedy: Best actions, or the behaviour with `settings`.
        settings: Of the behaviour, such as epsilon.
        max_frames: Stop drawing after so many.

    Returns:
        uint8 pictures (H, W, 3), the returns of the episodes that ended, frames per second.

    Raises:
        UserError: The environment cannot draw, or no episode is wanted.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    with variables(_NO_SCREEN):
        return _play(
            policy,
            env,
            episodes=episodes,
            seed=seed,
            greedy=greedy,
            settings=settings,
            max_frames=max_frames,
        )


def _play(
    policy: Policy,
    env: EnvConfig,
    *,
    episodes: int,
    seed: int,
    greedy: bool,
    settings: Mapping[str, Any] | None,
    max_frames: int,
) -> tuple[list[np.ndarray], list[float], int]:
    made = make_env(env, render_mode="rgb_array")
    spec = make_spec(env.name, made.observation_space, made.action_space)
    rng = numpy_stream(seed, "video", "acting")
    pictures: list[np.ndarray] = []
    returns: list[float] = []
    try:
        for episode in range(episodes):
            seen, _ = made.reset(seed=stream_seed(seed, "video", episode))
            pictures.append(_draw(made, env.name))
            total, over = 0.0, False
            while not over and len(pictures) < max_frames:
                action = _action(policy, spec, seen, rng, greedy=greedy, settings=settings or {})
                seen, reward, terminated, truncated, _ = made.step(action)
                total += float(reward)
                over = bool(terminated or truncated)
                pictures.append(_draw(made, env.name))
            if over:
                returns.append(total)
        return pictures, returns, int(made.metadata.get("render_fps") or 30)
    finally:
        made.close()


def _action(
    policy: Policy,
    spec: EnvSpec,
    seen: Any,
    rng: np.random.Generator,
    *,
    greedy: bool,
    settings: Mapping[str, Any],
) -> Any:
    observation = np.empty((1, *spec.obs_shape), spec.obs_dtype)
    spec.encode(seen, observation[0])
    chosen = policy.best(observation) if greedy else policy.act(observation, rng, settings)[0]
    if spec.action_kind == "discrete":
        return int(chosen[0]) + spec.action_start
    return np.asarray(chosen[0], np.float32)


def _draw(env: Any, name: str) -> np.ndarray:
    try:
        picture = env.render()
    except Exception as error:  # whatever a drawing library raises, said as one line
        raise UserError(f"{name} cannot draw: {type(error).__name__}: {error}") from error
    if not isinstance(picture, np.ndarray):
        raise UserError(f"{name} draws no pictures (render_mode rgb_array)")
    return picture


def record(
    policy: Policy,
    env: EnvConfig,
    path: str | Path,
    *,
    episodes: int = 1,
    seed: int = 0,
    greedy: bool = True,
    settings: Mapping[str, Any] | None = None,
    max_frames: int = 2_000,
) -> list[float]:
    """Play some episodes into a video; returns the returns of those that ended.

    Raises:
        UserError: The environment cannot draw, or the path's ending is unknown.
    """
    checked_path(path)  # before anything is played
    pictures, returns, fps = frames(
        policy,
        env,
        episodes=episodes,
        seed=seed,
        greedy=greedy,
        settings=settings,
        max_frames=max_frames,
    )
    write_video(path, pictures, fps=fps)
    return returns
