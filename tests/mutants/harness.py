"""Planted errors: each is put into a copy of the code, and the named law tests must fail on it.

A file of `errors/` is one method's (or family's) table: METHOD, FILE and TESTS hold for all of its
ERRORS, and a row may name its own `method`, `file` and `tests`. All runs of a table are forks of
one process that has imported what the tests need of other packages, so that an error costs its
tests and little more:

    python tests/mutants/harness.py TABLE.py     prints what caught each, as JSON
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
COPIED = ("platform", "envs", "pipelines", "configs", "tests", "pyproject.toml")
BUSY = ("torch", "numpy", "pytest", "hypothesis", "jaxtyping", "pydantic", "numba", "gymnasium",
        "scipy.special", "pandas", "_pytest.assertion.rewrite")  # fmt: skip
LIMIT_S = 300  # of one error's tests


@dataclass(frozen=True)
class Error:
    """One planted error.

    Attributes:
        method: Of the catalogue.
        error: What it is, in words.
        file: Where, from the root of the repository.
        line: The text that is replaced; it stands there exactly once.
        planted: What replaces it.
        caught_by: Test functions, `path::name`; every one must fail.
    """

    method: str
    error: str
    file: str
    line: str
    planted: str
    caught_by: tuple[str, ...]


def tables() -> list[Path]:
    """The files of `errors/`, by name."""
    return sorted((HERE / "errors").glob("*.py"))


def errors_of(table: Path) -> list[Error]:
    """The planted errors of one file."""
    told = runpy.run_path(str(table))
    shared = {"method": told["METHOD"], "file": told["FILE"], "tests": told["TESTS"]}
    found = []
    for row in told["ERRORS"]:
        whole = shared | row
        path = whole.pop("tests")
        names = [name if "::" in name else f"{path}::{name}" for name in whole["caught_by"]]
        found.append(Error(**whole | {"caught_by": tuple(names)}))
    return found


def problem_of(error: Error, root: Path = ROOT) -> str:
    """Why an error cannot be planted or its tests cannot be run; "" if it can."""
    text = (root / error.file).read_text()
    if text.count(error.line) != 1:
        return f"{error.line!r} stands {text.count(error.line)} times in {error.file}, not once"
    for test in error.caught_by:
        path, _, name = test.partition("::")
        if f"def {name.partition('[')[0]}(" not in (root / path).read_text():
            return f"there is no test {test}"
    return ""


@contextmanager
def planted(error: Error, root: Path):
    """The error stands in the files below `root` for as long as the block runs."""
    path = root / error.file
    before = path.read_text()
    path.write_text(before.replace(error.line, error.planted))
    try:
        yield
    finally:
        path.write_text(before)


def copy_of_the_code(target: Path) -> Path:
    """The tree that the errors are planted into."""
    away = shutil.ignore_patterns("__pycache__", "fixtures", "results")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=away)
        else:
            shutil.copy(source, target / name)
    return target


def fork_tests(tests: Iterable[str], root: Path) -> tuple[int, dict[str, str]]:
    """Run tests of a tree in a fork: pytest's exit code, and the outcome of each test."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reading)
            code, told = _run(list(tests), root)
            os.write(writing, json.dumps(told).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(told or b"{}")


def _run(tests: list[str], root: Path) -> tuple[int, dict[str, str]]:
    import pytest

    class Ear:
        def __init__(self) -> None:
            self.told: dict[str, str] = {}

        def pytest_runtest_logreport(self, report) -> None:
            if report.when == "call" or report.outcome != "passed":
                name = report.nodeid.partition("[")[0]
                worse = self.told.get(name) == "failed"
                self.told[name] = "failed" if worse else report.outcome

    ear = Ear()
    os.chdir(root)
    sys.path[:0] = [str(root / name) for name in ("platform", "envs", "pipelines")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
    sys.dont_write_bytecode = True
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={LIMIT_S}"]
    code = pytest.main([*options, *tests], plugins=[ear])
    return int(code), ear.told


def verdicts(table: Path) -> list[dict[str, object]]:
    """What caught each error of a table: its fields, and `survived` (tests that did not fail).

    Raises:
        AssertionError: The tests fail without any error, or an error breaks more than its tests.
    """
    rows = errors_of(table)
    found = []
    with tempfile.TemporaryDirectory(prefix="rayloom-mutants-") as place:
        root = copy_of_the_code(Path(place))
        tests = sorted({test for row in rows for test in row.caught_by})
        code, told = fork_tests(tests, root)
        assert code == 0, f"without any error these fail already: {told or code}"
        for row in rows:
            assert not problem_of(row, root), problem_of(row, root)
            survived = []
            for test in row.caught_by:
                with planted(row, root):
                    code, told = fork_tests([test], root)
                assert code in (0, 1), f"{row.error}: no test can run at all (pytest's {code})"
                if code == 0:
                    survived.append(test)
            found.append(asdict(row) | {"survived": survived})
    return found


def in_own_process(table: Path) -> list[dict[str, object]]:
    """`verdicts`, in a process that has none of our code imported."""
    done = subprocess.run(
        [sys.executable, __file__, str(table)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


if __name__ == "__main__":
    for name in BUSY:
        __import__(name)
    print(json.dumps(verdicts(Path(sys.argv[1]).resolve())))
