"""Configs: YAML, flags, variables and site files to one frozen `RunConfig`, with provenance.

    resolved = load_config("autoencoders/vae-digits", ["optimizer.lr=3e-4"], find=shipped)
    resolved.config.optimizer.lr      # 0.0003
    resolved.why("optimizer.lr")      # "flag optimizer.lr=3e-4"

All mistakes are reported at once, as `ConfigError` (exit code 2): file and line, path of the key,
value, what is allowed, the nearest valid name. A config can only ever name things; it cannot run
code. See `layers` for the order of precedence, `spaces` for search spaces, `yaml_marks` for what
YAML means here.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rayloom.config import names
from rayloom.config.merge import Find, Reading, flags, merge, passwords, site_files, with_defaults
from rayloom.config.renamed import modern, targets
from rayloom.config.schema_walk import OPEN_SECTIONS, ConfigClasses
from rayloom.config.sections import Config, RunConfig
from rayloom.config.spaces import Space, extract
from rayloom.config.validate import build
from rayloom.config.yaml_marks import Node, node_of, shown
from rayloom.config.yaml_text import dump
from rayloom.core.errors import ConfigError, Problem, UserError, did_you_mean

__all__ = [
    "Config",
    "Difference",
    "Resolved",
    "RunConfig",
    "Space",
    "apply",
    "config_from_dict",
    "diff",
    "fingerprint",
    "load_config",
    "resolve",
    "site_settings",
    "to_dict",
    "with_overrides",
]


Known = Callable[[Mapping[str, Any]], Iterable[Problem]]
Check = Callable[[Node], tuple[RunConfig | None, list[Problem]]]


@dataclass(frozen=True)
class Resolved:
    """A config with its history.

    Attributes:
        config: The typed config. Where a search space stands, it holds the space's first end.
        name: `autoencoders/vae-digits`: a shipped name, or the file's stem.
        spaces: Search spaces by dotted path; empty outside a sweep.
        files: The config files read, the named one first.
        image: Container image for a cluster, from a site file; None if nothing says one.
        image_why: Where `image` was set; "" if it was not.
    """

    config: RunConfig
    name: str
    spaces: Mapping[str, Space] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    image: str | None = None
    image_why: str = ""
    _tree: Node = field(default_factory=lambda: Node({}), repr=False)

    def why(self, path: str) -> str:
        """What set a key: `file:line`, `flag a.b=c`, `environment variable X`, `default of X`.

        For a section, one line `path: place` for each of its leaves.

        Raises:
            UserError: There is no such key; tells the nearest one.
        """
        if path == "image":
            return self.image_why or "nothing sets it"
        plain = to_dict(self.config)  # a space counts as the leaf that it replaces
        value = _at(plain, path.split(".") if path else [])
        if value is _ABSENT:
            now = self._now(path)
            near = did_you_mean(path, sorted(_prefixes(leaves(plain))), otherwise="")
            hint = f"; it is {now} now" if now else near
            raise UserError(f"the config has no key {shown(path)}{hint}")
        if isinstance(value, dict) and value and path not in self.spaces:
            return "\n".join(f"{leaf}: {self._leaf(leaf, plain)}" for leaf in leaves(value, path))
        return self._leaf(path, plain)

    def _now(self, path: str) -> str | None:
        """The path that a key of before has now."""
        section, _, key = path.partition(".")
        own = getattr(self.config, section) if section in OPEN_SECTIONS else None
        new = targets(type(own), {**own.model_dump(), key: None}).get(key) if own else None
        return f"{section}.{new}" if new else None

    def place(self, path: str) -> str:
        """Where a key was set, for messages: `file:line` or a flag; "" if nothing sets it."""
        return self._tree.place(path)

    def _leaf(self, path: str, plain: dict[str, Any]) -> str:
        """What set one leaf."""
        if path in self.spaces:
            return f"{self.spaces[path]} from {self._tree.place(path)}"
        parts = path.split(".")
        for count in range(len(parts), 0, -1):
            node = self._tree.at(".".join(parts[:count]))
            if node is not None and (count == len(parts) or not isinstance(node.value, dict)):
                return node.where or "the caller"  # `likelihood: gaussian` also sets its name
        layout = _layout(self.config)
        owners = (layout.locate(parts[:n], plain) for n in range(len(parts), 0, -1))
        owner = next((field.owner for field in owners if field and field.owner), RunConfig)
        return f"default of {owner.__name__}"

    def to_dict(self) -> dict[str, Any]:
        """The whole config as plain data; search spaces stand as mappings."""
        plain = to_dict(self.config)
        for path, space in self.spaces.items():
            holder = plain
            *above, last = path.split(".")
            for part in above:
                holder = holder[part]
            now = self._now(path)
            if now is not None:  # an old key beside a section that is searched for
                *inside, key = now.split(".")
                _at(plain, inside).pop(key, None)
            holder[last] = space.to_dict()
        return plain

    def to_yaml(self) -> str:
        """The whole config, defaults included, as YAML that loads to the same config."""
        return dump(self.to_dict())

    def apply(self, values: Mapping[str, Any]) -> RunConfig:
        """The config of one trial. See `apply`."""
        return apply(self, values)


_ABSENT = object()


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    search: bool = False,
    find: Find | None = None,
    site: Literal["auto"] | Sequence[str | Path] | None = "auto",
    environ: Mapping[str, str] | None = None,
    known: Known | None = None,
) -> Resolved:
    """Read a config by path or shipped name.

    Args:
        source: A YAML file, or a name that `find` knows.
        overrides: `key=value` flags; the value is YAML, typed by the schema. `data=mnist-10k` is
            short for `data.name=mnist-10k` (also model, algorithm, env, optimizer).
        search: Whether leaves may hold search spaces (a sweep).
        find: Path of a shipped config's name; raises UserError for an unknown one.
        site: "auto" reads `rayloom.yaml` in the working folder and the user's own file; a list
            gives other files; None reads none, and no variables: the file alone, as of a run.
        environ: Variables to look at; None: the process's own (none if `site` is None).
        known: Tells what the rooms above know to be wrong (a data set that does not exist), as
            problems without a place; it gets the sections as plain data, wrong ones included.

    Raises:
        ConfigError: Everything that is wrong with it.
    """
    problems: list[Problem] = []
    reading = Reading(find, problems)
    try:
        tree = reading.top(source)
    except ConfigError as error:
        flags(overrides, problems)
        raise ConfigError(_unique([*error.problems, *problems])) from None
    if environ is None:
        environ = {} if site is None else os.environ
    files = site_files(environ) if site == "auto" else [Path(path) for path in site or ()]
    return _resolve(
        tree,
        overrides,
        problems,
        search=search,
        name=reading.name,
        files=tuple(reading.files),
        layers=(environ, files),
        new=site is not None,
        known=known,
    )


def site_settings(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What variables and site files say, by dotted path: for commands that have no config.

    Keys are among `layers.SITE_KEYS` (`storage`, `tracking.uri`, `data.root`, `image` and so on).

    Raises:
        ConfigError: A site file is wrong.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    empty = Node({"data": Node({})})
    tree, image = with_defaults(empty, environ, site_files(environ), problems)
    if problems:
        raise ConfigError(problems)
    found = leaves(tree.plain()) | ({"image": image.value} if image is not None else {})
    return {path: value for path, value in found.items() if value != {}}


def resolve(
    tree: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    search: bool = False,
    name: str = "",
    new: bool = True,
    known: Known | None = None,
) -> Resolved:
    """A config from plain data and flags, without files, variables or site settings.

    Args:
        tree: Sections.
        overrides: Flags as in `load_config`.
        search: Whether leaves may hold search spaces.
        name: What the config is called.
        new: Whether a run is to be started with it. The names that MLflow sees are then checked
            too; those of an older run are read as they are.
        known: See `load_config`.

    Raises:
        ConfigError: Everything that is wrong with it.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError([Problem("", f"a config is a mapping of sections, not {shown(tree)}")])
    return _resolve(
        node_of(dict(tree)), overrides, [], search=search, name=name, new=new, known=known
    )


def config_from_dict(tree: Mapping[str, Any]) -> RunConfig:
    """A config from plain data as a run holds it: the same checks, but for names of an older run.

    Raises:
        ConfigError: Everything that is wrong with it.
    """
    return resolve(tree, new=False).config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """A config as JSON-able data; `config_from_dict` gives the equal config back."""
    plain = config.model_dump(mode="json")
    halves = ("model", "data", "algorithm", "env")
    return {key: value for key, value in plain.items() if value is not None or key not in halves}


def with_overrides(
    config: RunConfig, overrides: Sequence[str], *, allowed: Sequence[str] | None = None
) -> RunConfig:
    """The config with `key=value` flags laid on it.

    Args:
        config: The config to start from.
        overrides: Flags as in `load_config`.
        allowed: Paths that may change (with all below them); None: every one. A resumed run
            changes its length, resources, tracking and stop rules, nothing else.

    Raises:
        ConfigError: Everything that is wrong with it.
    """
    changed = resolve(to_dict(config), overrides, new=False).config
    if allowed is not None:
        check_changes(to_dict(config), to_dict(changed), allowed)
    return changed


def check_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], allowed: Sequence[str]
) -> None:
    """Make sure that a resume changes nothing else than it may.

    Args:
        before: A config as plain data, search spaces included.
        after: The same with the flags of the resume.
        allowed: Paths that may change, with all below them.

    Raises:
        ConfigError: Something else has changed; names all of it.
    """
    text = f"may not change here; only {', '.join(allowed)} may"
    changed = [one.path for one in diff(before, after) if not _covered(one.path, allowed)]
    if changed:
        raise ConfigError([Problem(path, text) for path in changed])


def apply(resolved: Resolved, values: Mapping[str, Any]) -> RunConfig:
    """The config of one trial: `values` by dotted path in the place of the search spaces.

    Raises:
        ConfigError: A space has no value, or a value does not fit.
    """
    missing = [path for path in resolved.spaces if path not in values]
    if missing:
        raise ConfigError([Problem(path, "this search space has no value") for path in missing])
    tree = resolved._tree
    for path in resolved.spaces:
        tree = tree.with_value(path, Node(None, "trial"))
    for path, value in values.items():
        plain = value.item() if hasattr(value, "item") else value
        tree = tree.with_value(path, node_of(plain, f"trial value of {path}", path))
    config, problems = build(tree)
    if config is None:
        raise ConfigError(problems)
    return config


@dataclass(frozen=True)
class Difference:
    """One leaf that two configs do not share; `absent` stands where one has no such leaf."""

    path: str
    left: Any
    right: Any

    absent = "(absent)"

    def __str__(self) -> str:
        sides = [s if s is self.absent else shown(s) for s in (self.left, self.right)]
        return f"{self.path}: {sides[0]} -> {sides[1]}"


def diff(a: RunConfig | Mapping[str, Any], b: RunConfig | Mapping[str, Any]) -> list[Difference]:
    """Leaves in which two configs differ, in the order of the first, then of the second."""
    left, right = (leaves(to_dict(c) if isinstance(c, RunConfig) else c) for c in (a, b))
    found = []
    for path in dict.fromkeys([*left, *right]):
        sides = left.get(path, Difference.absent), right.get(path, Difference.absent)
        if path not in left or path not in right or json.dumps(sides[0]) != json.dumps(sides[1]):
            found.append(Difference(path, *sides))
    return found


def fingerprint(config: RunConfig | Mapping[str, Any]) -> str:
    """SHA-256 of a config's canonical JSON: equal exactly for equal configs.

    Args:
        config: Typed, or as plain data (a sweep's, with its search spaces).
    """
    tree = to_dict(config) if isinstance(config, RunConfig) else config
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path to value; lists and empty mappings are leaves."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            found |= leaves(value, path)
        else:
            found[path] = value
    return found


def _resolve(
    tree: Node,
    overrides: Sequence[str],
    problems: list[Problem],
    *,
    search: bool,
    name: str,
    files: tuple[Path, ...] = (),
    layers: tuple[Mapping[str, str], Sequence[Path]] | None = None,
    new: bool = True,
    known: Known | None = None,
) -> Resolved:
    """Flags and site settings laid on a tree, and all that is wrong with the whole.

    All names of a `new` run must be ones that MLflow takes, else only those that a flag gives: what
    an older run was started with is read as it is.
    """
    tree = merge(tree, flags(overrides, problems))
    image: Node | None = None
    problems += passwords(tree)
    if layers is not None:
        tree, image = with_defaults(tree, *layers, problems)
        problems += passwords(tree)
    tree = modern(tree, problems)
    bare, spaces, unusable = extract(tree, problems, allowed=search)
    check = partial(_build, known=known)
    config, found = check(bare)
    said = {(p.path, p.where) for p in problems}  # of a value that could not be read
    problems += [p for p in found if p.path not in unusable and (p.path, p.where) not in said]
    said = {(p.path, p.where) for p in problems}
    for problem in names.problems_of(bare):
        fresh = new or problem.where.startswith("flag ")
        if fresh and (problem.path, problem.where) not in said:
            problems.append(problem)
    if search:
        problems += _check_spaces(bare, spaces, found, check)
    if problems or config is None:
        raise ConfigError(_unique(problems))
    return Resolved(
        config,
        name,
        spaces,
        files,
        image.value if image else None,
        image.where if image else "",
        tree,
    )


def _build(tree: Node, known: Known | None) -> tuple[RunConfig | None, list[Problem]]:
    """`build`, and what the rooms above know; a path that is wrong already is not told again."""
    config, problems = build(tree)
    said = {problem.path for problem in problems}
    for found in known(tree.plain()) if known is not None else ():
        if found.path not in said:
            problems.append(replace(found, where=found.where or tree.place(found.path)))
    return config, problems


def _check_spaces(
    bare: Node, spaces: Mapping[str, Space], known: list[Problem], check: Check
) -> list[Problem]:
    """What goes wrong when a leaf takes the ends of its space, or a number inside it."""
    seen = set(known)
    problems: list[Problem] = []
    for path, space in spaces.items():
        where = bare.place(path)
        for end in space.ends[1:]:
            for problem in check(bare.with_value(path, node_of(end, where, path)))[1]:
                if problem not in seen:
                    seen.add(problem)
                    text = f"{problem.message} (an end of {space})"
                    problems.append(Problem(problem.path, text, problem.where, problem.suggestion))
        if space.inner is not None and not any(p.path == path for p in [*known, *problems]):
            inside = check(bare.with_value(path, Node(space.inner, where)))[1]
            if any(p.path == path and p not in seen for p in inside):
                text = f"{space} draws real numbers, this key takes whole ones: use int or logint"
                problems.append(Problem(path, text, where))
    return problems


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


def _layout(config: RunConfig) -> ConfigClasses:
    sections = {name: getattr(config, name) for name in OPEN_SECTIONS}
    return ConfigClasses(
        {name: type(value) for name, value in sections.items() if value is not None}
    )


def _at(tree: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if not isinstance(tree, dict) or part not in tree:
            return _ABSENT
        tree = tree[part]
    return tree


def _prefixes(paths: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parts = path.split(".")
        found |= {".".join(parts[: n + 1]) for n in range(len(parts))}
    return found


def _covered(path: str, allowed: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in allowed)
