"""The built wheel works in a folder outside the clone, shipped configs included."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_three_packages_and_the_configs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert tops - info == {"rayloom", "rayloom_envs", "rayloom_pipelines"}
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"rayloom_pipelines/configs/{path.relative_to(ROOT / 'configs')}" in names
    assert "rayloom_pipelines/templates/model.py.txt" in names
    assert "rayloom/__init__.pyi" in names


@pytest.mark.timeout(200)
def test_the_wheel_runs_outside_the_clone(wheel, tmp_path):
    """Installed alone; the other packages come from this environment's site-packages."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python3*")) / "site-packages"
    (site / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True, timeout=100)

    def rayloom(*words: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RAYLOOM"))}
        done = subprocess.run(
            [home / "bin" / "python", "-m", "rayloom_pipelines.cli", *words],
            cwd=tmp_path,
            env=env | {"OMP_NUM_THREADS": "1", "RAYLOOM_DATA_ROOT": str(tmp_path / "data")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = json.loads(rayloom("list", "configs", "--json"))["configs"]
    assert {"autoencoders/vae-digits", "rl/dqn-cartpole"} <= {row["name"] for row in listed}
    for row in listed:
        assert Path(row["path"]).is_relative_to(home), "a config of the clone was found"
    rayloom("new", "env", "corridor")
    rayloom("train", "autoencoders/vae-digits", "--smoke")
    assert "finished" in rayloom("runs", "list", "--all")
