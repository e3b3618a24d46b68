"""Runs whose process was killed: MLflow would say RUNNING for ever."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rayloom.core.files import write_atomic
from rayloom.core.secrets import mask_urls
from rayloom.records.files import to_json
from rayloom.records.journal_reader import tail
from rayloom.records.lock import LOCK_NAME, holder
from rayloom.tracking.memory import TRACKING_JSON, MlflowStatus, read_memory, read_record

AGAIN_S = 600.0  # a server that did not answer is not asked again sooner
_STATUS: dict[str, MlflowStatus] = {"finished": "FINISHED", "failed": "FAILED"}  # else KILLED


def is_alive(folder: Path) -> bool:
    """Whether a living process writes to a run folder."""
    with contextlib.suppress(OSError):
        now = holder(folder)
        return now is not None and now.alive
    return False


def status_of(folder: Path) -> MlflowStatus:
    """How MLflow calls the end of a run that nobody writes."""
    record = read_record(folder)
    return _STATUS.get(record.status, "KILLED") if record else "KILLED"


def ended_ms(folder: Path) -> int | None:
    """When a killed run gave its last sign of life, ms since the epoch; None if it gave none."""
    signs = [int(line["time_ms"]) for line in tail(folder / "journal.jsonl") if "time_ms" in line]
    with contextlib.suppress(OSError):
        signs.append((folder / LOCK_NAME).stat().st_mtime_ns // 1_000_000)
    return max(signs, default=None)


def left_running(folders: Iterable[Path]) -> dict[Path, str]:
    """Runs that nobody writes and of which MLflow was last told that they run, and their MLflow.

    Two small files are read of each; `mlflow` is not imported.
    """
    found = {}
    for folder in folders:
        memory = read_memory(folder)
        asked = memory.get("asked_s")
        lately = isinstance(asked, int | float) and abs(time.time() - asked) < AGAIN_S
        running = memory.get("status") == "RUNNING" and memory.get("mlflow_run_id")
        if running and not lately and isinstance(memory.get("uri"), str) and not is_alive(folder):
            found[folder] = str(memory["uri"])
    return found


def tell_killed(folders: Iterable[Path], uri: str, *, timeout_s: float = 10.0) -> list[Path]:
    """Tell MLflow how runs ended that were killed: KILLED, or what their `run.json` says.

    Args:
        folders: Of `left_running`.
        uri: Their MLflow, in full.
        timeout_s: Give up after so long; a server that does not answer is left alone for a while.

    Returns:
        Those of which MLflow knows now.
    """
    told: list[Path] = []
    wanted = [folder for folder in folders if not is_alive(folder)]
    if wanted and _is_there(uri):
        work = threading.Thread(target=_tell, args=(wanted, uri, told), daemon=True)
        work.start()
        work.join(timeout_s)
    done = list(told)
    for folder in wanted:
        if folder not in done:
            _note(folder, {"asked_s": time.time()})
    return done


def _is_there(uri: str) -> bool:
    """Whether something listens where a server should; asked before the seconds of an import."""
    if not uri.startswith(("http://", "https://")):
        return True
    parts = urlsplit(uri)
    with contextlib.suppress(OSError, ValueError):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=1.0).close()
        return True
    return False


def _tell(folders: list[Path], uri: str, told: list[Path]) -> None:
    from rayloom.tracking.client import belongs, make_client
    from rayloom.tracking.trouble import diagnose

    for folder in folders:
        memory = read_memory(folder)
        status = status_of(folder)
        ended = ended_ms(folder)
        try:
            client = make_client(uri)
            run = client.get_run(memory["mlflow_run_id"])
            if belongs(run, folder) and run.info.status == "RUNNING" and not is_alive(folder):
                client.set_terminated(run.info.run_id, status=status, end_time=ended)
        except Exception as error:  # a list of runs must not fail for that
            if diagnose(error).kind == "refused":  # that run is not in MLflow any more
                _note(folder, {"status": status, "ended_ms": ended})
                continue
            return
        _note(folder, {"status": status, "ended_ms": ended})
        told.append(folder)


def _note(folder: Path, facts: dict[str, Any]) -> None:
    """Change `tracking.json` of a run that nobody writes."""
    memory = read_memory(folder)
    if not memory or is_alive(folder):
        return
    with contextlib.suppress(OSError):
        data = to_json(memory | facts, indent=1)
        write_atomic(folder / TRACKING_JSON, data, durable=False)


def same_mlflow(recorded: str, uri: str) -> bool:
    """Whether a recorded address, without its user information, is that of an MLflow."""
    return recorded == mask_urls(uri)
