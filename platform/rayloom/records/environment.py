"""What a run was made with: command, code, packages, machine, threads. Secrets are left out.

Nothing here may fail a run: what cannot be found out is absent or empty.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from rayloom.core.secrets import mask, mask_command, mask_environment

PACKAGES = (
    "rayloom",
    "torch",
    "numpy",
    "ray",
    "mlflow",
    "gymnasium",
    "safetensors",
    "pyarrow",
    "pydantic",
    "optuna",
    "scikit-learn",
    "numba",
    "ale-py",
    "mujoco",
)
_ENV_SHOWN = re.compile(
    r"(RAYLOOM|OMP|MKL|OPENBLAS|NUMEXPR|RAY|CUDA|TORCH|NVIDIA_TF32|CUBLAS|PYTHONHASHSEED|MLFLOW|GLOO"
    r"|NCCL|SLURM_JOB_ID)(_|$)"
)
_DIFF_LIMIT = 2_000_000  # characters


def run_git(folder: Path, *arguments: str) -> str | None:
    """Output of git with hooks, filters and external diffs off; None if it fails."""
    safe = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=5, check=False, env={**os.environ, **safe}
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def describe_git(folder: Path) -> dict[str, Any]:
    """Commit, branch, remote, changed files and diff of the work tree that holds a folder.

    The keys: `root`, `commit`, `branch`, `dirty`, `untracked` (names), `diff` (masked text,
    staged and unstaged against the commit). Empty outside a work tree.
    """
    root = run_git(folder, "rev-parse", "--show-toplevel")
    if not root:
        return {}
    commit = (run_git(folder, "rev-parse", "HEAD") or "").strip()
    branch = (run_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip()
    top = Path(root.strip())
    base = "HEAD" if commit else "--cached"
    diff = run_git(top, "diff", "--no-ext-diff", "--no-textconv", "--no-color", base) or ""
    names = run_git(top, "ls-files", "--others", "--exclude-standard") or ""
    untracked = names.splitlines()
    cut = f"\n[cut: {len(diff)} characters]\n" if len(diff) > _DIFF_LIMIT else ""
    return {
        "root": str(top),
        "commit": commit,
        "branch": branch,
        "dirty": bool(diff or untracked),
        "untracked": untracked[:200],
        "diff": mask(diff[:_DIFF_LIMIT]) + cut,
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _machine() -> dict[str, Any]:
    about: dict[str, Any] = {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):
        about["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = sys.modules.get("torch")  # asked only if the run uses it: importing it costs seconds
    if torch is not None and torch.cuda.is_available():
        count = torch.cuda.device_count()
        about["gpus"] = [torch.cuda.get_device_name(i) for i in range(count)]
        about["cuda"] = torch.version.cuda
    return about


def _threads() -> dict[str, Any]:
    about: dict[str, Any] = {
        name: os.environ[name]
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        if name in os.environ
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        about["torch"] = torch.get_num_threads()
        about["torch_interop"] = torch.get_num_interop_threads()
    return about


def _environment() -> dict[str, str]:
    return mask_environment(
        {name: value for name, value in sorted(os.environ.items()) if _ENV_SHOWN.match(name)}
    )


def describe_environment(*, command: list[str] | None = None) -> dict[str, Any]:
    """JSON-able facts about this process, for `run.json`.

    Args:
        command: What the user typed; `sys.argv` if None.

    Returns:
        `command`, `cwd`, `python`, `packages`, `git` (see `describe_git`), `machine`, `threads`,
        `environment` (variables that change results; secrets hidden) and, where the library lies in
        another work tree than the working folder, `library_git`, as `git`.
    """
    cwd = Path.cwd()
    git = describe_git(cwd)
    about: dict[str, Any] = {
        "command": shlex.join(mask_command(list(sys.argv if command is None else command))),
        "cwd": str(cwd),
        "python": platform.python_version(),
        "packages": _packages(),
        "git": git,
        "machine": _machine(),
        "threads": _threads(),
        "environment": _environment(),
    }
    home = Path(__file__).resolve().parent
    if "site-packages" not in home.parts and (not git or not home.is_relative_to(git["root"])):
        library = describe_git(home)
        if library:
            about["library_git"] = library
    return about
