"""Own models, algorithms, environments and data sets without a fork.

A plugin is a Python file or an importable module with a table at module level:

    CATALOGUE = {
        "models": {"my-vae": "MyVAE"},                        # a name in this file,
        "algorithms": {"my-dqn": MyDQN},                      # the class itself,
        "envs": {"my/Maze-v0": {"target": "my_pkg.maze:Maze", "summary": "a maze"}},
    }

It comes in by `--plugin`, by the variable `RAYLOOM_PLUGINS`, or by the packaging entry point
`rayloom.catalogue`; never from a YAML. Its SHA-256 goes into the run, and a resumed run checks it.
Installed packages are asked when a name is not known otherwise, or when names are listed.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from rayloom.core import catalogue
from rayloom.core.catalogue import KINDS, Entry, Kind
from rayloom.core.errors import UserError, nearest

VARIABLE = "RAYLOOM_PLUGINS"
GROUP = "rayloom.catalogue"
_ABOUT = tuple(f.name for f in fields(Entry) if f.name not in ("name", "target", "source"))


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


def load_plugins(specs: Sequence[str]) -> list[Plugin]:
    """Load plugins by file or module name; loading the same source again changes nothing.

    Raises:
        UserError: No such file or module, an error inside it (with its line), no `CATALOGUE`, or
            a name that something else has.
    """
    return [_load(spec) for spec in dict.fromkeys(specs)]


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
    names = _register(table, sys.modules[module], label, f"plugin {path}")
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


def require_plugins(recorded: Sequence[Mapping[str, Any]], specs: Sequence[str]) -> list[Plugin]:
    """Load the plugins that a run was started with, for a resume, and check that they are the same.

    Args:
        recorded: `Plugin.to_dict()` of each, as the run holds them.
        specs: Plugins given now; a recorded one that none of them replaces is loaded from the
            path that the run noted.

    Raises:
        UserError: A plugin is missing, or its source has changed.
    """
    loaded = load_plugins(specs)
    hashes = {plugin.sha256 for plugin in loaded}
    for one in recorded:
        if one["sha256"] in hashes:
            continue
        given = {name: plugin for plugin in loaded for name in plugin.names}
        clash = next((given[name] for name in one.get("names", ()) if name in given), None)
        if clash is None:
            is_file = str(one["path"]).endswith(".py") or one.get("installed")
            try:
                clash = _load(str(one["path"] if is_file else one["name"]))
            except UserError as error:
                message = f"the run was started with the plugin {one['name']}, which does not load"
                raise UserError(f"{message}; give it by --plugin. {error}") from error
            loaded.append(clash)
        if clash.sha256 != one["sha256"]:
            raise UserError(
                f"the plugin {clash.name} has changed since the run was started "
                f"(SHA-256 {one['sha256'][:12]} then, {clash.sha256[:12]} now); "
                "give the old source by --plugin, or start a new run"
            )
    return loaded


def _load(spec: str) -> Plugin:
    is_file = spec.endswith(".py") or os.sep in spec
    path, digest = _source_of_file(spec) if is_file else _source_of(spec)
    for done in _LOADED.values():
        if done.sha256 == digest and Path(done.path).name == path.name:
            return done  # this file, or a copy of it
    installed = _installed_at(path)
    if installed is not None:
        return installed
    label = f"plugin {spec}"
    module = _import_file(path, digest, label) if is_file else _import_module(spec, label)
    table = getattr(module, "CATALOGUE", None)
    names = _register(table, module, label, f"plugin {path}")
    plugin = Plugin(spec, str(path), digest, names)
    _LOADED[str(path)] = plugin
    return plugin


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def _source_of_file(spec: str) -> tuple[Path, str]:
    path = Path(spec)
    try:
        if (path / "__init__.py").is_file():
            return path.resolve(), _package_sha256(path)
        if not path.is_file() or path.suffix != ".py":
            what = "is a folder without __init__.py" if path.is_dir() else "is no Python file"
            near = _neighbour(path)
            hint = f"; did you mean '{near}'?" if near else ""
            raise UserError(f"plugin {spec}: {what if path.exists() else 'no such file'}{hint}")
        return path.resolve(), hashlib.sha256(path.read_bytes()).hexdigest()
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
        return path.parent, _package_sha256(path.parent)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _package_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _import_file(path: Path, digest: str, label: str) -> ModuleType:
    """Import a file, or the folder of a package (under its own name), wherever it lies."""
    is_package = path.is_dir()
    name = path.name if is_package else f"rayloom_plugin_{_word(path.stem)}_{digest[:8]}"
    file = path / "__init__.py" if is_package else path
    inside = [str(path)] if is_package else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its classes can be found by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(label, error, str(path)) from error
    return module


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


def _register(table: Any, module: ModuleType, label: str, source: str) -> tuple[str, ...]:
    """Put a plugin's table into the catalogue, whole or not at all."""
    if not isinstance(table, Mapping) or not table:
        form = 'CATALOGUE = {"models": {"name": Class}}'
        raise UserError(f"{label}: needs a table at module level such as {form}")
    checked: list[tuple[Kind, str, Any, dict[str, Any]]] = []
    for kind, named in table.items():
        if kind not in KINDS:
            near = nearest(str(kind), KINDS)
            hint = f"; did you mean {near!r}?" if near else ""
            known = ", ".join(KINDS)
            raise UserError(f"{label}: CATALOGUE has the key {kind!r}; known: {known}{hint}")
        if not isinstance(named, Mapping):
            raise UserError(f"{label}: CATALOGUE[{kind!r}] must be a table of names")
        for name, given in named.items():
            checked.append((kind, name, *_target(kind, name, given, module, label)))
    for kind, name, _, _ in checked:
        taken = catalogue.CATALOGUE[kind].get(name)
        if taken is not None and taken.source != source:
            who = taken.source
            raise UserError(f"{label}: adds {kind} {name!r}, a name that {who} has already")
    for kind, name, target, about in checked:
        catalogue.register(kind, name, target, source=source, **about)
    return tuple(f"{kind}/{name}" for kind, name, _, _ in checked)


def _target(
    kind: Kind, name: Any, given: Any, module: ModuleType, label: str
) -> tuple[Any, dict[str, Any]]:
    """(the class or its lazy `module:Class`, what to tell about it)."""
    place = f"{label}: CATALOGUE[{kind!r}][{name!r}]"
    if not isinstance(name, str) or not name or ":" in name or name != name.strip():
        raise UserError(f"{place}: a name is text without ':'")
    about: dict[str, Any] = {}
    if isinstance(given, Mapping):
        about = {key: value for key, value in given.items() if key != "target"}
        unknown = [key for key in about if key not in _ABOUT]
        if unknown or "target" not in given:
            wrong = f"unknown key {unknown[0]!r}" if unknown else "'target' is missing"
            raise UserError(f"{place}: {wrong}; it takes target, {', '.join(_ABOUT)}")
        given = given["target"]
    if isinstance(given, str) and ":" not in given:
        if not hasattr(module, given):
            near = nearest(given, [n for n in vars(module) if not n.startswith("_")])
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"{place}: the file has no {given!r}{hint}")
        given = getattr(module, given)
    if not isinstance(given, str) and not callable(given):
        raise UserError(f"{place}: must be a class, its name in the file, or 'module:Class'")
    if not isinstance(given, str) and "summary" not in about:
        lines = (given.__doc__ or "").strip().splitlines()
        about["summary"] = lines[0] if lines else ""
    if isinstance(about.get("capabilities"), list):
        about["capabilities"] = tuple(about["capabilities"])
    if not isinstance(given, str) and kind in ("models", "algorithms"):
        _check_settings(given, name, place)
    return given, about


def _check_settings(target: Any, name: str, place: str) -> None:
    """A model or learner must name its settings, and their `name` must admit its own."""
    found = getattr(target, "config_class", None)
    info = getattr(found, "model_fields", {}).get("name")
    if not isinstance(found, type) or info is None:
        raise UserError(f"{place}: needs config_class, a Config with name: Literal[{name!r}]")
    if name not in getattr(info.annotation, "__args__", ()):
        raise UserError(f"{place}: the field `name` of {found.__name__} must be Literal[{name!r}]")
