"""Files, `extends:`, flags, variables and site files: everything that is merged into one tree.

Order of precedence: flag, config, environment variable, `rayloom.yaml` in the working folder, the
user's own `rayloom/config.yaml`. A null in a config lets the lower layers speak where they may.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rayloom.config.schema_walk import default_name, is_player_mapping
from rayloom.config.sections import LENGTHS, RunConfig, TrainConfig
from rayloom.config.spaces import parse_call
from rayloom.config.yaml_marks import Node, parse, printable, read_text, shown
from rayloom.core.errors import ConfigError, Problem, UserError, nearest
from rayloom.core.secrets import mask_urls

MAX_EXTENDS_DEPTH = 10
MAX_EXTENDS_FILES = 64
SUFFIXES = (".yaml", ".yml")
SHIPPED = re.compile(r"[A-Za-z0-9][\w-]*(?:/[A-Za-z0-9][\w-]*)*\Z")
NAMED = ("model", "data", "algorithm", "env", "optimizer")
OPEN = ("model.", "algorithm.")  # sections whose words may be short for a section
SITE_KEYS = (
    "tracking.uri",
    "tracking.experiment",
    "tracking.tags",
    "storage",
    "resources.address",
    "data.root",
    "image",
)
VARIABLES = {
    "RAYLOOM_STORAGE": "storage",
    "MLFLOW_TRACKING_URI": "tracking.uri",
    "RAY_ADDRESS": "resources.address",
    "RAYLOOM_DATA_ROOT": "data.root",
}
_DEFAULT_NAMES = {
    "optimizer": default_name(RunConfig.model_fields["optimizer"].annotation),
    "train.schedule": default_name(TrainConfig.model_fields["schedule"].annotation),
}

Find = Callable[[str], Path]


def merge(base: Node, over: Node, path: str = "") -> Node:
    """`over` laid on `base`: mappings merge key by key, anything else replaces.

    A mapping whose `name` differs replaces the whole section, so that no stale key survives. A
    search space and a per-player optimizer never mix with what they replace; a training length
    takes the place of one given in another unit. A plain word on a section of a model is its name:
    `network: conv` on `network: {name: conv, channels: [8]}` keeps the channels.
    """
    if not path:
        over = _ranked(over, 1 + _rank(base))
    elif path.startswith(OPEN):
        base, over = _named(base, over), _named(over, base)
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if "search" in base.value or "search" in over.value:
        return over
    if path == "optimizer" and is_player_mapping(base.value) != is_player_mapping(over.value):
        return over if over.value else base
    if path and "name" in over.value and path not in ("tracking.tags", "env.kwargs"):
        unsaid = _DEFAULT_NAMES.get("optimizer" if path.startswith("optimizer") else path)
        before = base.value.get("name", Node(unsaid))
        if before.value != over.value["name"].value:
            return over
    merged = dict(base.value)
    if path == "train" and any(_says(over, key) for key in LENGTHS):
        for key in LENGTHS:
            merged.pop(key, None)
    for key, node in over.value.items():
        inner = f"{path}.{key}" if path else key
        merged[key] = merge(merged[key], node, inner) if key in merged else node
    return Node(merged, over.where or base.where)


def _named(word: Node, other: Node) -> Node:
    """A word beside a section: the mapping that it is short for. Anything else as it is."""
    section = isinstance(other.value, dict) and "search" not in other.value
    return Node({"name": word}, word.where) if section and isinstance(word.value, str) else word


def _rank(node: Node) -> int:
    inner = node.value.values() if isinstance(node.value, dict) else ()
    return max([node.rank, *(_rank(child) for child in inner)])


def _ranked(node: Node, rank: int) -> Node:
    if isinstance(node.value, dict):
        return Node({k: _ranked(v, rank) for k, v in node.value.items()}, node.where, rank)
    return Node(node.value, node.where, rank)


def _says(node: Node, key: str) -> bool:
    found = node.value.get(key)
    return found is not None and found.value is not None


@dataclass
class Reading:
    """Reads one config and what it extends.

    Attributes:
        find: Path of a shipped config's name; raises UserError for an unknown one.
        problems: All that is wrong so far.
        files: The files read, in order.
    """

    find: Find | None
    problems: list[Problem]
    files: list[Path] = field(default_factory=list)
    name: str = ""

    def top(self, source: str | Path) -> Node:
        """The merged tree of a config given by path or shipped name.

        Raises:
            ConfigError: The file cannot be read as a mapping of sections.
        """
        text = str(source)
        path = Path(source)
        is_file = text.endswith(SUFFIXES) or isinstance(source, Path) or _is_file(path)
        if is_file or self.find is None:
            self.name = _stem(path)
        else:
            path = self._shipped(text, "")
            self.name = text
        return self._tree(path, text if is_file else _display(path), self._root(path), ())

    def _root(self, path: Path) -> Path:
        """The folder that relative `extends` may not leave: the working folder, or the file's."""
        folder, here = _resolved(path).parent, Path.cwd().resolve()
        return here if folder.is_relative_to(here) else folder

    def _shipped(self, name: str, where: str) -> Path:
        if self.find is None:
            message = f"{shown(name)} is no file, and shipped names are not known here"
            raise ConfigError([Problem("extends", message, where)])
        if not SHIPPED.match(name):
            message = f"{shown(name)} is neither a .yaml file nor a shipped name such as rl/dqn"
            raise ConfigError([Problem("extends" if where else "", message, where)])
        try:
            return Path(self.find(name))
        except ConfigError:
            raise
        except UserError as error:
            path = "extends" if where else ""
            raise ConfigError([Problem(path, str(error), where)]) from None

    def _tree(self, path: Path, shown_as: str, root: Path, chain: tuple[Path, ...]) -> Node:
        self.files.append(path)
        node = parse(read_text(path, shown_as), shown_as, self.problems)
        if node is None or node.value is None:
            message = "is empty; a config is a mapping of sections"
            raise ConfigError([Problem("", message, shown_as)])
        if not isinstance(node.value, dict):
            if any(problem.where == node.where for problem in self.problems):
                raise ConfigError([])  # said already: a tag makes it what it is
            got = "a list" if isinstance(node.value, list) else f"the value {shown(node.value)}"
            message = f"the top level must be a mapping of sections, not {got}"
            raise ConfigError([Problem("", message, node.where or shown_as)])
        own = {key: inner for key, inner in node.value.items() if key != "extends"}
        tree = Node(own, shown_as)
        if "extends" not in node.value:
            return tree
        merged = Node({}, shown_as)
        here = (*chain, _resolved(path))
        for entry in self._entries(node.value["extends"]):
            merged = merge(merged, self._base(entry, path, root, here))
        return merge(merged, tree)

    def _entries(self, node: Node) -> list[Node]:
        items = node.value if isinstance(node.value, list) else [node]
        good = [item for item in items if isinstance(item.value, str)]
        if len(good) < len(items):
            message = "must be a file or a shipped name, or a list of them"
            self.problems.append(Problem("extends", message, node.where))
        return good

    def _base(self, entry: Node, path: Path, root: Path, chain: tuple[Path, ...]) -> Node:
        empty = Node({}, entry.where)
        try:
            target, folder = self._target(entry, path, root)
            resolved = _resolved(target)
            if resolved in chain:
                names = " -> ".join(p.name for p in (*chain[chain.index(resolved) :], resolved))
                raise ConfigError([Problem("extends", f"runs in a circle: {names}", entry.where)])
            if len(chain) >= MAX_EXTENDS_DEPTH:
                message = f"more than {MAX_EXTENDS_DEPTH} files extend one another"
                raise ConfigError([Problem("extends", message, entry.where)])
            if len(self.files) >= MAX_EXTENDS_FILES:
                message = f"more than {MAX_EXTENDS_FILES} files are extended in all"
                raise ConfigError([Problem("extends", message, entry.where)])
            return self._tree(target, _display(target), folder, chain)
        except ConfigError as error:
            for problem in error.problems:
                if not problem.path and problem.where == _display(path.parent / entry.value):
                    text = f"{problem.where}: {problem.message}"  # of the whole file: say who asks
                    problem = Problem("extends", text, entry.where, problem.suggestion)
                self.problems.append(problem)
            return empty

    def _target(self, entry: Node, path: Path, root: Path) -> tuple[Path, Path]:
        """(file that an entry of `extends` names, folder that its own entries may not leave)."""
        text = entry.value
        if not text.endswith(SUFFIXES):
            found = self._shipped(text, entry.where)
            return found, self._root(found)
        target = Path(text)
        inside = not target.is_absolute() and "\0" not in text
        target = path.parent / target
        if not inside or not _resolved(target).is_relative_to(root):
            message = f"{shown(text)} leads out of {root.name or root}/; give a path inside it"
            raise ConfigError([Problem("extends", message, entry.where)])
        return target, root


def flags(overrides: Sequence[str], problems: list[Problem]) -> Node:
    """The tree that `key=value` flags describe; later ones win."""
    tree = Node({})
    for text in overrides:
        key, equals, value = text.partition("=")
        key, where = key.strip(), f"flag {printable(text)}"
        if not equals or not key or not all(key.split(".")):
            message = "an override is key=value, such as optimizer.lr=1e-3"
            problems.append(Problem("", message, where))
            continue
        if len(key.split(".")) > 20 or len(value) > 10_000:
            problems.append(Problem("", "is too long for an override", where))
            continue
        wrong: list[Problem] = []
        try:
            node = parse_call(value, where, problems, key)
            node = node or parse(value, where, wrong, lines=False) or Node(None, where)
        except ConfigError as error:
            problems += error.problems
            continue
        finally:
            problems += [replace(p, path=f"{key}.{p.path}".removesuffix(".")) for p in wrong]
        short = key in (*NAMED, "train.schedule")
        if short and (isinstance(node.value, str) or _is_choice(node)):
            key = f"{key}.name"
        tree = tree.with_value(key, _marked(node, where))
    return tree


def _is_choice(node: Node) -> bool:
    return isinstance(node.value, dict) and node.value.get("search", Node(None)).value == "choice"


def _marked(node: Node, where: str) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _marked(inner, where) for key, inner in node.value.items()}, where)
    return Node(node.value, where)


def site_files(environ: Mapping[str, str]) -> list[Path]:
    """The site file of the working folder, then the user's own; whether they exist or not."""
    home = environ.get("XDG_CONFIG_HOME") or environ.get("APPDATA")
    folder = Path(home) if home else Path(environ.get("HOME") or Path.home()) / ".config"
    return [Path("rayloom.yaml"), folder / "rayloom" / "config.yaml"]


def with_defaults(
    tree: Node, environ: Mapping[str, str], files: Sequence[Path], problems: list[Problem]
) -> tuple[Node, Node | None]:
    """The tree with what variables and site files say where it is silent; and the cluster image."""
    image: Node | None = None
    layers = [_variables(environ)] + [_site_file(path, problems) for path in files]
    for layer in layers:
        for path, node in layer.items():
            if path == "image":
                image = image or node
                continue
            section = path.split(".")[0]
            if section == "data" and section not in tree.value:
                continue
            holder = tree.at(path.rpartition(".")[0])
            if holder is not None and not isinstance(holder.value, dict):
                continue
            present = tree.at(path)
            if present is None or present.value is None:
                tree = tree.with_value(path, node)
    if image is not None and not isinstance(image.value, str):
        problems.append(Problem("image", f"must be text, not {shown(image.plain())}", image.where))
        image = None
    return tree, image


def _variables(environ: Mapping[str, str]) -> dict[str, Node]:
    found = {}
    for variable, path in VARIABLES.items():
        value = environ.get(variable)
        # A password stays in the environment, where MLflow finds it; the config never holds one.
        if value and not has_password(value):
            found[path] = Node(value, f"environment variable {variable}")
    return found


def _site_file(path: Path, problems: list[Problem]) -> dict[str, Node]:
    """The settings of one site file by dotted path; {} if there is none."""
    if not _is_file(path):
        return {}
    name = _display(path)
    try:
        tree = parse(read_text(path, name), name, problems)
    except ConfigError as error:
        problems += error.problems
        return {}
    if tree is None or tree.value is None:
        return {}
    if not isinstance(tree.value, dict):
        problems.append(Problem("", "the top level must be a mapping of settings", name))
        return {}
    leaves: dict[str, Node] = {}
    for key, node in tree.value.items():
        if key in ("tracking", "resources", "data") and isinstance(node.value, dict):
            leaves |= {f"{key}.{inner}": value for inner, value in node.value.items()}
        else:
            leaves[key] = node
    for key in [key for key in leaves if key not in SITE_KEYS]:
        message = f"a site file may set only {', '.join(SITE_KEYS)}"
        where = leaves.pop(key).where
        problems.append(Problem(printable(key), message, where, nearest(key, SITE_KEYS)))
    return {key: node for key, node in leaves.items() if node.value is not None}


def passwords(tree: Node) -> list[Problem]:
    """Passwords inside the URIs of a config: they would be written into the run and MLflow."""
    problems = []
    for path in ("tracking.uri", "storage", "resources.address"):
        node = tree.at(path)
        if node is not None and isinstance(node.value, str) and has_password(node.value):
            message = (
                "holds a password; secrets belong in the environment (MLFLOW_TRACKING_URI, "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            )
            problems.append(Problem(path, message, node.where.partition("=")[0]))
    return problems


def has_password(uri: str) -> bool:
    """Whether a URI carries `user:password@`, or a token as the user of a web address."""
    return mask_urls(uri) != uri


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path.absolute()


def _display(path: Path) -> str:
    """Relative to the working folder if the file is inside it."""
    here = Path.cwd()
    absolute = path if path.is_absolute() else here / path
    absolute = Path(os.path.normpath(absolute))
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _stem(path: Path) -> str:
    """`configs/rl/dqn-cartpole.yaml` is called `rl/dqn-cartpole`; others by their stem."""
    bare = path.with_suffix("") if path.name else path
    parts = bare.parts
    if "configs" in parts:
        last = len(parts) - 1 - parts[::-1].index("configs")
        if parts[last + 1 :]:
            return "/".join(parts[last + 1 :])
    return bare.name
