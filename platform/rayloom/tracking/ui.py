"""MLflow's own pages, on this machine only."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rayloom.core.errors import RayloomError, UserError
from rayloom.core.secrets import mask_urls
from rayloom.records.files import Say
from rayloom.tracking import guard
from rayloom.tracking.page import VIEW, VIEW_TAG
from rayloom.tracking.uri import sqlite_file

HOST = "127.0.0.1"
DEFAULT_PORT = 5000


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def pick_port(wanted: int | None) -> int:
    """The port to serve on.

    Args:
        wanted: A port, or None for the first free one from 5000 on.

    Raises:
        UserError: The wanted port is taken or out of range; names a free one.
    """
    free = next((port for port in range(DEFAULT_PORT, DEFAULT_PORT + 200) if _is_free(port)), None)
    if wanted is None:
        if free is None:
            raise UserError(f"no free port from {DEFAULT_PORT} to {DEFAULT_PORT + 199}")
        return free
    if not 1 <= wanted <= 65535:
        raise UserError(f"port {wanted} is not between 1 and 65535")
    if not _is_free(wanted):
        raise UserError(f"port {wanted} is taken; {free} is free (--port {free})")
    return wanted


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.5):
        return True
    return False


def serve_ui(uri: str, port: int | None, *, say: Say, start_timeout_s: float = 180.0) -> int:
    """Serve MLflow's pages of a tracking URI on loopback until Ctrl-C or SIGTERM.

    Args:
        uri: Tracking URI. A server has its own pages: its address is said and nothing is started.
        port: Port, or None for a free one from 5000 on.
        say: Hears the address.
        start_timeout_s: Longest wait for the server to answer.

    Returns:
        Exit code: 0 after Ctrl-C.

    Raises:
        UserError: The port is taken.
        RayloomError: The server did not start.
    """
    if uri.startswith(("http://", "https://")):
        say(f"open {mask_urls(uri)}")
        return 0
    port = pick_port(port)
    database = sqlite_file(uri)
    folder = database.parent if database is not None else Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1"]
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet["MLFLOW_BACKEND_STORE_URI"] = uri  # no argument: everybody can read those of a process
    server = start_guarded(command, folder, {**os.environ, **quiet})
    try:
        with _sigterm_as_interrupt():
            return _attend(server, port, uri, say, start_timeout_s)
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)


def start_guarded(
    command: Sequence[str], folder: Path, environ: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a server that ends with this process, even if this one is killed (`guard`).

    Returns:
        The process whose end is the server's, leader of a group of its own; it prints to a pipe.
    """
    return subprocess.Popen(
        [sys.executable, "-I", guard.__file__, *command],
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.PIPE,  # held by us alone: its end means that we are gone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us; we stop it cleanly
    )


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the server as Ctrl-C does; only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _attend(
    server: "subprocess.Popen[bytes]", port: int, uri: str, say: Say, start_timeout_s: float
) -> int:
    last: deque[str] = deque(maxlen=20)

    def drain() -> None:
        for line in server.stdout or ():
            last.append(line.decode(errors="replace").rstrip())

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    deadline = time.monotonic() + start_timeout_s
    while not _answers(port):
        if server.poll() is not None or time.monotonic() > deadline:
            reader.join(1.0)
            raise RayloomError("the MLflow server did not start:\n" + "\n".join(last))
        time.sleep(0.2)
    where = _landing(f"http://{HOST}:{port}")
    say(f"MLflow shows {mask_urls(uri)} at {where} (Ctrl-C stops it)")
    code = server.wait()
    if code:
        raise RayloomError(f"the MLflow server ended with code {code}:\n" + "\n".join(last))
    return 0


def _landing(base: str) -> str:
    """The runs of the experiment that changed last; MLflow's own start page shows GenAI traces."""
    question = urllib.request.Request(
        f"{base}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 1, "order_by": ["last_update_time DESC"]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(question, timeout=10.0) as answer:
            found = json.load(answer).get("experiments", [])
    except (OSError, ValueError):
        return base  # the address is right in any case
    if not found:
        return base
    where = f"{base}/#/experiments/{found[0]['experiment_id']}/runs?workflowType=machine_learning"
    tags = {tag.get("key") for tag in found[0].get("tags", [])}
    return f"{where}&viewStateShareKey={VIEW}" if VIEW_TAG in tags else where


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and its workers."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience_s)
            return
