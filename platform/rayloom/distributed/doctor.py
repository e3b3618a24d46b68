"""Is this machine, and the cluster at an address, fit to train on? Every answer says what to do.

Checks never raise: a check that cannot be made is a failed one. What needs a cluster is looked at
from every node, by a task that runs there.
"""

import contextlib
import os
import platform as stdlib_platform
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rayloom.core.errors import RayloomError
from rayloom.distributed.findings import Finding, Health
from rayloom.distributed.mlflow_check import check_tracking
from rayloom.distributed.place_checks import check_leftovers, check_temporary
from rayloom.distributed.quiet import first_line

PORTS = {6379: "the head's GCS", 8265: "the dashboard and the Jobs API"}
TOLERANCE_S = 2.0  # clock difference between nodes
SPACE_BYTES = 5 * 2**30
# What must be equal on both sides (a pickled message passes between them), and what should be.
SAME = ("python", "ray", "torch", "rayloom")
CHECKED_PACKAGES = ("ray", "torch", "mlflow", "gymnasium", "numpy", "rayloom")


def examine(
    address: str | None = None,
    *,
    storage: str | Path = "runs",
    tracking_uri: str | None = None,
    clean: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> list[Finding]:
    """All checks that apply.

    Args:
        address: Ray address to join and look at; None: this machine only.
        storage: Where run folders go.
        tracking_uri: MLflow's; None: not checked.
        clean: Take away what killed commands left, in place of only naming it.
        on_finding: Told of each as it comes.
    """
    found: list[Finding] = []

    def note(findings: Finding | Sequence[Finding]) -> None:
        for finding in [findings] if isinstance(findings, Finding) else findings:
            found.append(finding)
            if on_finding is not None:
                on_finding(finding)

    note(check_versions(own_versions()))
    note(check_threads(os.environ))
    note(check_storage(storage))
    note(check_space(storage))
    note([check_temporary(os.environ), check_leftovers(clean=clean)])
    if tracking_uri is not None:
        note(check_tracking(tracking_uri))
    if address is None:
        note([check_port(port) for port in PORTS])
        return found
    note(check_token(address))
    note(_on_cluster(address, str(Path(storage).absolute())))
    return found


# ------------------------------------------------------------------------------------ this machine


def own_versions() -> dict[str, str]:
    """Python and the packages that matter; "" for one that is missing."""
    found = {"python": stdlib_platform.python_version()}
    for name in CHECKED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def check_versions(versions: Mapping[str, str]) -> Finding:
    """Python and Ray as rayloom was tested with."""
    listed = ", ".join(f"{name} {number or 'missing'}" for name, number in versions.items())
    wrong = []
    if not versions.get("python", "").startswith("3.11."):
        wrong.append("Python 3.11 is what this version was tested on")
    if not versions.get("ray", "").startswith("2.60."):
        wrong.append("ray must be 2.60.x")
    missing = [name for name, number in versions.items() if not number]
    if wrong or missing:
        remedy = "`make setup`, or `pip install -c constraints.txt -e .` in a Python 3.11 venv"
        reasons = [*wrong, *(f"{name} is missing" for name in missing)]
        return Finding("versions", "fail", f"{'; '.join(reasons)} ({listed})", remedy)
    return Finding("versions", "ok", listed)


def check_threads(environ: Mapping[str, str]) -> Finding:
    """OMP_NUM_THREADS does not exceed the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = environ.get("OMP_NUM_THREADS", "")
    if text.isdigit() and int(text) > (cores or 1):
        return Finding(
            "threads",
            "warn",
            f"OMP_NUM_THREADS={text} on {cores} cores: many times slower",
            f"unset it, or set it to at most {cores}",
        )
    return Finding("threads", "ok", f"{cores} cores")


def check_port(port: int, host: str = "127.0.0.1") -> Finding:
    """Whether a port that a head node wants is free."""
    what = PORTS.get(port, "Ray")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                "ports",
                "warn",
                f"port {port} ({what}) is taken: {error.strerror}",
                "a Ray runs here already (`ray status`); to start another give other ports:"
                " `ray start --head --port=... --dashboard-port=...`",
            )
    return Finding("ports", "ok", f"port {port} ({what}) is free")


def check_storage(folder: str | Path) -> Finding:
    """Run folders can be written, synced, renamed and read back here."""
    path = Path(folder).absolute()
    probe = path / f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"rayloom")
            file.flush()
            os.fsync(file.fileno())
        moved = probe.with_suffix(".moved")
        probe.rename(moved)
        good = moved.read_bytes() == b"rayloom"
        moved.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        return Finding(
            "storage",
            "fail",
            f"{path}: {error.strerror}",
            "give another folder: storage=/path, and check its owner and its mount",
        )
    if not good:
        return Finding("storage", "fail", f"{path}: read back other bytes", "check the disk")
    return Finding("storage", "ok", f"{path} can be written")


def check_space(folder: str | Path, *, wanted: int = SPACE_BYTES) -> Finding:
    """Room for checkpoints."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    text = f"{free / 2**30:.1f} GiB free at {path}"
    if free < wanted:
        state: Health = "fail" if free < wanted / 10 else "warn"
        return Finding(
            "space",
            state,
            f"{text}, {wanted / 2**30:.1f} GiB are wanted",
            "`rayloom runs gc` removes checkpoints that are not kept; or another storage=",
        )
    return Finding("space", "ok", text)


def check_token(address: str, environ: Mapping[str, str] | None = None) -> Finding:
    """A token for a cluster that is not this process's own, readable by its owner only."""
    environ = os.environ if environ is None else environ
    if environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return Finding(
            "token",
            "warn",
            f"token authentication is switched off: whoever reaches {address} can run code on it",
            "unset RAY_AUTH_MODE, and start every node with RAY_AUTH_MODE=token",
        )
    if environ.get("RAY_AUTH_TOKEN"):
        return Finding("token", "ok", "RAY_AUTH_TOKEN is set")
    given = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    if not path.exists():
        return Finding(
            "token",
            "fail",
            f"there is no token at {path}",
            "copy ~/.ray/auth_token from the head node, or `ray get-auth-token --generate` there",
        )
    mode = path.stat().st_mode & 0o077
    if mode:
        return Finding("token", "warn", f"{path} can be read by others", f"`chmod 600 {path}`")
    return Finding("token", "ok", f"{path}")


# ------------------------------------------------------------------------------------- the cluster


def _on_cluster(address: str, storage: str) -> list[Finding]:
    """Join the cluster and look from each of its nodes."""
    from rayloom.distributed.cluster import start_ray

    try:
        with start_ray(address) as here:
            text = f"{here.cpus:g} CPUs and {here.gpus:g} GPUs on {len(here.node_cpus)} nodes"
            joined = Finding("cluster", "ok", f"{here.address}: {text}")
            views = look_from_nodes(storage)
    except RayloomError as error:
        remedy = "start it, or correct --address"
        if "token" in str(error):
            remedy = "copy the head's ~/.ray/auth_token here, mode 600"
        return [Finding("cluster", "fail", str(error), remedy)]
    return [joined, *judge(own_versions(), views, storage)]


@dataclass(frozen=True)
class View:
    """What a node looks like from a task on it.

    Attributes:
        node: Its name.
        versions: As `own_versions`.
        offset_s: Its clock minus ours, in seconds, by the middle of the call.
        uncertainty_s: Half the length of the call.
        sees: Whether it sees the file that the driver wrote to the storage.
        writes: "" if it can write there, else why not.
        free: Free bytes at the storage there; -1 if it does not exist.
        error: Why there is no view.
    """

    node: str
    versions: Mapping[str, str]
    offset_s: float = 0.0
    uncertainty_s: float = 0.0
    sees: bool = True
    writes: str = ""
    free: int = 2**62
    error: str = ""


def look_from_nodes(storage: str, *, timeout_s: float = 60.0) -> list[View]:
    """A task on every node: versions, clock, and the storage as seen from there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marker = Path(storage) / f".doctor-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(OSError):  # check_storage says so; the nodes will not see it either
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(b"rayloom")
    views = []
    try:
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            task = ray.remote(num_cpus=0)(_look).options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            )
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            try:
                ray.get(task.remote(str(marker)), timeout=timeout_s)  # starts the process there
                before = time.time()
                seen = ray.get(task.remote(str(marker)), timeout=timeout_s)
                after = time.time()
            except ray.exceptions.RayError as error:
                views.append(View(name, {}, error=first_line(error)))
                continue
            clock = seen.pop("clock")
            offset, half = clock - (before + after) / 2, (after - before) / 2
            views.append(View(name, **seen, offset_s=offset, uncertainty_s=half))
    finally:
        marker.unlink(missing_ok=True)
    return views


def _look(marker: str) -> dict[str, Any]:
    """Runs on a node."""
    path = Path(marker)
    writes, free = "", -1
    try:
        free = shutil.disk_usage(path.parent).free
        own = path.with_suffix(f".{os.getpid()}")
        own.write_bytes(b"x")
        own.unlink()
    except OSError as error:
        writes = f"{error.strerror}"
    return {
        "versions": own_versions(),
        "sees": path.exists(),
        "writes": writes,
        "free": free,
        "clock": time.time(),
    }


def judge(own: Mapping[str, str], views: Sequence[View], storage: str) -> list[Finding]:
    """Findings from what the nodes look like; one per check, naming the nodes that are wrong."""
    found = []
    lost = [f"{view.node}: {view.error}" for view in views if view.error]
    if lost:
        found.append(Finding("nodes", "fail", "; ".join(lost), "`ray status`; restart the node"))
    views = [view for view in views if not view.error]
    found.append(_judge_versions(own, views))
    blind = [view.node for view in views if not view.sees]
    mute = [f"{view.node}: {view.writes}" for view in views if view.writes]
    if blind or mute:
        reasons = [*(f"{node} does not see what is written here" for node in blind), *mute]
        found.append(
            Finding(
                "shared storage",
                "fail",
                f"{storage}: {'; '.join(reasons)}",
                "mount the same network folder at the same path on every node, and give it as"
                " storage=/path",
            )
        )
    else:
        found.append(
            Finding("shared storage", "ok", f"{storage} is read and written on {len(views)} nodes")
        )
    full = [f"{view.node}: {view.free / 2**30:.1f} GiB" for view in views if view.free < 2**30]
    if full and not blind and not mute:
        found.append(Finding("space", "fail", f"{storage}: {'; '.join(full)}", "`rayloom runs gc`"))
    found.append(_judge_clocks(views))
    return found


def _judge_versions(own: Mapping[str, str], views: Sequence[View]) -> Finding:
    wrong = [
        f"{view.node} has {name} {view.versions.get(name) or 'missing'}, here {own[name]}"
        for view in views
        for name in SAME
        if name in own and view.versions.get(name) != own[name]
    ]
    if wrong:
        return Finding(
            "versions on the nodes",
            "fail",
            "; ".join(wrong),
            "install the same `constraints.txt` on every node (setup_commands of cluster.yaml)",
        )
    return Finding("versions on the nodes", "ok", f"equal on {len(views)} nodes")


def _judge_clocks(views: Sequence[View]) -> Finding:
    wrong = [
        f"{view.node} is {view.offset_s:+.1f} s off"
        for view in views
        if abs(view.offset_s) > TOLERANCE_S + view.uncertainty_s
    ]
    if wrong:
        return Finding(
            "clock",
            "fail",
            "; ".join(wrong),
            "synchronise the clocks (chrony or systemd-timesyncd): timestamps of metrics and the"
            " heartbeat of a run's lock compare them",
        )
    most = max((abs(view.offset_s) for view in views), default=0.0)
    return Finding("clock", "ok", f"within {most:.2f} s")


def verdict(findings: Sequence[Finding]) -> int:
    """Exit code: 1 if anything fails, else 0."""
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def interpreter() -> str:
    """The Python that runs this, for the report."""
    return sys.executable
