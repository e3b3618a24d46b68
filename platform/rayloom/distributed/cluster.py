"""Starting or joining Ray, quietly, on loopback, and leaving nothing behind.

A *local* Ray is started by this process and ends with it: every port on 127.0.0.1, token
authentication on (Ray's default for `ray.init`), and, unless it serves one run of Ray Train only
(`lean`), its dashboard server on a free port. That server is needed even where nobody looks at it:
Ray Train's clean-up helper asks it whether a run is still alive, and without an answer placement
groups leak and a later run hangs. The helper finds it through `RAY_API_SERVER_ADDRESS`, which is
set here, because its own search fails as soon as two Ray instances run on a host.
"""

import contextlib
import functools
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.core.errors import RayloomError
from rayloom.core.swaps import replaced, variables
from rayloom.distributed.joining import (
    check_address,
    chosen_address,
    connected,
    join,
    refuse_too_large,
)
from rayloom.distributed.lean import ENVIRONMENT, dismiss
from rayloom.distributed.place import VARIABLE, clear_old, end_workers, own_place
from rayloom.distributed.quiet import (
    QUIET_ENV,
    first_line,
    logged_errors,
    muted_stderr,
    own_sigterm,
    quiet_loggers,
)
from rayloom.distributed.witness import witnessed

_LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": 127.0.0.1 is the node's address
START_S = 120.0  # for a raylet


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
            cluster is too small; or this process is connected to another Ray.
    """
    joined = connected()
    if joined:
        check_address(address)
    address = chosen_address(address)
    cpus = max(cpus, sum(piece.get("CPU", 0.0) for piece in pieces))
    for leftover in clear_old():
        logging.getLogger(__name__).warning("taken away: %s", leftover)
    with (
        own_place() as folder,
        contextlib.nullcontext() if joined else witnessed(folder, note),
        _environment(local=address is None, lean=lean) as port,
    ):
        if joined:
            yield _described(folder, pieces, local=False)
            return
        with _connected_to(address, folder, port, cpus, env, plugins, dashboard=not lean):
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

    quiet_loggers()
    with logged_errors():
        with own_sigterm():
            if address is None:
                _init_local(folder, port, cpus=cpus, env=env, dashboard=dashboard)
            else:
                join(address, env=env, plugins=plugins)
        try:
            quiet_loggers()
            yield
        except KeyboardInterrupt:  # Ray's own way down waits for processes that are starting
            if address is None:
                end_workers(folder)
            raise
        finally:
            if address is None and not dashboard:
                dismiss()
            ray.shutdown()


def _init_local(
    folder: Path, port: int, *, cpus: float, env: Mapping[str, str] | None, dashboard: bool
) -> None:
    """Start a Ray on this machine, in this process's care, with all its files in `folder`."""
    import ray

    count = max(os.cpu_count() or 1, -(-int(cpus * 1000) // 1000))
    places = {name: str(folder) for name in (VARIABLE, "TMPDIR", "RAY_TMPDIR")}
    try:
        with variables(places), _patient(), _sheltered(), muted_stderr():
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
def _sheltered() -> Iterator[None]:
    """Ray's processes are a group of their own: signals to the command's whole group are for it.

    It asks the workers to stop, with a checkpoint, and needs a Ray for that.
    """
    from ray._private import services

    popen = services.ConsolePopen
    if sys.platform != "win32":
        popen = functools.partial(popen, process_group=0)
    with replaced(services, "ConsolePopen", popen):
        yield


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

    with replaced(services, "get_node", patiently):
        yield


def _described(scratch: Path, pieces: Sequence[Mapping[str, float]], *, local: bool) -> Cluster:
    """What this process is connected to; refuses one that never will hold the pieces."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have_cpus = sum(node.get("CPU", 0.0) for node in nodes)
    have_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    address = ray.get_runtime_context().gcs_address
    refuse_too_large(nodes, pieces, address)
    context = ray._private.worker.global_worker.node
    url = getattr(context, "webui_url", "") or ""
    return Cluster(
        address=address,
        dashboard=f"http://{url}" if url and "://" not in url else url,
        local=local,
        cpus=have_cpus,
        gpus=have_gpus,
        node_cpus=tuple(sorted((node.get("CPU", 0.0) for node in nodes), reverse=True)),
        scratch=scratch,
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
    joined = connected()
    with variables({} if joined else wanted, keep=[*wanted, "RAY_AUTH_MODE", "RAY_CLIENT_MODE"]):
        import ray._private.ray_constants as constants

        # ray may have been imported before the variable was set
        switch = constants.ENABLE_RAY_CLUSTER if joined else not local
        with replaced(constants, "ENABLE_RAY_CLUSTER", switch):
            yield port


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
