"""`rayloom list`: what there is, without importing any of it."""

import json
from collections.abc import Sequence
from typing import Any

from rayloom.catalogue import KINDS, entries, lookup
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.text import one_line
from rayloom_pipelines.cli.operations import lines, told
from rayloom_pipelines.cli.options import Parser
from rayloom_pipelines.shipped import config_names

CHOICES = (*KINDS, "configs")


def run(argv: Sequence[str]) -> int:
    """List one kind, or all; of models also what can be done with them."""
    parser = Parser("list", "List names: models, algorithms, environments, data sets, configs.")
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(CHOICES))
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model: its operations")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="of all models their operations"
    )
    parser.json_option()
    given = parser.read(argv)
    if given.name is not None and given.kind != "models":
        raise UserError("a NAME goes with models: `rayloom list models NAME` tells its operations")
    if given.kind is not None and given.kind not in CHOICES:
        hint = did_you_mean(given.kind, CHOICES)
        raise UserError(f"nothing is called {given.kind!r}{hint} Known: {', '.join(CHOICES)}")
    kinds = [given.kind] if given.kind else list(CHOICES)
    table = {kind: _rows(kind) for kind in kinds}
    if given.name is not None:
        lookup("models", given.name)
        table["models"] = [row for row in table["models"] if row["name"] == given.name]
    if given.name is not None or given.verbose:
        for row in table.get("models", []):
            row["operations"] = told(row["name"])
    if given.json:
        print(json.dumps(table, indent=1))
        return 0
    for kind, rows in table.items():
        print(f"{kind}:")
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            year = f" {row['year']}" if row.get("year") else ""
            source = row.get("source", "rayloom")
            plugin = "" if source == "rayloom" else f"  [{source}]"
            print(one_line(f"  {row['name']:<{width}}  {row['summary']}{year}{plugin}".rstrip()))
            for line in lines(row.get("operations", [])):
                print(one_line(f"    {line}"))
    return 0


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "configs":
        return [
            {"name": name, "summary": _first_comment(path), "path": str(path)}
            for name, path in sorted(config_names().items())
        ]
    table = entries(kind)  # type: ignore[arg-type]
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "task": entry.task,
            "family": entry.family,
            "year": entry.year,
            "paper": entry.paper,
            "default_metric": entry.default_metric,
            "capabilities": list(entry.capabilities),
            "source": entry.source,
        }
        for _, entry in sorted(table.items())
    ]


def _first_comment(path: Any) -> str:
    """The comment on the first line of a config says what it is."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline().strip()
    return line.lstrip("# ") if line.startswith("#") else ""
