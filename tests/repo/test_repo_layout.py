"""The layout, packaging and layer rules hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def python(code: str, *args: str, cwd: Path = ROOT, **env: str) -> str:
    """Run code in a fresh interpreter; its standard output."""
    done = subprocess.run(
        [sys.executable, *args, "-c", code],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_platform_folder_holds_no_module():
    assert not list((ROOT / "platform").glob("*.py"))
    assert not list((ROOT / "platform").glob("*.pyi"))


def test_stdlib_platform_wins_from_the_repository_root():
    code = "import platform, uuid; print(platform.__file__, platform.system())"
    shown = python(code, PYTHONPATH=str(ROOT))
    assert not shown.startswith(str(ROOT)), shown


def test_the_editable_install_is_one_pth_with_three_folders():
    site = [Path(p) for p in sys.path if p.endswith("site-packages")]
    pth = [f for folder in site for f in folder.glob("*rayloom*.pth")]
    if not pth:
        pytest.skip("rayloom is not installed editable here")
    lines = pth[0].read_text().split()
    assert sorted(Path(line).name for line in lines) == ["envs", "pipelines", "platform"]


def test_import_layers():
    """The contracts of pyproject.toml: imports go down only, ray and mlflow have one door each."""
    done = subprocess.run(
        [BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_upward_import_breaks_the_contract(tmp_path):
    """The layer test can fail: core importing rl is reported."""
    import shutil

    for folder in ("platform", "envs", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    victim = tmp_path / "platform/rayloom/core/seeding.py"
    victim.write_text(victim.read_text() + "\nimport rayloom.records\nimport ray\n")
    roots = os.pathsep.join(str(tmp_path / f) for f in ("platform", "envs", "pipelines"))
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as m; m()",
         "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "imports go down only BROKEN" in done.stdout
    assert "only distributed imports ray BROKEN" in done.stdout


@pytest.mark.parametrize("words", ["--help", "list", "list models", "train --help", "runs --help"])
def test_light_commands_import_nothing_heavy(words):
    code = (
        "import sys; from rayloom_pipelines.cli import main; "
        f"code = main({words.split()!r}); "
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'sklearn', 'gymnasium', 'pydantic'}; "
        "print('CODE', code, 'HEAVY', sorted(heavy & set(sys.modules)))"
    )
    last = python(code).strip().splitlines()[-1]
    assert last == "CODE 0 HEAVY []"


@pytest.mark.parametrize("module", ["rayloom", "rayloom_pipelines", "rayloom_pipelines.cli"])
def test_the_command_runs_as_a_module(module, tmp_path):
    """It is called `rayloom` there too, and its exit code and messages are the command's."""
    roots = os.pathsep.join(str(ROOT / root) for root in ("platform", "envs", "pipelines"))
    done = subprocess.run(
        [sys.executable, "-m", module, "train", "x", "--smok"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = (
        "rayloom: train: unrecognized arguments: --smok (did you mean '--smoke'?)\nusage: rayloom"
    )
    assert done.stderr.startswith(said)


def test_importing_rayloom_imports_nothing_heavy():
    code = "import sys, rayloom; print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    assert python(code).strip() == "[]"


def test_environments_import_nothing_of_rayloom():
    code = (
        "import sys, rayloom_envs; "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('rayloom', 'torch', 'ray')))"
    )
    assert python(code).strip() == "[]"


def test_files_stay_readable():
    """About 400 lines a file; a little room for tables."""
    long = {}
    for root in ("platform", "envs", "pipelines"):
        for path in (ROOT / root).rglob("*.py"):
            count = len(path.read_text().splitlines())
            if count > 550:
                long[str(path.relative_to(ROOT))] = count
    assert not long


def test_the_wiring_is_short():
    """It joins rooms; what takes more than 150 lines belongs into a room."""
    root = ROOT / "pipelines" / "rayloom_pipelines"
    counts = {
        f"{folder}/{path.name}": len(path.read_text().splitlines())
        for folder in ("run", "load", "groups")
        for path in (root / folder).glob("*.py")
    }
    assert len(counts) > 25
    assert {name: count for name, count in counts.items() if count > 150} == {}
