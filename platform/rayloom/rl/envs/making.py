"""Making environments from the `env` section of a config: ids, keyword arguments, wrappers.

A config says names, never code: an id with a module in it is refused, and wrappers come from the
table below. Own environments and wrappers come through a plugin.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator, registry

from rayloom import catalogue
from rayloom.config.sections import EnvConfig
from rayloom.core.errors import UserError, meant, meant_aside, nearest
from rayloom.rl.envs.packages import bring, missing_simulator, nearest_id
from rayloom.rl.envs.spaces import EnvSpec, make_spec

# Wrappers by name. What keeps a memory over episodes (NormalizeObservation, NormalizeReward) is
# missing on purpose: its state is not in any checkpoint, so a resumed run would not be the same.
WRAPPERS: tuple[str, ...] = (
    "AtariPreprocessing",
    "ClipAction",
    "ClipReward",
    "DelayObservation",
    "DtypeObservation",
    "FlattenObservation",
    "FrameStackObservation",
    "GrayscaleObservation",
    "MaxAndSkipObservation",
    "RescaleAction",
    "RescaleObservation",
    "ReshapeObservation",
    "ResizeObservation",
    "StickyAction",
    "TimeAwareObservation",
    "TimeLimit",
)
_REFUSED = {
    "NormalizeObservation": "its running mean is outside every checkpoint",
    "NormalizeReward": "its running mean is outside every checkpoint",
    "Autoreset": "groups reset their environments themselves",
    "RecordVideo": "`rayloom play` and the end of a run write videos",
    "RecordEpisodeStatistics": "returns and lengths are counted anyway",
}
RENDERED = (
    "nothing is drawn while training; `rayloom play` and the end of a run make videos by "
    "themselves. Remove it"
)


def register_own_ids() -> None:
    """Make the ids of `rayloom_envs` and of the catalogue known to Gymnasium."""
    import rayloom_envs

    rayloom_envs.register_all()


def check_id(name: str) -> str:
    """The Gymnasium id of an environment name; a plugin's class is registered under its name.

    Raises:
        UserError: `module:Id`, or no such id; tells the nearest one.
    """
    wrong = id_problem(name)
    if wrong is not None:
        raise UserError(f"env.name: {wrong[0]}{meant(wrong[1])}")
    if name not in registry:
        made = catalogue.load("envs", name)
        limit = getattr(made, "max_episode_steps", None)
        gym.register(id=name, entry_point=made, max_episode_steps=limit)
    return name


def id_problem(name: str) -> tuple[str, str | None] | None:
    """(Why no environment can be made by this name, the nearest that can), or None.

    Nothing is made, so that it can be told with all other mistakes of a config.
    """
    if ":" in name:
        return (
            f"{name!r} has a module in it, and a config must not be able to import code; give the "
            f"id alone, {name.rpartition(':')[2]!r} (what registers it comes in by --plugin)",
            None,
        )
    register_own_ids()
    why = None
    if name not in registry:
        if catalogue.has("envs", name):
            return None
        why = bring(name)
    if name in registry:
        lacks = missing_simulator(name)
        return (lacks, None) if lacks else None
    if why is not None:
        return why, None
    near = nearest_id(name, catalogue.names("envs"))
    space = name.rpartition("/")[0]
    if near is None and space and not any(one.startswith(f"{space}/") for one in registry):
        return (
            f"no installed package has environments of the namespace {space!r}; install the one "
            f"that does, and name its class in a plugin (--plugin FILE.py)",
            None,
        )
    return f"Gymnasium knows no environment {name!r}", near


@contextlib.contextmanager
def _told_as_user_error(what: str) -> Iterator[None]:
    """Errors of an environment's constructor, as a message about the config."""
    try:
        yield
    except UserError:
        raise
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"{what} needs a package that is not installed: {error}") from error
    except (
        gym.error.Error,
        AssertionError,  # how Gymnasium's wrappers check their settings
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
        ImportError,
        OSError,
    ) as error:
        why = str(error) or "it does not fit these spaces"  # Gymnasium asserts without words
        raise UserError(f"{what} cannot be made: {type(error).__name__}: {why}") from error


def make_env(config: EnvConfig, *, render_mode: str | None = None) -> gym.Env:
    """One environment with its wrappers.

    Raises:
        UserError: Unknown id or wrapper, or arguments that the environment does not take.
    """
    name = check_id(config.name)
    arguments = dict(config.kwargs)
    if "render_mode" in arguments:
        raise UserError(f"env.kwargs.render_mode: {RENDERED}")
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    with _told_as_user_error(f"env {config.name!r} with {arguments}"):
        env = gym.make(name, disable_env_checker=True, **arguments)
    for path, message, near in wrapper_problems(config.wrappers):
        raise UserError(f"{path}: {message}{meant_aside(near)}")
    for index, item in enumerate(config.wrappers):
        env = _wrap(env, item, where=f"env.wrappers[{index}]")
    return env


def wrapper_problems(wrappers: Sequence[Any]) -> Iterator[tuple[str, str, str | None]]:
    """(path, what is wrong, the nearest name) of each wrapper that does not exist or fit.

    What is no name or mapping with one is left out: the config's own checks tell it.
    """
    for index, item in enumerate(wrappers):
        path = f"env.wrappers.{index}"
        settings = {"name": item} if isinstance(item, str) else item
        name = settings.get("name") if isinstance(settings, Mapping) else None
        if not isinstance(name, str):
            continue
        if name in _REFUSED:
            yield path, f"wrapper {name} is not supported: {_REFUSED[name]}", None
        elif name not in WRAPPERS:
            known = ", ".join(WRAPPERS)
            yield path, f"no wrapper is called {name!r}; known: {known}", nearest(name, WRAPPERS)
        else:
            known_keys = list(inspect.signature(getattr(gym.wrappers, name)).parameters)[1:]
            for key in settings:
                if key != "name" and key not in known_keys:
                    have = ", ".join(known_keys) or "none"
                    text = f"{name} has no setting {key!r}; known: {have}"
                    yield path, text, nearest(key, known_keys)


def _wrap(env: gym.Env, item: str | dict[str, Any], *, where: str) -> gym.Env:
    settings = {"name": item} if isinstance(item, str) else dict(item)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"{where}: a wrapper is a name or {{name: ..., settings}}, got {item!r}")
    factory: Callable[..., gym.Env] = getattr(gym.wrappers, name)
    seen, acts = env.observation_space, env.action_space
    with _told_as_user_error(f"{where}: {name} with {settings} on {seen} and {acts}"):
        return factory(env, **{key: _python_value(key, value) for key, value in settings.items()})


def _python_value(key: str, value: Any) -> Any:
    """A setting as Gymnasium's wrappers want it: tuples for lists, a NumPy type for `dtype`."""
    if key == "dtype":
        return np.dtype(value).type
    return tuple(value) if isinstance(value, list) else value


def has_vector_form(config: EnvConfig) -> bool:
    """Whether a natively vectorised environment takes these arguments (and no wrappers)."""
    if config.wrappers:
        return False
    entry = gym.spec(check_id(config.name)).vector_entry_point
    if entry is None:
        return False
    try:
        creator = entry if callable(entry) else load_env_creator(entry)
    except ImportError:  # a vector form that needs another package, such as JAX
        return False
    known = inspect.signature(creator).parameters
    return all(key in known for key in config.kwargs)


def make_vector_env(config: EnvConfig, num_envs: int) -> gym.vector.VectorEnv:
    """The natively vectorised form of an environment.

    Raises:
        UserError: Its arguments are wrong.
    """
    name = check_id(config.name)
    with _told_as_user_error(f"env {config.name!r} with {config.kwargs}"):
        return gym.make_vec(
            name, num_envs, vectorization_mode="vector_entry_point", **dict(config.kwargs)
        )


def spec_of(config: EnvConfig) -> EnvSpec:
    """Shapes and kinds of the environment, read from one instance.

    Raises:
        UserError: It cannot be made, or its spaces are not supported.
    """
    env = make_env(config)
    try:
        return make_spec(config.name, env.observation_space, env.action_space)
    finally:
        env.close()
