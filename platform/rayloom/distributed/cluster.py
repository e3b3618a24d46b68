"""Starting or joining Ray, quietly, on loopback, and leaving nothing behind.

A *local* Ray is started by this process and ends with it: every port on 127.0.0.1, token
authentication on (Ray's default for `ray.init`), and, unless it serves one run of Ray Train only
(`lean`), its dashboard server on a free port. That server is needed even where nobody looks at it:
Ray Train's clean-up helper asks it whether a run is still alive, and without an answer placement
groups leak and a later run hangs. The helper finds it through `RAY_API_SERVER_ADDRESS`, which is
set here, because its own search fails as soon as two Ray instances run on a host.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.core.errors import RayloomError, UserError
from rayloom.distributed.lean import ENVIRONMENT, dismiss
from rayloom.distributed.place import VARIABLE, clear_old, own_place
from rayloom.distributed.waiting import amount_text, holds, nodes_text
from rayloom.distributed.witness import witnessed

# Read by Ray at import or at start; a value that the user set always wins.
QUIET_ENV: dict[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also paces ray.train.report
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
    "RAY_DEDUP_LOGS": "0",
}
_LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": 127.0.0.1 is the node's address
START_S = 120.0  # for a raylet
PACKAGES = ("rayloom", "rayloom_envs", "rayloom_pipelines")


@dataclass(frozen=True)
class Cluster:
    """A Ray that this process is connected to.

    Attributes:
        address: GCS address, `host:port`.
        dashboard: `http://host:port` of the dashboard server, or "" if there is none.
        local: Whether this process started it.
        cpus: CPUs in all.
        gpus: GPUs in all.
        node_cpus: CPUs of each node, the largest first.
        scratch: A temporary folder that goes with the block.
    """

    address: str
    dashboard: str
    local: bool
    cpus: float
    gpus: float
    node_cpus: tuple[float, ...]
    scratch: Path = Path(tempfile.gettempdir())


@contextlib.contextmanager
def start_ray(
    address: str | None = None,
    *,
    cpus: float = 0,
    pieces: Sequence[Mapping[str, float]] = (),
    env: Mapping[str, str] | None = None,
    plugins: Sequence[str | Path] = (),
    note: str = "",
    lean: bool = False,
) -> Iterator[Cluster]:
    """A Ray for the length of a `with` block.

    Where this process is connected already, that Ray is used and left alone.

    Args:
        address: `host:port` of a running cluster's GCS, `auto`, or None: `RAY_ADDRESS` if it is
            set, else a local Ray. `local` always starts one.
        cpus: CPUs that a local Ray must have at least (it gets the machine's if that is more).
        pieces: CPUs and GPUs of each worker; a cluster that cannot hold them all is refused.
        env: Variables for every worker process.
        plugins: Files that workers on other nodes need too.
        note: What to tell the user should this process die of its Ray: which run, and what next.
        lean: A local Ray serves this one run of Ray Train: see `lean`. (The trials of a sweep share
            a Ray, which needs all of it.)

    Raises:
        UserError: The address is a dashboard's, nobody answers there, the token is refused, or the
            cluster is too small.
    """
    address = _chosen(address)
    cpus = max(cpus, sum(piece.get("CPU", 0.0) for piece in pieces))
    for leftover in clear_old():
        logging.getLogger(__name__).warning("taken away: %s", leftover)
    with own_place() as folder, _environment(local=address is None, lean=lean) as port:
        import ray

        if ray.is_initialized():
            yield _described(folder, pieces, local=False)
            return
        made = _connected_to(address, folder, port, cpus, env, plugins, dashboard=not lean)
        with witnessed(folder, note), made:
            yield _described(folder, pieces, local=address is None)


@contextlib.contextmanager
def _connected_to(
    address: str | None,
    folder: Path,
    port: int,
    cpus: float,
    env: Mapping[str, str] | None,
    plugins: Sequence[str | Path],
    *,
    dashboard: bool,
) -> Iterator[None]:
    """Connected to that Ray, or to one of our own, for the block."""
    import ray

    _quiet_loggers()
    with _logged_errors():
        with _own_sigterm():
            if address is None:
                _init_local(folder, port, cpus=cpus, env=env, dashboard=dashboard)
            else:
                _join(address, env=env, plugins=plugins)
        try:
            _quiet_loggers()
            yield
        finally:
            if address is None and not dashboard:
                dismiss()
            ray.shutdown()


@contextlib.contextmanager
def _logged_errors() -> Iterator[None]:
    """What Ray's own processes have to say goes to the log, not to standard output.

    `log_to_driver=False` silences the workers alone: a thread of the driver still prints that a
    worker died, or that many were started, into the middle of a progress line or of JSON events.
    """
    from ray._private import worker

    printed = worker.print_to_stdstream

    told: set[str] = set()

    def noted(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:  # each often holds pages of another process's log
            first = str(line).strip().partition("\n")[0][:400]
            if first and first not in told:
                told.add(first)
                logging.getLogger("rayloom.ray").warning("%s: %s", data["pid"], first)

    worker.print_to_stdstream = noted
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def _init_local(
    folder: Path, port: int, *, cpus: float, env: Mapping[str, str] | None, dashboard: bool
) -> None:
    """Start a Ray on this machine, in this process's care, with all its files in `folder`."""
    import ray

    count = max(os.cpu_count() or 1, -(-int(cpus * 1000) // 1000))
    places = {name: str(folder) for name in (VARIABLE, "TMPDIR", "RAY_TMPDIR")}
    try:
        with variables(places), _patient(), muted_stderr():  # the variables are for its processes
            ray.init(
                _temp_dir=str(folder),
                address="local",
                num_cpus=count,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": dict(env)} if env else None,
            )
    except Exception as error:  # Ray raises bare ones too
        raise RayloomError(
            f"a local Ray did not start: {why_not_started(error)}. Its logs lie in"
            f" {folder}/session_latest/logs; `workers: 0` trains without Ray"
        ) from error


def why_not_started(error: Exception) -> str:
    """Ray's reason in one clause; its own text is a page, or only where to look."""
    text = str(error)
    slow = "this machine is very busy, or a limit (memory, processes, open files) is in the way"
    if "timed out during startup" in text:
        return f"its raylet did not come up within {START_S:.0f} s; {slow}"
    if "dashboard.log" in text or "dashboard.err" in text:
        return f"its dashboard server did not come up in time; {slow}"
    return first_line(error).rstrip(".")


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """A busy machine may take longer to start a raylet than the 30 s that Ray has fixed."""
    from ray._private import services

    asked = services.get_node

    def patiently(gcs_address: str, node_id: str) -> Any:
        end = time.monotonic() + START_S
        while True:
            try:
                return asked(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    services.get_node = patiently
    try:
        yield
    finally:
        services.get_node = asked


@contextlib.contextmanager
def variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """These environment variables for the block."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's own ends the process with code 1 and no checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, before)


def _join(address: str, *, env: Mapping[str, str] | None, plugins: Sequence[str | Path]) -> None:
    """Connect to a running cluster; the packages travel along unless this is one of its jobs."""
    _knock(address)
    import ray

    runtime_env: dict[str, Any] | None = None
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        runtime_env = {
            "py_modules": [str(folder) for folder in package_folders()],
            "env_vars": {**{k: os.environ.get(k, v) for k, v in QUIET_ENV.items()}, **(env or {})},
        }
        if address not in ("auto",):
            runtime_env["env_vars"].setdefault("RAY_ADDRESS", address)
        if plugins:
            runtime_env["py_modules"] += [str(Path(p).resolve()) for p in plugins]
    with token_mode(), muted_stderr() as noise:
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=runtime_env,
            )
        except (RuntimeError, ConnectionError, OSError, ValueError, TimeoutError) as error:
            raise UserError(_why_not_joined(address, error, noise())) from error


def check_address(address: str | None) -> None:
    """Whether a Ray could be joined where a config says, without joining it.

    Args:
        address: See `start_ray`.

    Raises:
        UserError: It is a dashboard's, no `host:port`, or nothing accepts a connection there.
    """
    chosen = _chosen(address)
    if chosen is not None and not _connected():
        _knock(chosen)


def _chosen(address: str | None) -> str | None:
    """The address that holds: the given one, else `RAY_ADDRESS`; None for a local Ray."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":
        return None
    if address is not None and address.startswith(("http://", "https://")):
        raise UserError(
            f"address {address!r} is that of a dashboard, which `rayloom submit` and `rayloom jobs`"
            " use; train and sweep join the cluster itself: host:6379, or 'auto' on one of its"
            " nodes"
        )
    return address


def _knock(address: str, timeout_s: float = 5.0) -> None:
    """Nobody there is told at once: Ray itself would try for ten minutes.

    Raises:
        UserError: Not `host:port`, or nothing accepts a connection there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"address {address!r}: give host:port, such as 10.0.0.1:6379, or 'auto'")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError as error:
        raise UserError(_why_not_joined(address, error)) from error


def _why_not_joined(address: str, error: Exception, noise: str = "") -> str:
    text = f"{type(error).__name__} {error} {noise}"
    if "uthent" in text or "InvalidAuthToken" in text:
        return (
            f"the cluster at {address} refuses this token. Both sides need RAY_AUTH_MODE=token and"
            " the same ~/.ray/auth_token (or RAY_AUTH_TOKEN); see docs/cluster.md"
        )
    return (
        f"no Ray answers at {address}: {first_line(error)}. Start one with"
        " `RAY_AUTH_MODE=token ray start --head`, or leave --address out to use this machine"
    )


def _described(scratch: Path, pieces: Sequence[Mapping[str, float]], *, local: bool) -> Cluster:
    """What this process is connected to; refuses one that never will hold the pieces."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have_cpus = sum(node.get("CPU", 0.0) for node in nodes)
    have_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    _refuse_too_small(nodes, pieces)
    context = ray._private.worker.global_worker.node
    url = getattr(context, "webui_url", "") or ""
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        dashboard=f"http://{url}" if url and "://" not in url else url,
        local=local,
        cpus=have_cpus,
        gpus=have_gpus,
        node_cpus=tuple(sorted((node.get("CPU", 0.0) for node in nodes), reverse=True)),
        scratch=scratch,
    )


def _refuse_too_small(
    nodes: Sequence[Mapping[str, float]], pieces: Sequence[Mapping[str, float]]
) -> None:
    """Ray would wait for ever for what does not fit, without a word."""
    import ray

    if holds(nodes, pieces):
        return
    room = [{name: node.get(name, 0.0) for name in ("CPU", "GPU")} for node in nodes]
    total = {name: sum(piece.get(name, 0.0) for piece in pieces) for name in ("CPU", "GPU")}
    most = amount_text(max(pieces, key=lambda piece: sum(piece.values())))
    raise UserError(
        f"this run needs {amount_text(total)}, in pieces of up to {most} that each lie on one node,"
        f" and never will fit: {nodes_text(room)} (Ray at"
        f" {ray.get_runtime_context().gcs_address}); lower resources.workers,"
        " resources.cpus_per_worker or resources.gpus_per_worker, or add nodes"
    )


@contextlib.contextmanager
def _environment(*, local: bool, lean: bool) -> Iterator[int]:
    """Ray's variables for the block, put back as they were after it; gives a free port."""
    port = free_port()
    wanted = {name: os.environ.get(name, value) for name, value in QUIET_ENV.items()}
    if local and lean:
        wanted |= {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    if local:
        wanted[_LOOPBACK_SWITCH] = "0"
        wanted["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    names = [*wanted, "RAY_AUTH_MODE", "RAY_CLIENT_MODE"]
    before = {name: os.environ.get(name) for name in names}
    if not _connected():
        os.environ.update(wanted)
    import ray._private.ray_constants as constants

    cluster_mode = constants.ENABLE_RAY_CLUSTER
    try:
        if not _connected():  # ray may have been imported before the variable was set
            constants.ENABLE_RAY_CLUSTER = not local
        yield port
    finally:
        constants.ENABLE_RAY_CLUSTER = cluster_mode
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _quiet_loggers() -> None:
    for name in ("ray", "ray.tune", "ray.train", "ray.rllib", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def muted_stderr() -> Iterator[Callable[[], str]]:
    """Nothing reaches file descriptor 2 in this block: Ray's C++ core writes warnings to it.

    Gives a function that returns what was written so far.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)

        def text() -> str:
            return os.pread(caught.fileno(), 100_000, 0).decode("utf-8", "replace")

        try:
            yield text
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def has_token() -> bool:
    """Whether a cluster token can be found here (its value is never read)."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path).exists() if path else (Path.home() / ".ray" / "auth_token").exists()


@contextlib.contextmanager
def token_mode() -> Iterator[None]:
    """Ray's client sends the token only where `RAY_AUTH_MODE` says so; set it if there is one."""
    before = os.environ.get("RAY_AUTH_MODE")
    if before is None and has_token():
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray._raylet import Config

        Config.initialize("")  # ray reads the variable once, and may be imported already
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)


def package_folders() -> list[Path]:
    """Folders of the packages that travel to other nodes (importable ones of `PACKAGES`)."""
    from importlib.util import find_spec

    folders = []
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders.append(Path(next(iter(spec.submodule_search_locations))))
    return folders


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_line(error: BaseException) -> str:
    """The line of an error's message that says most, without terminal colours.

    Ray's errors often hold a whole traceback, whose last line is the one.
    """
    import re

    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if "Traceback" in text else 0][:300]
