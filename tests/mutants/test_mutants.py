"""Each planted error is caught by the law tests that its table names (`make mutants`)."""

import pytest

from mutants.harness import errors_of, in_own_process, problem_of, tables
from mutants.page import PAGE, note, row_of, sections
from rayloom import catalogue

TABLES = [pytest.param(table, id=table.stem) for table in tables()]


@pytest.mark.mutants
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("table", TABLES)
def test_every_planted_error_is_caught(table):
    rows = in_own_process(table)
    survivors = {row["error"]: row["survived"] for row in rows if row["survived"]}
    assert not survivors, f"these tests passed with the error planted: {survivors}"
    note(table.stem, errors_of(table), {one.stem for one in tables()})


@pytest.mark.parametrize("table", TABLES)
def test_the_lines_are_still_there_and_the_page_tells_of_them(table):
    """A line that has changed is a planted error that would no longer be planted."""
    errors = errors_of(table)
    problems = [problem for error in errors if (problem := problem_of(error))]
    assert not problems, f"mend tests/mutants/errors/{table.name}: {problems}"
    told = sections(PAGE.read_text()).get(table.stem, "").splitlines()[2:]
    assert told == [row_of(error) for error in errors], "run `make mutants`: the page is another"


def test_every_method_has_planted_errors():
    """Laws that were never seen to fail may be none."""
    ours = {
        entry.name
        for kind in ("models", "algorithms")
        for entry in catalogue.entries(kind).values()
        if entry.source == "rayloom"
    }
    planted = {error.method for table in tables() for error in errors_of(table)}
    assert ours - planted == set(), "write tests/mutants/errors/METHOD.py (see CONTRIBUTING.md)"


def test_an_error_that_no_test_sees_is_said(tmp_path):
    """The harness can fail: harmless, and missing lines and tests are told from caught errors."""
    table = tmp_path / "toy.py"
    row = {"error": "none", "line": "clamp_min(0.0)", "planted": "clamp_min(0)", "caught_by": ["a"]}
    table.write_text(
        "METHOD, FILE = 'toy', 'platform/rayloom/functional/variational.py'\n"
        f"TESTS = 'tests/mutants/test_mutants.py'\nERRORS = [{row!r}]\n"
    )
    (error,) = errors_of(table)
    assert problem_of(error) == "there is no test tests/mutants/test_mutants.py::a"
    row["caught_by"] = ["test_an_error_that_no_test_sees_is_said"]
    row["line"] = "no such line"
    table.write_text(table.read_text().partition("ERRORS")[0] + f"ERRORS = [{row!r}]\n")
    (error,) = errors_of(table)
    assert "stands 0 times" in problem_of(error)


@pytest.mark.mutants
def test_a_survivor_is_a_failure(tmp_path):
    table, line = tmp_path / "toy.py", "step_size * constraint).clamp_min(0.0)"
    test = "test_multiplier_solves_a_constrained_problem"
    row = {"error": "none", "line": line, "planted": line.replace("0.0", "min=0.0")}
    table.write_text(
        "METHOD, FILE = 'toy', 'platform/rayloom/functional/variational.py'\n"
        "TESTS = 'tests/functional/test_functional_variational.py'\n"
        f"ERRORS = [{row | {'caught_by': [test]}!r}]\n"
    )
    (verdict,) = in_own_process(table)
    assert verdict["survived"] == [f"tests/functional/test_functional_variational.py::{test}"]
