"""Does the MLflow answer that runs would write to, with the credentials that they would send?"""

import base64
import os
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from rayloom.core.secrets import mask, mask_urls, remember_url
from rayloom.core.text import one_line
from rayloom.core.waiting import within
from rayloom.distributed.findings import Finding
from rayloom.distributed.quiet import first_line

_LATER = "runs go on without it and send their points later"
_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}


def check_tracking(uri: str, *, timeout_s: float = 3.0) -> Finding:
    """MLflow's store answers: a server by HTTP, a database by a connection, a file by its mode.

    Args:
        uri: Tracking URI, with the user and password that it has; the finding hides them.
        timeout_s: How long an answer may take.
    """
    remember_url(uri)
    try:
        parts = urlsplit(uri)
        scheme, host = parts.scheme.partition("+")[0], parts.hostname
    except ValueError as error:
        message = mask(f"{uri} is no address: {error}")
        return Finding("tracking", "fail", message, "correct tracking.uri or MLFLOW_TRACKING_URI")
    if scheme in ("http", "https"):
        return _check_server(parts, timeout_s)
    if scheme in _PORTS:
        return _check_database(uri, host or "localhost", parts.port or _PORTS[scheme], timeout_s)
    text = uri.removeprefix("sqlite:///").removeprefix("file://")
    path = Path(text).absolute()
    folder = path.parent if scheme == "sqlite" else path
    if not folder.exists():
        return Finding(
            "tracking", "fail", f"{folder} does not exist", "make it, or change tracking.uri"
        )
    if not os.access(path if path.exists() else folder, os.W_OK):
        return Finding("tracking", "fail", f"{path} cannot be written", "change its owner")
    return Finding("tracking", "ok", f"{mask_urls(uri)} can be written")


def _credentials(parts: SplitResult) -> dict[str, str]:
    """The header that MLflow's own client would send: of the address, then of its variables."""
    name, word = (os.environ.get(f"MLFLOW_TRACKING_{key}") for key in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if parts.username or parts.password:
        name, word = unquote(parts.username or ""), unquote(parts.password or "")
    elif not (name and word):
        return {"Authorization": f"Bearer {token}"} if token else {}
    packed = base64.b64encode(f"{name}:{word or ''}".encode()).decode()
    return {"Authorization": f"Basic {packed}"}


def _check_server(parts: SplitResult, timeout_s: float) -> Finding:
    import http.client
    import urllib.error
    import urllib.request

    shown = mask_urls(urlunsplit(parts))
    where = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    sent = _credentials(parts)

    def version() -> str:
        request = urllib.request.Request(f"{where}/version", headers=sent)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return str(answer.read(40).decode("utf-8", "replace").strip())

    try:
        number = within(2 * timeout_s, version)  # a byte now and then is no answer either
    except urllib.error.HTTPError as error:
        remedy = "is this an MLflow server?"
        if error.code in (401, 403):
            remedy = (
                "the user and password are refused: correct them"
                if sent
                else "set MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        elif error.code in (429, 500, 502, 503, 504):
            remedy = f"see the server's own log; {_LATER}"
        why = "(redirects without end)" if 300 <= error.code < 400 else error.reason
        return Finding("tracking", "fail", f"{shown} answers {error.code} {why}", remedy)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = first_line(getattr(error, "reason", error)) or type(error).__name__
        return Finding(
            "tracking",
            "fail",
            mask(f"{shown} does not answer: {reason}"),
            f"start it (`mlflow server`), or correct tracking.uri; {_LATER}",
        )
    if not re.match(r"\d+\.\d+", number):
        told = one_line(number)
        return Finding(
            "tracking",
            "fail",
            mask(f"{shown} answers, but not as MLflow does: {told!r} in place of a version"),
            "is this the address of an MLflow server, and no log-in page before it?",
        )
    return Finding("tracking", "ok", f"{shown} answers, MLflow {number}")


def _check_database(uri: str, host: str, port: int, timeout_s: float) -> Finding:
    import sqlalchemy

    shown = mask_urls(uri)
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            pass
        engine = sqlalchemy.create_engine(uri)
        with engine.connect():
            pass
        engine.dispose()
    except ImportError as error:
        return Finding(
            "tracking", "fail", f"{shown} needs a driver: {error}", "`pip install` it, then again"
        )
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        remedy = "start it, or correct the user, the password or tracking.uri"
        return Finding("tracking", "fail", mask(f"{shown}: {first_line(error)}"), remedy)
    return Finding("tracking", "ok", f"{shown} can be reached")
