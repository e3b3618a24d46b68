"""Whether a run folder's tracking address may be used: only if the user names that server.

A run folder is data. Its `tracking.uri` says where the run was tracked, but this machine's
credentials (`MLFLOW_TRACKING_TOKEN`, a password, a Databricks profile, a database's) and the run's
own content go only to a server that the user's flag, environment or site file names; one that the
user named before on this machine is used again while there is no credential to give away. A SQLite
file is used if it is the user's own, now or before: whoever owns it says where MLflow writes files.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rayloom.core.errors import UserError
from rayloom.core.trust import is_trusted_server, remember_server
from rayloom.tracking.uri import sqlite_file

_CREDENTIALS = re.compile(
    r"MLFLOW_TRACKING_(TOKEN|USERNAME|PASSWORD|AUTH|AWS_SIGV4|CLIENT_CERT_PATH)"
    r"|DATABRICKS_\w+|PG(PASSWORD|PASSFILE|SERVICE\w*|SSL\w+)|MYSQL_PWD"
)
_FILES = (".mlflow/credentials", ".databrickscfg", ".pgpass", ".my.cnf")
_PORTS = {"http": 80, "https": 443}
_NAMED: set[str] = set()  # addresses that this process was given by its user


def name_server(uri: str | None, *, remember: bool = True) -> None:
    """Note that the user names this address: by a flag, a config, or an argument.

    Args:
        uri: Tracking URI; None does nothing.
        remember: For later commands on this machine too. False on workers.
    """
    if not uri:
        return
    _NAMED.add(uri)
    server = server_of(uri)
    if remember and server:
        remember_server(server)


def server_of(uri: str) -> str:
    """An address without user information, query and path, in one spelling; "" if it is none."""
    if uri.startswith("sqlite"):
        return f"sqlite:///{sqlite_file(uri)}"
    try:
        parts = urlsplit(uri)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return ""
    if not host or not parts.scheme:
        return uri if re.fullmatch(r"[a-z-]+", uri) else ""
    scheme = parts.scheme.lower()
    port = port or _PORTS.get(scheme)
    host = f"[{host}]" if ":" in host else host
    if scheme in _PORTS:
        return f"{scheme}://{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""  # a driver, a library: part of a database
    return f"{scheme}://{host}{f':{port}' if port else ''}{parts.path}{query}"


def plain(uri: str) -> str:
    """An address without its user information."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    return (
        urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri
    )


def allowed(
    recorded: str, named: Sequence[str], *, environ: Mapping[str, str] | None = None
) -> str:
    """The address to use for one that a run folder recorded.

    Args:
        recorded: What the run folder says.
        named: What the user's environment and site file say, and the default, all absolute.
        environ: Variables; None: the process's own.

    Returns:
        The user's own spelling of it where there is one (with its password), else the recorded one
        without user information.

    Raises:
        UserError: Nobody named it; says how to.
    """
    environ = os.environ if environ is None else environ
    ours = [uri for uri in (*_NAMED, *named) if uri]
    if recorded.startswith("sqlite"):
        recorded = clean = server_of(recorded)
        if clean in map(server_of, ours) or is_trusted_server(clean):
            return clean
        raise UserError(
            f"the run folder names the MLflow database {clean}, which you did not name, so it is "
            f"not used. If it is yours: MLFLOW_TRACKING_URI={clean}, or tracking.uri={clean} on "
            "`resume`"
        )
    server, clean = server_of(recorded), plain(recorded).rstrip("/")
    same = [uri for uri in ours if server_of(uri) == server]
    if server and same:
        exact = [uri for uri in same if plain(uri).rstrip("/") == clean]
        return exact[0].rstrip("/") if exact else clean
    if server and "//" in server and is_trusted_server(server) and not credentials(environ):
        return clean
    why = "this machine's credentials and the run go only to a server that you name"
    if server and is_trusted_server(server):
        why += ", and there are credentials now that you may not have meant for this one"
    raise UserError(
        f"the run folder names the MLflow {clean}, which is not used: {why}. If you trust it, say "
        f"MLFLOW_TRACKING_URI={clean}, or tracking.uri={clean} (resume), --uri {clean} (runs sync)"
    )


def credentials(environ: Mapping[str, str]) -> list[str]:
    """Variables and files that hold credentials which MLflow would send to any server."""
    found = [name for name, value in environ.items() if value and _CREDENTIALS.fullmatch(name)]
    home = Path(environ.get("HOME") or "/nonexistent")
    return [*found, *(name for name in _FILES if (home / name).exists())]
