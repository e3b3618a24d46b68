"""What only the rooms know of a config: names that exist, places that can be written.

`rayloom.core` reads a config without data sets, environments or MLflow. What those rooms have to
say about it is asked here, so that it is told together with every other mistake.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.config.names import model_problem
from rayloom.config.sections import RunConfig
from rayloom.core.errors import ConfigError, Problem, UserError, nearest
from rayloom.core.tasks import Trainable

Plain = Mapping[str, Any]


def everywhere(plain: Plain) -> Iterator[Problem]:
    """What is wrong wherever the run will be: the environment, its wrappers, settings without use.

    Args:
        plain: The config's sections as plain data; they may be wrong in themselves.
    """
    if not isinstance(plain.get("algorithm"), Mapping):
        return
    yield from _env(_section(plain, "env"))
    from rayloom.rl.collect import unsupported

    for path, message in unsupported(plain):
        yield Problem(path, message)


def here(plain: Plain) -> Iterator[Problem]:
    """The same, and what is wrong on this machine: data sets, storage, tracking, device.

    Args:
        plain: See `everywhere`.
    """
    yield from _places(plain)
    resources = _section(plain, "resources")
    yield from _device(resources, _section(plain, "train"))
    if resources.get("workers"):
        yield from _cluster(resources, plain)


def of_trials(plain: Plain) -> Iterator[Problem]:
    """`here` without the device: a sweep's trials have what the cluster gives them.

    Args:
        plain: See `everywhere`.
    """
    yield from _places(plain)
    yield from _cluster(_section(plain, "resources"), plain)


def _places(plain: Plain) -> Iterator[Problem]:
    yield from everywhere(plain)
    if isinstance(plain.get("model"), Mapping):
        yield from _data(_section(plain, "data"))
    yield from _storage(plain.get("storage"))
    yield from _tracking(_section(plain, "tracking").get("uri"))


def check_model_name(config: RunConfig, name: str) -> None:
    """The name under which the best model will be registered, where the config's own is used.

    Args:
        config: Resolved config.
        name: What it is called.

    Raises:
        ConfigError: MLflow would refuse it when the run is over.
    """
    wrong = model_problem(name.rpartition("/")[2].strip())
    if config.tracking.register_as is None and wrong is not None:
        message = f"is needed: {name!r}, the config's name, cannot name a registered model: {wrong}"
        raise ConfigError([Problem("tracking.register_as", message)])


def _section(plain: Plain, key: str) -> Plain:
    found = plain.get(key)
    return found if isinstance(found, Mapping) else {}


def _env(env: Plain) -> Iterator[Problem]:
    from rayloom.config.validate import NAME
    from rayloom.rl.envs.making import RENDERED, id_problem, wrapper_problems

    name, arguments, wrappers = (env.get(key) for key in ("name", "kwargs", "wrappers"))
    if isinstance(name, str) and NAME.match(name):
        wrong = id_problem(name)
        if wrong is not None:
            yield Problem("env.name", wrong[0], suggestion=wrong[1])
    if isinstance(arguments, Mapping) and "render_mode" in arguments:
        yield Problem("env.kwargs.render_mode", RENDERED)
    for path, message, near in wrapper_problems(wrappers if isinstance(wrappers, list) else []):
        yield Problem(path, message, suggestion=near)


def _data(data: Plain) -> Iterator[Problem]:
    from rayloom.config.validate import NAME
    from rayloom.data.preparation import data_source, is_known, known_names

    name, root, source = (data.get(key) for key in ("name", "root", "source"))
    root = root if isinstance(root, str) else None
    if isinstance(name, str) and NAME.match(name) and not is_known(name, root):
        known = known_names(root)
        message = (
            f"no data set is called {name!r}; known: {', '.join(known)} (your own come in with "
            "`rayloom data import`)"
        )
        yield Problem("data.name", message, suggestion=nearest(name, known))
    if isinstance(source, str):
        try:
            data_source(source)
        except UserError as error:
            yield Problem("data.source", str(error).removeprefix("data.source "))


def _storage(storage: Any) -> Iterator[Problem]:
    """The nearest folder that exists must be one in which folders can be made."""
    if not isinstance(storage, str) or not storage:
        return
    if "://" in storage:
        text = (
            f"{storage!r} is no folder; give a path that this machine (and its workers) can write"
        )
        yield Problem("storage", text)
        return
    place = Path(storage).expanduser().absolute()
    try:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        wrong = None if place.is_dir() else f"{place} is not a folder"
        if wrong is None and not os.access(place, os.W_OK | os.X_OK):
            wrong = f"{place} cannot be written"
    except (OSError, ValueError) as error:
        wrong = f"cannot be used: {error}"
    if wrong is not None:
        yield Problem("storage", wrong)


def _tracking(uri: Any) -> Iterator[Problem]:
    if not isinstance(uri, str):
        return
    from rayloom.tracking import resolve_uri

    try:
        resolve_uri(uri, Path.cwd())
    except UserError as error:
        yield Problem("tracking.uri", str(error).removeprefix("tracking.uri "))


def _device(resources: Plain, train: Plain) -> Iterator[Problem]:
    """A device that this process is to train on, and the compiler that it needs for it."""
    device = resources.get("device", "auto")
    if resources.get("workers") or not isinstance(device, str):
        return
    if device.startswith("cuda"):
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = device.partition(":")[2]
        if not count or (number.isdecimal() and int(number) >= count):
            have = f"{count} CUDA device{'s' * (count > 1)}" if count else "no CUDA device"
            yield Problem("resources.device", f"{device!r}, but this machine has {have}")
    elif train.get("compile") is True:
        from rayloom.training.compiled import has_compiler

        if not has_compiler():
            yield Problem("train.compile", "needs a C++ compiler on a CPU (g++, or $CXX)")


def _cluster(resources: Plain, plain: Plain) -> Iterator[Problem]:
    """The Ray that is to be joined must answer; a local one has this machine's GPUs."""
    from rayloom.distributed.joining import TooLargeError, check_address

    address = resources.get("address")
    if address is not None and not isinstance(address, str):
        return
    try:
        check_address(address, _pieces(resources, plain))
    except TooLargeError as error:
        yield Problem("resources", str(error))
        return
    except UserError as error:
        yield Problem("resources.address", str(error).removeprefix("address "))
        return
    each, count = resources.get("gpus_per_worker"), resources.get("workers") or 0
    local = not (address or os.environ.get("RAY_ADDRESS")) or address == "local"
    if not (local and isinstance(each, int | float) and isinstance(count, int) and each > 0):
        return
    import torch

    data_parallel = isinstance(plain.get("model"), Mapping) and count
    wanted = each * count if data_parallel else each
    have = torch.cuda.device_count()
    if wanted > have:
        text = f"{wanted:g} GPUs are needed in all; this machine has {have}"
        yield Problem("resources.gpus_per_worker", text)


def _pieces(resources: Plain, plain: Plain) -> Sequence[Mapping[str, float]]:
    """What must lie on one node each; nothing where that is not said well."""
    from pydantic import ValidationError

    from rayloom.config.sections import ResourcesConfig
    from rayloom.distributed.demand import demand_of

    trainable: Trainable = "engine" if isinstance(plain.get("model"), Mapping) else "rollouts"
    try:
        return demand_of(ResourcesConfig.model_validate(dict(resources)), trainable).pieces
    except ValidationError:  # told elsewhere
        return ()
