"""Own models, algorithms, environments and data sets without a fork.

A plugin is a Python file or an importable module with a table at module level:

    CATALOGUE = {
        "models": {"my-vae": "MyVAE"},                        # a name in this file,
        "algorithms": {"my-dqn": MyDQN},                      # the class itself,
        "envs": {"my/Maze-v0": {"target": "my_pkg.maze:Maze", "summary": "a maze"}},
    }

It comes in by `--plugin`, by the variable `RAYLOOM_PLUGINS`, or by the packaging entry point
`rayloom.catalogue`; never from a YAML, and never because a run folder names it. Its SHA-256 goes
into the run, and a resumed run checks it; what runs without being named again is only what the user
of this machine has named before (`rayloom.core.trust`). Installed packages are asked when a name is
not known otherwise, or when names are listed.
"""

import importlib.metadata
import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from rayloom.catalogue.plugin_source import import_source, sha256_of
from rayloom.catalogue.plugin_table import register_table
from rayloom.core.errors import UserError, meant, nearest
from rayloom.core.trust import TrustedPlugin, remember_plugin, trust_problem, trusted_plugin

VARIABLE = "RAYLOOM_PLUGINS"
GROUP = "rayloom.catalogue"
_package_sha256 = sha256_of


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        name: What was asked for: the file as given, or the module's name.
        path: Absolute path of its source, a file or a package's folder: what a worker process
            gives to `load_plugins`.
        sha256: Hash of that source.
        names: The catalogue names it added, as `models/my-vae`.
        installed: Whether an installed package offered it: a run that uses none of its names does
            not depend on it.
    """

    name: str
    path: str
    sha256: str
    names: tuple[str, ...] = ()
    installed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for `run.json`."""
        return {**asdict(self), "names": list(self.names)}


_LOADED: dict[str, Plugin] = {}  # by path


def load_plugins(specs: Sequence[str], *, remember: bool = True) -> list[Plugin]:
    """Load plugins by file or module name; loading the same source again changes nothing.

    Args:
        specs: Which ones; whoever calls this answers for them.
        remember: Note them as allowed on this machine. False on workers, which carry the trust of
            their driver.

    Raises:
        UserError: No such file or module, an error inside it (with its line), no `CATALOGUE`, or
            a name that something else has.
    """
    found = [_load(spec) for spec in dict.fromkeys(specs)]
    for plugin in found:
        if remember and not plugin.installed:
            is_path = plugin.name.endswith(".py") or os.sep in plugin.name
            name = plugin.path if is_path else plugin.name
            remember_plugin(TrustedPlugin(plugin.sha256, name, plugin.path))
    return found


def plugin_specs(flags: Sequence[str], environ: Mapping[str, str] | None = None) -> list[str]:
    """What `--plugin` flags and the variable `RAYLOOM_PLUGINS` (like PATH) ask for, once each."""
    environ = os.environ if environ is None else environ
    listed = [part for part in environ.get(VARIABLE, "").split(os.pathsep) if part.strip()]
    return list(dict.fromkeys([*flags, *listed]))


def loaded() -> list[Plugin]:
    """The plugins of this process, in the order in which they came."""
    return list(_LOADED.values())


def load_installed() -> list[Plugin]:
    """Load what installed packages offer under the entry point `rayloom.catalogue`.

    Raises:
        UserError: One of them cannot be loaded, or its table is wrong.
    """
    return [_offered(point) for point in importlib.metadata.entry_points(group=GROUP)]


def _offered(point: importlib.metadata.EntryPoint) -> Plugin:
    """Load one entry point; the source that counts is that of its whole top-level package."""
    module = point.module
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
    label = f"installed plugin {point.name} (of {package})"
    try:
        path, digest = _source_of(module.partition(".")[0])
        done = _LOADED.get(str(path))
        if done is not None and done.sha256 == digest and done.installed:
            return done
        offered = point.load()
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    except (Exception, SystemExit) as error:
        raise _broken(label, error, module.replace(".", os.sep)) from error
    table = offered if isinstance(offered, Mapping) else getattr(offered, "CATALOGUE", None)
    names = register_table(table, sys.modules[module], label, f"plugin {path}")
    plugin = Plugin(module, str(path), digest, names, installed=True)
    _LOADED[str(path)] = plugin
    return plugin


def _installed_at(path: Path) -> Plugin | None:
    """The installed plugin whose source lies there, if there is one."""
    for point in importlib.metadata.entry_points(group=GROUP):
        spec = importlib.util.find_spec(point.module.partition(".")[0])
        places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
        if str(path) in [str(Path(place).resolve()) for place in places]:
            return _offered(point)
    return None


def require_plugins(
    recorded: Sequence[Mapping[str, Any]], specs: Sequence[str], *, same: bool = True
) -> list[Plugin]:
    """Load the plugins that a run was started with, if they may run here.

    A recorded one is taken from what this process has loaded, from an installed package, or from
    what this machine has trusted before, always by its hash; the run only tells which.

    Args:
        recorded: `Plugin.to_dict()` of each, as the run holds them.
        specs: Plugins given now.
        same: Whether they must be the same, as for a resume; else one that brings the same names
            will do.

    Raises:
        UserError: A plugin is missing, nobody has allowed it here, or its source has changed.
    """
    found = load_plugins(specs)
    refused: list[str] = []
    for one in recorded:
        named = {*one.get("names", ())}
        others = [p for p in (found if same else loaded()) if named & {*p.names}]
        plugin = _of_hash(one["sha256"]) or next(iter(others), None)
        if plugin is None:
            plugin = _told(one, lambda one: _trusted(one) or _installed_with(one))
        elif plugin.sha256 == one["sha256"]:
            plugin = _told(one, partial(_still, plugin))
        if plugin is None:
            refused.append(_refusal(one))
        elif plugin.sha256 != one["sha256"] and (same or plugin not in loaded()):
            raise UserError(
                f"the plugin {plugin.name} has changed since the run was started "
                f"(SHA-256 {one['sha256'][:12]} then, {plugin.sha256[:12]} now); "
                "give the old source by --plugin, or start a new run"
            )
        elif plugin not in found:
            found.append(plugin)
    if refused:
        raise UserError("\n".join(refused))
    return found


def paths_of(recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where workers find a run's plugins: the sources that this process has loaded.

    Args:
        recorded: `Plugin.to_dict()` of each, as the run holds them.

    Raises:
        UserError: As `require_plugins`.
    """
    require_plugins(recorded, ())
    return [plugin.path for one in recorded if (plugin := _of_hash(one["sha256"])) is not None]


def recorded_as(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Plugins as a run holds them, of which only the paths are known.

    Raises:
        UserError: One cannot be read.
    """
    found = []
    for path in paths:
        source, digest = _source_of_file(path)
        found.append(Plugin(path, str(source), digest).to_dict())
    return found


def _told(
    one: Mapping[str, Any], load: Callable[[Mapping[str, Any]], Plugin | None]
) -> Plugin | None:
    """A recorded plugin as it loads; an error says that the run needs it."""
    try:
        return load(one)
    except UserError as error:
        message = f"the run was started with the plugin {one['name']}, which does not load"
        raise UserError(f"{message}; give it by --plugin. {error}") from error


def _still(plugin: Plugin, _: Mapping[str, Any]) -> Plugin:
    """A loaded plugin, or what has become of its source: workers and jobs load it from there.

    Raises:
        UserError: The source is gone.
    """
    digest = _digest_at(plugin.path)
    if digest is None:
        raise UserError(f"plugin {plugin.path}: no such file")
    return plugin if digest == plugin.sha256 else replace(plugin, sha256=digest)


def _of_hash(sha256: str) -> Plugin | None:
    return next((plugin for plugin in loaded() if plugin.sha256 == sha256), None)


def _installed_with(one: Mapping[str, Any]) -> Plugin | None:
    """What an installed package offers of this hash, or else under these names."""
    offered = load_installed()
    same = [plugin for plugin in offered if plugin.sha256 == one["sha256"]]
    named = [plugin for plugin in offered if {*one.get("names", ())} & {*plugin.names}]
    return next(iter([*same, *named]), None)


def _trusted(one: Mapping[str, Any]) -> Plugin | None:
    """A recorded plugin that this machine has trusted before, loaded; None if it has not.

    Raises:
        UserError: It has, and its source is gone, has changed or does not load.
    """
    known = trusted_plugin(one["sha256"])
    if known is None:
        return None
    changed = None
    for path in dict.fromkeys([known.path, one["path"]]):
        digest = _digest_at(path)
        if digest == known.sha256:
            if Path(path).is_dir() and _is_importable(known.name, path):
                return _load(known.name)
            return _load(path, exact=True)
        changed = changed or digest
    if changed is None:
        raise UserError(f"plugin {known.path}: no such file")
    return Plugin(one["name"], known.path, changed)


def _is_importable(name: str, path: str) -> bool:
    """Whether a top-level module of this name is what lies there; nothing is imported."""
    if "." in name or not name.isidentifier():
        return False
    spec = importlib.machinery.PathFinder.find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return any(os.path.realpath(place) == os.path.realpath(path) for place in places)


def _digest_at(path: str) -> str | None:
    """Hash of a plugin's source; None where there is none."""
    try:
        place = Path(path)
        is_source = place.suffix == ".py" or (place / "__init__.py").is_file()
        return sha256_of(place.resolve()) if is_source and place.is_absolute() else None
    except (OSError, ValueError):
        return None


def _refusal(one: Mapping[str, Any]) -> str:
    """Why a recorded plugin does not run, which file it would be, and how to allow it."""
    path, sha256 = str(one["path"]), one["sha256"]
    digest = _digest_at(path)
    what = f"the run was started with the plugin {one['name']} ({path}, SHA-256 {sha256})"
    why = "a run folder is data: it cannot make code run that was not allowed on this machine"
    if digest == sha256:
        how = f"read that file first, then allow it with --plugin {shlex.quote(path)}"
    elif digest is None:
        how = "there is no such file here; give it with --plugin FILE"
    else:
        how = f"the file there is another one (SHA-256 {digest}); give the old one by --plugin FILE"
    problem = trust_problem()
    note = f" (what was allowed before does not count: {problem})" if problem else ""
    return f"{what}; {why}{note}. To go on, {how}"


def _load(spec: str, *, exact: bool = False) -> Plugin:
    is_file = spec.endswith(".py") or os.sep in spec
    path, digest = _source_of_file(spec) if is_file else _source_of(spec)
    for done in _LOADED.values():
        if done.sha256 == digest and Path(done.path).name == path.name:
            return done  # this file, or a copy of it
    installed = _installed_at(path)
    if installed is not None:
        return installed
    label = f"plugin {spec}"
    module = _import_file(path, digest, label, exact) if is_file else _import_module(spec, label)
    table = getattr(module, "CATALOGUE", None)
    names = register_table(table, module, label, f"plugin {path}")
    plugin = Plugin(spec, str(path), digest, names)
    _LOADED[str(path)] = plugin
    return plugin


def _source_of_file(spec: str) -> tuple[Path, str]:
    path = Path(spec)
    try:
        if (path / "__init__.py").is_file():
            return path.resolve(), sha256_of(path)
        if not path.is_file() or path.suffix != ".py":
            what = "is a folder without __init__.py" if path.is_dir() else "is no Python file"
            hint = meant(_neighbour(path))
            raise UserError(f"plugin {spec}: {what if path.exists() else 'no such file'}{hint}")
        return path.resolve(), sha256_of(path.resolve())
    except OSError as error:
        raise UserError(f"plugin {spec}: cannot be read: {error.strerror}") from None


def _neighbour(path: Path) -> str | None:
    try:
        found = nearest(path.name, [p.name for p in path.parent.glob("*.py")])
    except OSError:
        return None
    return str(path.parent / found) if found else None


def _source_of(module: str) -> tuple[Path, str]:
    """The source of an importable module and its hash; of a package, all its Python files."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    except (Exception, SystemExit) as error:  # of the package that holds it
        raise _broken(f"plugin {module}", error, module.partition(".")[0]) from error
    path = Path(spec.origin or "").resolve() if spec is not None else Path()
    if spec is None or not path.is_file():
        raise UserError(
            f"plugin {module}: no such module; a plugin is FILE.py or the name of a module that "
            "Python can import here"
        )
    if spec.submodule_search_locations:
        return path.parent, sha256_of(path.parent)
    return path, sha256_of(path)


def _import_file(path: Path, digest: str, label: str, exact: bool) -> ModuleType:
    try:
        return import_source(path, digest, exact=exact)
    except (Exception, SystemExit) as error:
        raise _broken(label, error, str(path)) from error


def _import_module(name: str, label: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _broken(label, error, name.replace(".", os.sep)) from error


def _broken(label: str, error: BaseException, source: str) -> UserError:
    """What went wrong inside a plugin, with the line in its own source."""
    if isinstance(error, SyntaxError):
        return UserError(f"{label}, line {error.lineno}: syntax error: {error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if source in frame.filename]
    line = f", line {own[-1].lineno}" if own else ""
    return UserError(f"{label}{line}: {type(error).__name__}: {error}")
