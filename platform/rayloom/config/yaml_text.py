"""The one writer of YAML: what it writes, `yaml_marks` reads back to the same plain tree.

A text that YAML 1.2 or YAML 1.1 would read as something else (`1e-3`, `on`, `0o17`, `~`) is quoted,
and so is one with characters that do not print. What could not be read again (NaN, NUL, half a
character, a file beyond the reader's limits) is refused here, when it is written.
"""

from pathlib import Path
from typing import Any

import yaml

from rayloom.config.yaml_marks import (
    MAX_BYTES,
    MAX_VALUES,
    node_of,
    parse,
    read_text,
    resolve_plain,
)
from rayloom.core.errors import ConfigError, Problem

_STRING = "tag:yaml.org,2002:str"
_ENDLESS = 10**9  # columns: nothing is folded


class _Dumper(yaml.SafeDumper):
    """Block style, no anchors; a text is quoted unless it can only be a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _OneLine(_Dumper):
    """Every text in double quotes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = isinstance(resolve_plain(text), str) and text.isprintable()
    except ValueError:
        plain = False
    return dumper.represent_scalar(_STRING, text, style=None if plain else '"')


def _represent_quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(_STRING, text, style='"')


_Dumper.add_representer(str, _represent_text)
_OneLine.add_representer(str, _represent_quoted)


def dump(tree: Any) -> str:
    """YAML text that `read` and `yaml_marks.parse` read back to the same plain tree.

    Raises:
        ConfigError: It holds something that could not be read again.
    """
    plain = node_of(tree).plain()
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    size, count = len(text.encode()), _count(plain)
    if size > MAX_BYTES:
        message = f"has {size:,} bytes as YAML; a config has at most {MAX_BYTES:,}"
        raise ConfigError([Problem("", message)])
    if count > MAX_VALUES:
        message = f"holds {count:,} values; a config has at most {MAX_VALUES:,}"
        raise ConfigError([Problem("", message)])
    return str(text)


def flag(path: str, value: Any) -> str:
    """The override `path=value` whose value is read as exactly this one.

    Raises:
        ConfigError: It holds something that could not be read again.
    """
    plain = node_of([value], path=path).plain()
    text = yaml.dump(
        plain, Dumper=_OneLine, default_flow_style=True, allow_unicode=True, width=_ENDLESS
    )
    return f"{path}={text.strip()[1:-1]}"


def read(path: Path, name: str | None = None) -> Any:
    """The plain tree of a YAML file, by the rules and limits of a config; None if it is empty.

    Args:
        path: The file.
        name: What messages call it; None: its path.

    Raises:
        ConfigError: It cannot be read, or is not YAML.
    """
    problems: list[Problem] = []
    called = name or str(path)
    node = parse(read_text(path, called), called, problems)
    if problems:
        raise ConfigError(problems)
    return None if node is None else node.plain()


def _count(tree: Any) -> int:
    """Values and keys in all, as the reader counts them."""
    if isinstance(tree, dict):
        return 1 + sum(1 + _count(item) for item in tree.values())
    return 1 + sum(map(_count, tree)) if isinstance(tree, list) else 1
