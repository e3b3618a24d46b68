"""Which MLflow: MLflow's own conventions, with paths made absolute on the driver."""

import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote

from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.secrets import HIDDEN, mask, remember_url

_DATABASE = re.compile(r"(sqlite|mysql|postgresql|mssql)(\+\w+)?://")


def resolve_uri(config_uri: str | None, cwd: str | Path) -> str:
    """The tracking URI of a run, absolute.

    Args:
        config_uri: `tracking.uri` of the config; None: `MLFLOW_TRACKING_URI`, else
            `mlflow.db` in the working folder, which is where a plain `mlflow ui` looks.
        cwd: The working folder.

    Returns:
        An http(s), database or vendor URI. SQLite paths are absolute.

    Raises:
        UserError: A plain folder (MLflow 3 has no file store) or a database in memory.
    """
    uri = config_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite"):
        return "sqlite:///" + str(_sqlite_path(uri, Path(cwd)))
    if re.match(r"https?://", uri) or _DATABASE.match(uri):
        return uri.rstrip("/")
    if uri.startswith("file:") or ("://" not in uri and uri not in ("databricks", "uc")):
        raise UserError(
            f"tracking.uri {uri!r} is a folder, which MLflow 3 no longer writes to; "
            f"use sqlite:///PATH/mlflow.db or the http address of a server"
        )
    scheme = uri.partition("://")[0] if "://" in uri else ""
    known = {"databricks", "databricks-uc", "uc", "http", "https", *_stores_of_plugins()}
    if scheme and scheme not in known:
        hint = did_you_mean(scheme, [*known, "sqlite", "mysql", "postgresql", "mssql"])
        raise UserError(f"tracking.uri {uri!r}: MLflow knows no {scheme}://{hint}")
    return uri


def _stores_of_plugins() -> list[str]:
    """Schemes that installed plugins of MLflow's add."""
    return [entry.name for entry in entry_points(group="mlflow.tracking_store")]


def recall_uri(recorded: str, *given: str | None) -> str:
    """The address of an MLflow, with the user information that no file of a run holds.

    Args:
        recorded: As a run's files name it, `http://***@host` where there was user information.
        given: What may hold it in full (the config's, a site file's); `MLFLOW_TRACKING_URI` is
            asked too. User information goes to the recorded address only.

    Raises:
        UserError: It is missing; says where it may come from.
    """
    if f"{HIDDEN}@" not in recorded:
        return recorded
    for uri in (*given, os.environ.get("MLFLOW_TRACKING_URI")):
        if uri and HIDDEN not in uri:
            whole = resolve_uri(uri, Path.cwd())
            if mask(whole) == mask(recorded):
                remember_url(whole)
                return whole
    raise UserError(
        f"MLflow at {recorded} wants the user and password that the run was started with, and a "
        "run folder never keeps them: set MLFLOW_TRACKING_URI to the whole address again"
    )


def _sqlite_path(uri: str, cwd: Path) -> Path:
    rest = uri.partition("://")[2].partition("?")[0]
    name = unquote(rest[1:] if rest.startswith("/") else rest)
    if not name or ":memory:" in name:
        raise UserError(f"tracking.uri {uri!r}: a database in memory dies with the run")
    return Path(os.path.normpath(cwd.absolute() / Path(name).expanduser()))


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for any other."""
    return _sqlite_path(uri, Path.cwd()) if uri.startswith("sqlite") else None


def is_database(uri: str) -> bool:
    """Whether MLflow would open a database itself, and not ask a server."""
    return _DATABASE.match(uri) is not None


def artifact_root(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files: beside a SQLite database, else the server decides.

    Returns:
        An absolute `file:` URI, so that the working folder of whoever reads does not matter.
    """
    path = sqlite_file(uri)
    if path is None:
        return None
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip("-.") or "experiment"
    return (path.parent / "mlruns" / label).as_uri()
