"""Joining a Ray that runs already: which address holds, who answers there, and with which token."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.core.errors import UserError
from rayloom.core.swaps import variables
from rayloom.distributed.quiet import QUIET_ENV, first_line, muted_stderr
from rayloom.distributed.waiting import amount_text, holds, nodes_text

# What a gRPC client says first (RFC 9113, 3.4): a preface and SETTINGS; a server answers SETTINGS.
_SETTINGS = b"\x04"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)

PACKAGES = ("rayloom", "rayloom_envs", "rayloom_pipelines")


class TooLargeError(UserError):
    """The cluster never will hold what is asked for."""


def check_address(address: str | None, pieces: Sequence[Mapping[str, float]] = ()) -> None:
    """Whether a Ray could be joined where a config says, without joining it.

    Args:
        address: See `start_ray`.
        pieces: See `start_ray`.

    Raises:
        UserError: It is a dashboard's, no `host:port`, no Ray answers there, the token is refused,
            or this process is connected to another Ray already, which would be used instead.
        TooLargeError: Its nodes cannot hold the pieces.
    """
    chosen = chosen_address(address)
    if chosen is None:
        return
    if not connected():
        nodes = look_at(chosen)
        if nodes is not None:
            refuse_too_large(nodes, pieces, chosen)
    elif address not in (None, "", "auto"):
        _refuse_another(chosen)


def look_at(address: str) -> list[dict[str, float]] | None:
    """The resources of each node that a Ray has, read from its head without joining it.

    The head tells a refused token at once; Ray's own way of joining tries again for 20 s.

    Returns:
        None where the address names no head: `auto`, or a Ray Client's.

    Raises:
        UserError: No Ray answers, or the token is refused.
    """
    _knock(address)
    if address == "auto" or address.startswith("ray://"):
        return None
    told = {name: os.environ.get(name, value) for name, value in QUIET_ENV.items()}
    with variables(told):  # Ray reads some at its first import
        from ray._raylet import GcsClient
        from ray.exceptions import RayError

    with token_mode(), muted_stderr() as noise:
        try:
            found = GcsClient(address=address).get_all_node_info(timeout=10).values()
        except (RayError, RuntimeError, OSError) as error:
            raise UserError(_why_not_joined(address, error, noise())) from error
    return [dict(node.resources_total) for node in found if node.state == 0]  # alive


def refuse_too_large(
    nodes: Sequence[Mapping[str, float]], pieces: Sequence[Mapping[str, float]], address: str
) -> None:
    """Ray would wait for ever for what does not fit, without a word.

    Raises:
        TooLargeError: It does not.
    """
    if holds(nodes, pieces):
        return
    room = [{name: node.get(name, 0.0) for name in ("CPU", "GPU")} for node in nodes]
    total = {name: sum(piece.get(name, 0.0) for piece in pieces) for name in ("CPU", "GPU")}
    most = amount_text(max(pieces, key=lambda piece: sum(piece.values())))
    raise TooLargeError(
        f"this run needs {amount_text(total)}, in pieces of up to {most} that each lie on one node,"
        f" and never will fit: {nodes_text(room)} (Ray at {address}); lower resources.workers,"
        " resources.cpus_per_worker or resources.gpus_per_worker, or add nodes"
    )


def _refuse_another(address: str) -> None:
    """A driver is connected to one Ray only; tasks and actors of a cluster just have theirs."""
    import ray
    from ray._private import worker

    if worker.global_worker.mode != worker.SCRIPT_MODE:
        return
    ours, asked = ray.get_runtime_context().gcs_address, _split(address)
    if asked[1] != _split(ours)[1] or not _same_host(asked[0], _split(ours)[0]):
        raise UserError(
            f"address {address!r}: this process is connected to the Ray at {ours} already; call"
            " ray.shutdown() first, or leave the address out to use that one"
        )


def _same_host(one: str, other: str) -> bool:
    """Whether two names lead to one machine; loopback is this one, where Ray listens on all."""
    found = []
    for host in (one, other):
        try:
            found.append({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
        except OSError:
            return one == other
    loopback = any(ip.startswith("127.") or ip == "::1" for ip in found[0])
    return loopback or bool(found[0] & found[1])


def chosen_address(address: str | None) -> str | None:
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


def join(address: str, *, env: Mapping[str, str] | None, plugins: Sequence[str | Path]) -> None:
    """Connect to a running cluster; the packages travel along unless this is one of its jobs."""
    look_at(address)
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


def _knock(address: str, timeout_s: float = 5.0) -> None:
    """Nobody there is told at once: Ray itself would try for ten minutes, or end this process.

    Raises:
        UserError: Not `host:port`, nothing accepts a connection there, or what does is no Ray.
    """
    if address == "auto":
        return
    place = _split(address)
    try:
        with socket.create_connection(place, timeout=timeout_s) as line:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("0", "false", ""):
                line.sendall(_GREETING)
                answer = line.recv(9, socket.MSG_WAITALL)
                if answer[3:4] != _SETTINGS:
                    raise ConnectionError("what listens there is no Ray (is it another port?)")
    except OSError as error:
        raise UserError(_why_not_joined(address, error)) from error


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise UserError(f"address {address!r}: give host:port, such as 10.0.0.1:6379, or 'auto'")
    return host, int(port)


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


def connected() -> bool:
    """Whether this process is connected to a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
