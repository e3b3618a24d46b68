"""Names that MLflow takes: told with the config, not by MLflow when the run is over.

The rules are MLflow's own (3.17.2, `mlflow.utils.validation` and its database columns), and a few
of ours: characters that do not print are in no name, `mlflow.` and `rayloom.` belong to the
programs, and a registered model must be found again by `models:/name@alias`. A test compares
them with the installed MLflow.
"""

import posixpath
import re
from collections.abc import Iterator

from rayloom.config.yaml_marks import Node, printable, shown
from rayloom.core.errors import Problem

MAX_KEY = 250
MAX_NAME = 256  # columns of experiments and registered models in MLflow's databases
RESERVED = ("mlflow.", "rayloom.")

_KEY = re.compile(r"[/\w.\- :]+\Z")
_KEY_RULE = "letters, digits, '_', '-', '.', ' ', ':' and single '/' between them"


def key_problem(key: str) -> str | None:
    """Why MLflow refuses the key of a tag or a parameter; None if it takes it."""
    if not _KEY.match(key) or _moves(key):
        return f"MLflow takes no such key; one holds {_KEY_RULE}"
    if len(key) > MAX_KEY:
        return f"MLflow takes no key of {len(key)} characters; at most {MAX_KEY}"
    return None


def experiment_problem(name: str) -> str | None:
    """Why an experiment cannot be called this; None if it can."""
    return _name_problem(name)


def model_problem(name: str) -> str | None:
    """Why a registered model cannot be called this; None if it can."""
    for character in "/:@'":
        if character in name:
            return f"holds {character!r}, which a registered model's name must not"
    return _name_problem(name) or ("leads out of its folder" if _moves(name) else None)


def problems_of(tree: Node) -> Iterator[Problem]:
    """What is wrong with the names in a config: experiment, registered model, tags, parameters."""
    checks = (("experiment", experiment_problem), ("register_as", model_problem))
    for key, check in checks:
        node = tree.at(f"tracking.{key}")
        if node is not None and isinstance(node.value, str):
            wrong = check(node.value)
            if wrong:
                yield Problem(f"tracking.{key}", f"{shown(node.value)}: {wrong}", node.where)
    tags = tree.at("tracking.tags")
    given = tags.value if tags is not None and isinstance(tags.value, dict) else {}
    for key, node in given.items():
        wrong = key_problem(key)
        if wrong is None and key.startswith(RESERVED):
            wrong = f"the names {' and '.join(f'{p}*' for p in RESERVED)} belong to the programs"
        if wrong:
            yield Problem(f"tracking.tags.{printable(key)}", f"{shown(key)}: {wrong}", node.where)
    for path, node in _leaves(tree):
        wrong = None if not path or path.startswith("tracking.") else key_problem(path)
        if wrong:  # a key of the user's own: of env.kwargs, a player, a free mapping of a model
            yield Problem(printable(path), f"as a parameter of the run: {wrong}", node.where)


def _name_problem(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if not name.isprintable():
        return "holds a character that does not print"
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters; MLflow takes at most {MAX_NAME}"
    return None


def _moves(name: str) -> bool:
    """Whether it would be another name as a path: empty, `..`, `a//b`, `/a`."""
    plain = posixpath.normpath(name)
    return plain != name or plain == "." or plain.startswith(("..", "/"))


def _leaves(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    if not isinstance(node.value, dict) or not node.value or "search" in node.value:
        yield path, node
        return
    for key, inner in node.value.items():
        yield from _leaves(inner, f"{path}.{key}" if path else key)
