"""YAML in: read by YAML 1.2 rules, with the place of every value; hostile files refused.

PyYAML's parser gives the events; this module makes the tree from them, so that

- `1e-3` is a number and `no`, `on`, `010`, `1_000` are read as YAML 1.2 says (core schema);
- every value knows its `file:line`, and a key that stands twice is a mistake;
- tags (`!!python/object`, `!anything`) are refused, nothing is ever constructed;
- nesting, the number of values after aliases are expanded, and the size of the file are bounded.

Ordinary anchors and aliases work; merge keys (`<<`, YAML 1.1) do not: use `extends`.
"""

import math
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rayloom.core.errors import ConfigError, Problem, nearest
from rayloom.core.secrets import mask

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_VALUES = 20_000
MAX_NUMBER_LENGTH = 100
MAX_WHOLE = 10**99  # exclusive; what is read can be written and read again, sign included
MERGE_KEY = "'<<' merges in YAML 1.1 only; use 'extends', or repeat the keys"

_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:(true|True|TRUE)|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE


@dataclass(frozen=True)
class Node:
    """A value and where it came from.

    Attributes:
        value: None, bool, int, float, str, a list of nodes or a dict of nodes.
        where: `file:line` of its key (of itself in a list), the flag or the variable that set it.
        rank: Grows with each layer that was laid on top; says which of two keys is the later.
    """

    value: Any
    where: str = ""
    rank: int = field(default=0, compare=False)

    def plain(self) -> Any:
        """The value without places: JSON-like."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, path: str) -> "Node | None":
        """The node at a dotted path, or None."""
        node: Node | None = self
        for part in path.split(".") if path else []:
            if node is None or not isinstance(node.value, dict):
                return None
            node = node.value.get(part)
        return node

    def place(self, path: str) -> str:
        """Where `path`, or else the nearest node above it, was set."""
        parts = path.split(".") if path else []
        node, where = self, self.where
        for part in parts:
            inner: Node | None = None
            if isinstance(node.value, dict):
                inner = node.value.get(part)
            elif isinstance(node.value, list) and part.isdecimal() and int(part) < len(node.value):
                inner = node.value[int(part)]
            if inner is None:
                break
            node, where = inner, inner.where or where
        return where

    def with_value(self, path: str, value: "Node") -> "Node":
        """A copy in which `path` holds `value`; mappings on the way are made where absent."""
        if not path:
            return value
        head, _, rest = path.partition(".")
        own = dict(self.value) if isinstance(self.value, dict) else {}
        own[head] = own.get(head, Node({}, value.where)).with_value(rest, value)
        return Node(own, self.where)


def node_of(value: Any, where: str = "", path: str = "", depth: int = 0) -> Node:
    """A tree of nodes from plain Python data.

    Raises:
        ConfigError: Something in it is not JSON-like (or not finite, or nested too deep).
    """
    if depth > MAX_DEPTH:
        raise _fail(where, f"nested deeper than {MAX_DEPTH} levels", path)
    if isinstance(value, dict):
        inner: dict[str, Node] = {}
        for key, item in value.items():
            if not isinstance(key, str) or not _encodable(key):
                raise _fail(where, f"the key {shown(key)} must be text", path)
            inner[key] = node_of(item, where, f"{path}.{key}" if path else key, depth + 1)
        return Node(inner, where)
    if isinstance(value, (list, tuple)):
        return Node(
            [node_of(v, where, f"{path}.{i}", depth + 1) for i, v in enumerate(value)], where
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise _fail(where, f"{value} is not a finite number", path)
    if isinstance(value, str) and not _encodable(value):
        raise _fail(where, f"{shown(value)} holds NUL or half a character", path)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= MAX_WHOLE:
        raise _fail(where, "the number has too many digits", path)
    if value is None or isinstance(value, (bool, int, float, str)):
        return Node(value, where)
    kind = type(value).__name__
    raise _fail(where, f"{shown(value)} is a {kind}; a config holds plain values only", path)


def shown(value: Any, limit: int = 60) -> str:
    """A value as it stands in a message: one line, printable, cut to `limit` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        value = mask(value)  # in its own line, and whole: of half a secret nobody could tell
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    """At most so many characters; a secret is hidden first, of half of one nobody would know it."""
    if len(text) <= limit:
        return text
    text = mask(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def read_text(path: Path, name: str) -> str:
    """The text of a config file, called `name` in messages.

    Raises:
        ConfigError: Missing, a folder, unreadable, too large, or not UTF-8 text.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _fail(name, "is a folder, not a config file")
        if not stat.S_ISREG(status.st_mode):
            raise _fail(name, "is not a regular file")
        if status.st_size > MAX_BYTES:
            raise _fail(name, f"has {status.st_size:,} bytes; a config has at most {MAX_BYTES:,}")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise _fail(name, "is a link to a file that is not there") from None
        raise _fail(name, "there is no such file", suggestion=_neighbour(path)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise _fail(ascii(name)[1:-1], f"cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise _fail(name, f"has more than {MAX_BYTES:,} bytes")
    if b"\0" in raw:
        raise _fail(name, "is a binary file (it holds NUL bytes), not YAML text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _fail(f"{name}:{line}", "is not UTF-8 text") from None


def parse(text: str, name: str, problems: list[Problem], *, lines: bool = True) -> Node | None:
    """The tree of one YAML document; None if there is none.

    Args:
        text: The document.
        name: What places are called: the file, or the flag.
        problems: Mistakes that do not stop the reading are added here.
        lines: Whether places get `:line`.

    Raises:
        ConfigError: The text is not YAML, or a limit is passed.
    """
    bad = _UNPRINTABLE.search(text)
    if bad:
        where = f"{name}:{text.count(chr(10), 0, bad.start()) + 1}" if lines else name
        raise _fail(where, f"holds the character {bad.group()!a}, which YAML does not allow")
    try:
        return _Composer(text, name, problems, lines).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark and lines else name
        raise _fail(where, _yaml_message(error)) from None
    except yaml.YAMLError as error:
        raise _fail(name, f"is not YAML: {error}") from None


def resolve_plain(text: str) -> Any:
    """What an unquoted scalar means in YAML 1.2's core schema.

    Raises:
        ValueError: It is NaN, infinite, or a number too long to read.
    """
    if _NULL.match(text):
        return None
    found = _BOOL.match(text)
    if found:
        return bool(found.group(1))
    if _NOT_FINITE.match(text):
        raise ValueError(f"{text} is not a finite number")
    is_int, is_float = _INT.match(text), _FLOAT.match(text)
    if (is_int or is_float) and len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"the number {text[:20]}... has too many digits")
    if is_int:
        whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if abs(whole) >= MAX_WHOLE:
            raise ValueError(f"the number {text[:20]}... has too many digits")
        return whole
    if is_float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text} is too large for a floating-point number")
        return number
    return text


@dataclass
class _Frame:
    """An open collection; `size` counts its values, aliases expanded, `height` its levels."""

    value: Any
    where: str
    anchor: str | None
    key: str | None = None
    key_where: str = ""
    size: int = 1
    height: int = 1


class _Composer:
    """Makes nodes from parser events with an explicit stack: nesting costs no recursion."""

    def __init__(self, text: str, name: str, problems: list[Problem], lines: bool) -> None:
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        self.name, self.problems, self.lines = name, problems, lines
        self.anchors: dict[str, tuple[Node, int, int]] = {}  # node, size, height
        self.stack: list[_Frame] = []
        self.root: Node | None = None
        self.total = 0

    def place(self, event: yaml.Event) -> str:
        mark = event.start_mark
        return f"{self.name}:{mark.line + 1}" if self.lines and mark is not None else self.name

    def document(self) -> Node | None:
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _fail(self.place(event), "a second document begins; a config is one")
            elif isinstance(event, yaml.NodeEvent):
                self.node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                frame = self.stack.pop()
                node = Node(frame.value, frame.where)
                if frame.anchor:
                    self.anchors[frame.anchor] = (node, frame.size, frame.height)
                self.add(node, frame.size, frame.height)
        return self.root

    def node(self, event: yaml.NodeEvent) -> None:
        where = self.place(event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            message = f"the YAML tag {shown(tag)} is refused; a config holds plain values only"
            self.problems.append(Problem(self.path(), message, where))
        if isinstance(event, yaml.CollectionStartEvent):
            if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
                raise _fail(where, "a key must be text, not a list or mapping")
            if len(self.stack) >= MAX_DEPTH:
                raise _fail(where, f"nested deeper than {MAX_DEPTH} levels")
            self.count(1, where)
            empty: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self.stack.append(_Frame(empty, where, event.anchor))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _fail(where, f"the alias *{event.anchor} names no finished anchor before it")
            node, size, height = self.anchors[event.anchor]
            if len(self.stack) + height > MAX_DEPTH:
                raise _fail(where, f"nested deeper than {MAX_DEPTH} levels")
            self.count(size, where)
            self.add(replace(node, where=where), size, height)
        elif isinstance(event, yaml.ScalarEvent):
            self.count(1, where)
            node = Node(self.scalar(event, where), where)
            if event.anchor:
                self.anchors[event.anchor] = (node, 1, 0)
            self.add(node, 1, 0)
            if self.stack and self.stack[-1].key == "<<" == event.value and event.implicit[0]:
                self.problems.append(Problem(self.path(), MERGE_KEY, where))

    def count(self, size: int, where: str) -> None:
        self.total += size
        if self.total > MAX_VALUES:
            raise _fail(where, f"holds more than {MAX_VALUES:,} values, aliases expanded")

    def scalar(self, event: yaml.ScalarEvent, where: str) -> Any:
        if not _encodable(event.value):
            message = f"{shown(event.value)} holds NUL or half a character"
            self.problems.append(Problem(self.path(), message, where))
            return ""
        if not event.implicit[0]:
            return event.value
        try:
            return resolve_plain(event.value)
        except ValueError as error:
            self.problems.append(Problem(self.path(), str(error), where))
            return None

    def path(self) -> str:
        return ".".join(
            printable(frame.key) if isinstance(frame.value, dict) else str(len(frame.value))
            for frame in self.stack
            if frame.key is not None or isinstance(frame.value, list)
        )

    def add(self, node: Node, size: int, height: int) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.value.append(node)
        elif frame.key is None:
            self.open_key(frame, node)
        else:
            key, frame.key = frame.key, None
            frame.value.setdefault(key, replace(node, where=frame.key_where))

    def open_key(self, frame: _Frame, node: Node) -> None:
        key = node.value
        frame.key_where = node.where
        if not isinstance(key, str):
            frame.key = shown(key)
            message = f"the key {shown(key)} must be text; write it in quotes"
            self.problems.append(Problem(self.path(), message, node.where))
            return
        frame.key = key
        first = frame.value.get(key)
        if first is not None:
            message = f"the key stands twice; first at {first.where}"
            self.problems.append(Problem(self.path(), message, node.where))


def printable(text: str | None) -> str:
    """A key as it stands in a path."""
    text = "" if text is None else text
    text = text if text.isprintable() else ascii(text)[1:-1]
    return _cut(text, 60)


def _encodable(text: str) -> bool:
    """Whether it can be a file name and go into JSON: no NUL, no half of a surrogate pair."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(
    where: str, message: str, path: str = "", *, suggestion: str | None = None
) -> ConfigError:
    return ConfigError([Problem(path, message, where, suggestion)])


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be read"
    if "'\\t'" in problem:
        return "a tab cannot indent or separate in YAML; use spaces"
    context = f" ({error.context})" if error.context else ""
    return f"is not YAML: {problem}{context}"


def _neighbour(path: Path) -> str | None:
    """The file in the same folder whose name is nearest."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return None
    found = nearest(path.name, names[:1000])
    return str(path.parent / found) if found else None
