"""What pyproject.toml says is needed is what the code imports, no more and no less."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
BY_OTHERS = {"imageio-ffmpeg": "imageio", "pygame-ce": "gymnasium"}  # who imports it
WITH_OTHERS = {  # comes with what is declared, and is only used together with it
    **{"sqlalchemy": "mlflow", "requests": "mlflow"},
    **{"mujoco": "gymnasium", "triton": "torch"},
}
LATER = {"numba"}  # kernels of reinforcement learning
OWN = {"rayloom", "rayloom_envs", "rayloom_pipelines"}


def needed():
    """The distributions that pyproject.toml names."""
    return {re.match(r"[\w.-]+", line)[0].lower() for line in PROJECT["dependencies"]}


def imported(path):
    """Top-level names of the packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def optional(name):
    """Whether the code itself says that a package may be missing, or only benchmarks want it."""
    extra = {re.match(r"[\w.-]+", one)[0] for one in PROJECT["optional-dependencies"]["bench"]}
    return name.replace("_", "-") in extra | {"lightning", "tokenizers"} or name in WITH_OTHERS


def test_dependencies_are_the_packages_that_are_imported():
    found = {
        name
        for root in ("platform", "envs", "pipelines")
        for path in (ROOT / root).rglob("*.py")
        for name in imported(path)
    } - set(sys.stdlib_module_names)
    told = {MODULES.get(name, name) for name in needed() - BY_OTHERS.keys() - LATER}
    assert told - found == set(), "in pyproject.toml, but imported nowhere"
    assert {name for name in found - told - OWN if not optional(name)} == set(), "not declared"
    assert set(BY_OTHERS) <= needed()
