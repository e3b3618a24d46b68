"""`rayloom config`: what a config resolves to, what set a key, its schema, differences."""

import json
from collections.abc import Sequence
from typing import Any

from rayloom_pipelines.cli.options import Parser, action


def run(argv: Sequence[str]) -> int:
    """Show, schema or diff."""
    name, words = action(
        argv,
        "config",
        {
            "show": "the resolved config; --why KEY says what set a key",
            "schema": "JSON schema for editors",
            "diff": "the keys in which two configs or runs differ",
        },
    )
    if name == "help":
        return 0
    return {"show": _show, "schema": _schema, "diff": _diff}[name](words)


def _show(argv: Sequence[str]) -> int:
    parser = Parser("config show", "The config with its bases, changes and defaults.")
    parser.config_words()
    parser.add_argument("--why", metavar="KEY", help="say which file, line or flag set a key")
    parser.json_option()
    given = parser.read(argv)
    from rayloom_pipelines import known
    from rayloom_pipelines.config import resolve_config

    resolved = resolve_config(given.config, given.overrides, search=True, known=known.everywhere)
    if given.why is not None:
        print(resolved.why(given.why))
    elif given.json:
        print(json.dumps(resolved.to_dict(), indent=1))
    else:
        print(resolved.to_yaml(), end="")
    return 0


def _schema(argv: Sequence[str]) -> int:
    parser = Parser("config schema", "JSON schema of a config (of its model or algorithm).")
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="default: any config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.read(argv)
    from rayloom.config.schema import json_schema

    if given.config is None:
        print(json.dumps(json_schema(), indent=1))
        return 0
    from rayloom_pipelines.config import resolve_config

    config = resolve_config(given.config, given.overrides, search=True).config
    print(json.dumps(json_schema(config), indent=1))
    return 0


def _diff(argv: Sequence[str]) -> int:
    parser = Parser("config diff", "Keys in which two configs or runs differ.")
    parser.add_argument("left", metavar="A", help="a config or a run")
    parser.add_argument("right", metavar="B", help="a config or a run")
    parser.json_option()
    given = parser.read(argv)
    from rayloom.config.resolved import diff
    from rayloom_pipelines.config import config_of

    found = diff(config_of(given.left), config_of(given.right))
    if given.json:
        rows: list[dict[str, Any]] = [
            {"path": d.path, "left": d.left, "right": d.right} for d in found
        ]
        print(json.dumps(rows, indent=1, default=str))
    else:
        print("\n".join(map(str, found)) if found else "no difference")
    return 0
