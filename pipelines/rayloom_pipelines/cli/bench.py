"""`rayloom bench`: speed and quality beside peers."""

import inspect
import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from rayloom.core.errors import UserError, did_you_mean
from rayloom_pipelines.benchmarks import BENCHMARKS
from rayloom_pipelines.cli.options import Parser


def run(argv: Sequence[str]) -> int:
    """Run the named benchmarks; without a name, say which there are."""
    parser = Parser("bench", "Measure speed and quality beside peers, both sides in one sitting.")
    named = f"{', '.join(BENCHMARKS)} [METHOD ...]"
    parser.add_argument("names", nargs="*", metavar="NAME", help=named)
    parser.add_argument("--all", action="store_true", help="all but methods")
    parser.json_option()
    given = parser.read(argv)
    names = [name for name in BENCHMARKS if name != "methods"] if given.all else given.names
    methods: list[str] = []
    if names[:1] == ["methods"]:
        names, methods = names[:1], names[1:]
    for name in names:
        if name not in BENCHMARKS:
            hint = did_you_mean(name, BENCHMARKS)
            raise UserError(f"no benchmark is called {name!r}{hint} Known: {', '.join(BENCHMARKS)}")
    if not names:
        for name, (_, about) in BENCHMARKS.items():
            print(f"  {name:<12} {about}")
        return 0
    results = {name: _measure(name, methods, quiet=given.json) for name in names}
    if given.json:
        print(json.dumps(results, indent=1, default=str))
    return 0


def _measure(name: str, methods: Sequence[str], *, quiet: bool) -> dict[str, Any]:
    module = import_module(f"rayloom_pipelines.benchmarks.{BENCHMARKS[name][0]}")
    if not quiet:
        print(f"{name}: {BENCHMARKS[name][1]}", flush=True)
    takes = inspect.signature(module.run).parameters
    say = _nothing if quiet else _say
    options: dict[str, Any] = {"say": say} if "say" in takes else {}
    if methods:
        options["names"] = methods
    result: dict[str, Any] = module.run(**options)
    if not quiet and hasattr(module, "table"):
        print(module.table(result))
    return result


def _say(line: str) -> None:
    print(line, flush=True)


def _nothing(line: str) -> None:
    """Where only JSON is wanted."""
