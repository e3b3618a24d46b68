"""`docs/methods.md`: a row a method, made from the verdicts of `rayloom bench methods`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.catalogue import Entry

HEAD = """# Methods

Made by `make matrix` (`rayloom bench methods`): each method of the catalogue through everything
that it must do. A cell that fails stays here with its reason; one that was not tried is empty.

- *2 workers*: two Ray workers end where one process ends (agents in every bit, models within
  float32's rounding). *resume*: killed in the middle and resumed, equal in every bit to an unbroken
  run.
- *registered*: `sample` or `play` from the registered version, in a process of its own.
- *laws*: the tests marked `law("name")` pass. *result*: the newest figure of `docs/results/`.

"""


def page(
    methods: Mapping[str, Entry], table: Mapping[str, Mapping[str, Any]], cells: Sequence[str]
) -> str:
    """The page.

    Args:
        methods: By name.
        table: {method: {cell: verdict}}; see `methods.Verdict`.
        cells: Columns, in order.
    """
    titles = ["method", "family", "year", *cells, "tried"]
    rows = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    failing: list[str] = []
    for name, entry in methods.items():
        row = table.get(name, {})
        texts = []
        for cell in cells:
            verdict = row.get(cell)
            if verdict is None:
                texts.append("")
            elif verdict["passed"]:
                texts.append(_text(verdict["said"]))
            else:
                texts.append("**fails**")
                failing.append(f"- `{name}`, {cell}: {_text(verdict['said'])}")
        tried = max((verdict["date"] for verdict in row.values()), default="")
        year = str(entry.year or "")
        rows.append("| " + " | ".join([f"`{name}`", entry.family, year, *texts, tried]) + " |")
    text = HEAD + "\n".join(rows) + "\n"
    return text + ("\n## What fails\n\n" + "\n".join(failing) + "\n" if failing else "")


def _text(said: str) -> str:
    return said.replace("|", "\\|")
