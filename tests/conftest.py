"""Shape checks, threads, seeds and the list of skipped tests for the whole suite."""

import os
import sys
import tempfile
from pathlib import Path

# Nobody's settings are read, and what a test allows (plugins, servers) is allowed for it alone.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="rayloom-tests-")

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("XDG_CACHE_HOME", f"{tempfile.gettempdir()}/rayloom-tests-{os.getuid()}")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # paces ray.train.report

from jaxtyping import install_import_hook

# Annotations are decoration without this. Compiled paths are tested in subprocesses without it:
# the hook makes torch.compile raise a false error.
CHECKED = [
    "rayloom.functional",
    "rayloom.distributions",
    "rayloom.models",
    "rayloom.metrics",
    "rayloom.nn",
    "rayloom.rl",
]
_hook = install_import_hook(CHECKED, "shape_checks.check")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def float64():
    """Double precision as torch's default for one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def seed():
    """A fixed seed for torch's global generator (tests only; the library never uses it)."""
    torch.manual_seed(0)
    return 0


@pytest.fixture(autouse=True)
def _own_world(monkeypatch, request):
    """No test sees the user's settings, nor a dtype or a Ray that another one left behind."""
    ray = sys.modules.get("ray")
    if ray is not None and request.path.parent.name != "distributed":
        assert not ray.is_initialized(), "a test before this one left its Ray connected"
    for name in ("MLFLOW_TRACKING_URI", "RAYLOOM_PLUGINS", "RAYLOOM_FAILPOINT", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert torch.get_default_dtype() is torch.float32, "a test left the default dtype changed"


SERVERS = ("distributed", "faults", "pipelines", "tracking", "workers")  # Ray, jobs, MLflow


def pytest_collection_modifyitems(config, items):
    """The long group comes first, so that no process waits for it at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.parent.name not in SERVERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What runs in one process: the folders of `SERVERS`, in their order, and each other file.

    Not by marks and `--dist loadgroup`: xdist 3.8 writes the group into a field of an item that
    pytest 9.2 no longer reads, and spreads everything.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        """Work is cut by folder or file."""

        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            return "servers" if Path(path).parent.name in SERVERS else path

    return ByFolder(config, log)


def pytest_terminal_summary(terminalreporter):
    """Every skipped test with its reason, so that none is skipped unseen."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"{len(skipped)} skipped")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"{report.nodeid}: {reason}")
