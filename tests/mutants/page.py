"""docs/planted-errors.md: a section a table, written by `make mutants`, read by `make test`."""

from pathlib import Path

from mutants.harness import ROOT, Error

PAGE = ROOT / "docs" / "planted-errors.md"
HEAD = """# Planted errors

A law test that cannot fail proves nothing. Each line is an error that was put into a copy of the
code, and the law tests that failed on it. The tables stand in `tests/mutants/errors/`;
`make mutants` plants all of them and writes this page (`make test` only sees that the lines are
still there).
"""


def row_of(error: Error) -> str:
    """The line of an error that was caught."""
    place = Path(error.file).relative_to("platform/rayloom")
    names = ", ".join(f"`{test.rpartition('::')[2]}`" for test in error.caught_by)
    return f"| {error.method} | {error.error} | `{place}` | {names} |"


def sections(text: str) -> dict[str, str]:
    """The tables of the page by their name."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def note(name: str, errors: list[Error], known: set[str]) -> None:
    """Put the table of one file into the page, and take those away that have no file any more."""
    found = sections(PAGE.read_text()) if PAGE.exists() else {}
    head = "| method | error | in | caught by |\n|---|---|---|---|"
    found[name] = "\n".join([head, *(row_of(error) for error in errors)])
    kept = "".join(f"\n## {one}\n\n{found[one]}\n" for one in sorted(found) if one in known)
    PAGE.write_text(HEAD + kept)
