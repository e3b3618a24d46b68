"""Typed search spaces: what a leaf of a config may hold in a sweep instead of a value.

In YAML `lr: {search: loguniform, low: 1e-5, high: 1e-2}`, on the command line
`optimizer.lr=loguniform(1e-5,1e-2)`. Nothing here knows Tune or Optuna: the sweep room converts.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rayloom.config.yaml_marks import Node, parse, shown
from rayloom.core.errors import ConfigError, Problem, nearest

SpaceKind = Literal["uniform", "loguniform", "int", "logint", "choice"]
KINDS: tuple[SpaceKind, ...] = get_args(SpaceKind)
SEARCHABLE = ("model", "data", "algorithm", "env", "optimizer", "train", "evaluation", "seed")
MAX_ENDS = 500  # each is checked by building the config with it
FREE_TEXT = ("tracking.tags", "train.stop")  # mappings whose keys the user invents

_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Space:
    """The values that a search may give to one leaf.

    Attributes:
        kind: `uniform` and `loguniform` draw real numbers, `int` and `logint` whole ones, `choice`
            one of `values`.
        low: Lower end, included; None for a choice.
        high: Upper end, included; None for a choice.
        values: The choices; empty otherwise.
    """

    kind: SpaceKind
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that the field must accept: both ends, or every choice."""
        return self.values if self.kind == "choice" else (self.low, self.high)

    @property
    def inner(self) -> float | None:
        """A number strictly inside that is not whole, where real numbers are drawn; else None."""
        if self.kind not in ("uniform", "loguniform"):
            return None
        assert self.low is not None
        assert self.high is not None
        middle = self.low + (self.high - self.low) * 0.5
        return middle if middle != int(middle) else self.low + (self.high - self.low) * 0.4999

    def to_dict(self) -> dict[str, Any]:
        """The mapping that a config file holds for it."""
        if self.kind == "choice":
            return {"search": self.kind, "values": list(self.values)}
        return {"search": self.kind, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        items = self.values if self.kind == "choice" else (self.low, self.high)
        return f"{self.kind}({', '.join(shown(item, 20) for item in items)})"


def parse_call(text: str, name: str, problems: list[Problem], path: str) -> Node | None:
    """The node of `loguniform(1e-5,1e-2)` or `choice(a,b)`; None if the text is no such call."""
    found = _CALL.match(text)
    if not found:
        return None
    kind, inside = found.groups()
    if kind not in KINDS:
        near = nearest(kind, KINDS)
        if near is None:
            return None
        known = ", ".join(KINDS)
        problems.append(Problem(path, f"no search space is called {kind!r} ({known})", name, near))
        return Node(None, name)
    arguments = parse(f"[{inside}]", name, problems, lines=False)
    assert arguments is not None
    if not isinstance(arguments.value, list):  # "choice()] [": two documents or worse
        return None
    fields: dict[str, Node] = {"search": Node(kind, name)}
    if kind == "choice":
        fields["values"] = Node(arguments.value, name)
    elif len(arguments.value) == 2:
        fields["low"], fields["high"] = arguments.value
    else:
        message = f"{kind} takes two numbers, low and high, not {len(arguments.value)}"
        problems.append(Problem(path, message, name))
        return Node(None, name)
    return Node(fields, name)


def is_space(node: Node, path: str) -> bool:
    """Whether a node holds a search space: a mapping with the key `search`."""
    return isinstance(node.value, dict) and "search" in node.value and path not in FREE_TEXT


def extract(
    tree: Node, problems: list[Problem], *, allowed: bool
) -> tuple[Node, dict[str, Space], list[str]]:
    """Take the spaces out of a tree.

    Args:
        tree: The merged config.
        problems: Malformed spaces, and every space if they are not allowed, are added here.
        allowed: Whether this is a sweep.

    Returns:
        The tree with the first end in the place of each space; the spaces by dotted path; and
        the paths of spaces that were no use (nothing can be said about the value there).

    Raises:
        ConfigError: There are more ends to check than a person writes.
    """
    spaces: dict[str, Space] = {}
    unusable: list[str] = []

    def walk(node: Node, path: str, dotted: bool = False) -> Node:
        if is_space(node, path):
            space = _space(node, path, problems)
            if space is None:
                unusable.append(path)
                return Node(None, node.where)
            problem = _refusal(space, path, node.where, allowed=allowed, dotted=dotted)
            if problem is not None:
                problems.append(problem)
            spaces[path] = space
            first = node.value["values"].value[0] if space.kind == "choice" else node.value["low"]
            return Node(first.value, node.where, node.rank)
        if isinstance(node.value, dict):
            inner = {}
            for key, value in node.value.items():
                below = f"{path}.{key}" if path else key
                inner[key] = walk(value, below, dotted or "." in key)
            return Node(inner, node.where)
        return node

    bare = walk(tree, "")
    if sum(len(space.ends) for space in spaces.values()) > MAX_ENDS:
        message = f"the search spaces hold more than {MAX_ENDS} ends and choices in all"
        raise ConfigError([*problems, Problem("", message, tree.where)])
    return bare, spaces, unusable


def _refusal(space: Space, path: str, where: str, *, allowed: bool, dotted: bool) -> Problem | None:
    if path.split(".")[0] not in SEARCHABLE:
        return Problem(path, f"cannot be searched; only {', '.join(SEARCHABLE)} can", where)
    if dotted:
        return Problem(path, "a key with a dot in it cannot be searched", where)
    if not allowed:
        message = f"holds the search space {space}; one run needs one value: use `rayloom sweep`"
        return Problem(path, message, where)
    return None


def _space(node: Node, path: str, problems: list[Problem]) -> Space | None:
    """The space that a mapping describes, or None after saying what is wrong."""
    fields: dict[str, Node] = node.value
    before = len(problems)

    def wrong(message: str, key: str, suggestion: str | None = None) -> None:
        where = fields[key].where if key in fields else node.where
        problems.append(Problem(f"{path}.{key}", message, where, suggestion))

    kind = fields["search"].value
    if kind not in KINDS:
        text = f"{shown(kind)} is no search space; known: {', '.join(KINDS)}"
        wrong(text, "search", nearest(kind, KINDS) if isinstance(kind, str) else None)
        return None
    wanted = ("values",) if kind == "choice" else ("low", "high")
    for key in fields:
        if key not in ("search", *wanted):
            wrong(f"unknown key of {kind}; it takes {', '.join(wanted)}", key, nearest(key, wanted))
    for key in wanted:
        if key not in fields:
            wrong(f"is required by {kind}", key)
    if len(problems) > before:
        return None
    if kind == "choice":
        values = fields["values"].plain()
        if not isinstance(values, list) or not values:
            wrong("must be a list of at least one value", "values")
        elif len({repr(value) for value in values}) < len(values):
            wrong("holds a value twice", "values")
        else:
            return Space("choice", values=tuple(values))
        return None
    return _interval(kind, fields, wrong, problems)


def _interval(
    kind: SpaceKind, fields: dict[str, Node], wrong: Any, problems: list[Problem]
) -> Space | None:
    before = len(problems)
    low, high = fields["low"].value, fields["high"].value
    numbers = (int,) if kind in ("int", "logint") else (int, float)
    for key, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, (int, float)):
            wrong(f"{shown(end)} is not a number", key)
        elif not isinstance(end, numbers):
            wrong(f"{shown(end)} is not a whole number, which {kind} needs", key)
        elif kind.startswith("log") and end <= 0:
            wrong(f"{shown(end)} must be above 0 on a logarithmic scale", key)
    if len(problems) == before and not low < high:
        wrong(f"low {shown(low)} must be below high {shown(high)}", "low")
    if len(problems) == before and not math.isfinite(float(high) - float(low)):
        wrong("the ends are too far apart", "high")
    return None if len(problems) > before else Space(kind, low, high)
