"""Which package brings an environment: what to install where an id or its simulator is missing.

The table names packages, and only what stands in it is ever imported because of an id: a config
still cannot bring code in. A package that is installed is imported when one of its ids is asked
for, since most register their ids with Gymnasium at import only.
"""

import contextlib
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from gymnasium.envs.registration import registry

_CLOSE = 0.72  # of two ids' bare names; the version says nothing about which task was meant


@dataclass(frozen=True)
class Package:
    """A package that brings environments, or the simulator that some of Gymnasium's own need.

    Attributes:
        module: What is imported.
        install: How to get it.
        ids: The ids that it registers; None for a simulator.
        entry: Beginning of the entry points that need it.
        registers: The module of it that registers the ids; "" if `module` itself does.
    """

    module: str
    install: str
    ids: re.Pattern[str] | None = None
    entry: str = ""
    registers: str = ""


def _ids(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_ATARI = (
    "Adventure|AirRaid|Alien|Amidar|Assault|Asterix|Asteroids|Atlantis|BankHeist|BattleZone|"
    "BeamRider|Berzerk|Bowling|Boxing|Breakout|Carnival|Centipede|ChopperCommand|CrazyClimber|"
    "Defender|DemonAttack|DoubleDunk|ElevatorAction|Enduro|FishingDerby|Freeway|Frostbite|Gopher|"
    "Gravitar|Hero|IceHockey|Jamesbond|JourneyEscape|Kangaroo|Krull|KungFuMaster|"
    "MontezumaRevenge|MsPacman|NameThisGame|Phoenix|Pitfall|Pong|Pooyan|PrivateEye|Qbert|"
    "Riverraid|RoadRunner|Robotank|Seaquest|Skiing|Solaris|SpaceInvaders|StarGunner|Surround|"
    "Tennis|TimePilot|Tutankham|UpNDown|Venture|VideoPinball|WizardOfWor|YarsRevenge|Zaxxon"
)
PACKAGES = (
    Package(
        "ale_py",
        'pip install "gymnasium[atari]"',
        _ids(rf"ALE/|\w+(NoFrameskip|Deterministic)-v|\w+-ram\w*-v|({_ATARI})-v"),
    ),
    Package("minigrid", "pip install minigrid", _ids("MiniGrid-|BabyAI-")),
    Package(
        "highway_env",
        "pip install highway-env",
        _ids(r"(highway|merge|roundabout|parking|intersection|racetrack|exit|two-way|u-turn)-.*v"),
    ),
    Package("mo_gymnasium", "pip install mo-gymnasium", _ids("mo-")),
    Package(
        "gymnasium_robotics",
        "pip install gymnasium-robotics",
        _ids("Fetch|HandReach|HandManipulate|AdroitHand|PointMaze|AntMaze|FrankaKitchen|MaMuJoCo"),
    ),
    Package("shimmy", 'pip install "shimmy[dm-control]"', _ids("dm_control/")),
    Package("shimmy", 'pip install "shimmy[bsuite]"', _ids("bsuite/")),
    Package("minatar", "pip install minatar", _ids("MinAtar/"), registers="minatar.gym"),
    Package("mujoco", 'pip install "gymnasium[mujoco]"', entry="gymnasium.envs.mujoco"),
    # Not gymnasium[box2d]: it wants a compiler, and a pygame that writes over pygame-ce's files.
    Package("Box2D", "pip install box2d", entry="gymnasium.envs.box2d"),
    Package("jax", 'pip install "gymnasium[jax]"', entry="gymnasium.envs.phys2d"),
    Package("jax", 'pip install "gymnasium[jax]"', entry="gymnasium.envs.tabular"),
)


def missing_simulator(name: str) -> str | None:
    """What a registered id lacks, and how to install it; None if nothing is known to be missing."""
    entry = registry[name].entry_point
    if getattr(entry, "__name__", "") == "_raise_mujoco_py_error":
        newest = _newest([other for other in registry if _bare(other) == _bare(name)])
        return f"{name!r} needs MuJoCo's old binding, which is gone; use {newest!r}"
    for package in PACKAGES:
        needed = package.entry and isinstance(entry, str) and entry.startswith(package.entry)
        if needed and not _installed(package.module):
            return f"{name!r} needs {package.module}, which is not installed: {package.install}"
    return None


def bring(name: str) -> str | None:
    """Import the package that registers an id, if it is installed; why it cannot be had, or None.

    Returns:
        None also where no package of the table has such ids.
    """
    package = next((p for p in PACKAGES if p.ids is not None and p.ids.match(name)), None)
    if package is None:
        return None
    if not _installed(package.module):
        return f"{name!r} comes with {package.module}, which is not installed: {package.install}"
    try:
        module: Any = importlib.import_module(package.registers or package.module)
        register = getattr(module, "register_envs", None)  # MinAtar's way
        known = any(package.ids.match(one) for one in registry if package.ids is not None)
        if not known and callable(register):
            register()
    except Exception as error:  # someone else's package: whatever it raises, it cannot be used
        return f"{name!r} comes with {package.module}, which fails: {type(error).__name__}: {error}"
    if not any(package.ids.match(one) for one in registry if package.ids is not None):
        return f"{name!r} comes with {package.module}, which lacks something: {package.install}"
    return None


def nearest_id(name: str, more: Iterable[str] = ()) -> str | None:
    """The known id that was most likely meant, by its name without namespace and version.

    A namespace that is known limits the choice to it: an Atari game is never mistaken for a robot.
    """
    known = list(dict.fromkeys([*registry, *more]))
    space = name.rpartition("/")[0].lower()
    inside = [one for one in known if one.rpartition("/")[0].lower() == space]
    if space and inside:
        known = inside
    names: dict[str, list[str]] = {}
    for one in known:
        names.setdefault(_bare(one), []).append(one)
    found = get_close_matches(_bare(name), names, n=1, cutoff=_CLOSE)
    return _newest(names[found[0]]) if found else None


def _bare(name: str) -> str:
    """`ALE/Pong-v5` without namespace, version and capitals: `pong`."""
    return re.sub(r"-v\d+\Z", "", name.rpartition("/")[2]).lower()


def _newest(names: list[str]) -> str:
    """The one with the highest version."""

    def version(name: str) -> int:
        found = re.search(r"-v(\d+)\Z", name)
        return int(found[1]) if found else 0

    return max(names, key=version)


def _installed(module: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        return find_spec(module) is not None
    return False
