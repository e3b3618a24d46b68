"""The tables of a new SQLite database, made once per machine and version of MLflow.

MLflow makes them by its whole history of migrations, more than a second of work for every new
`mlflow.db`. What came out, before anything is written to it, is kept in the user's cache folder
(`$XDG_CACHE_HOME` or `~/.cache`, in `rayloom/`) and copied from then on. MLflow checks the version
of the tables whenever it opens a database, and makes the default experiment that the copy lacks.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rayloom.core.files import write_atomic
from rayloom.records.scratch import scratch

Opened = TypeVar("Opened")
_OF_MLFLOW = ("alembic_version", "workspaces")  # rows that a new database has
_OF_PLACE = "experiments"  # the default one names a folder beside its own database


def new_database(path: Path, open_it: Callable[[], Opened]) -> Opened:
    """Open a database that may not exist yet, with its tables from the cache if they are there.

    Args:
        path: The file. The caller keeps other processes from making it meanwhile.
        open_it: Lets MLflow open it and make what is missing.

    Returns:
        What `open_it` returned.

    Raises:
        Exception: Whatever MLflow raises.
    """
    new = not path.exists() or path.stat().st_size == 0
    placed = new and _place(path)
    opened = open_it()
    if new and not placed:
        _keep(path)
    return opened


def _place(path: Path) -> bool:
    """Copy the tables; False where there is no sound copy, or the disk refuses: MLflow's turn."""
    with contextlib.suppress(OSError, sqlite3.Error):
        template = _template()
        if template.is_file() and _rows(template) is not None:
            write_atomic(path, template.read_bytes(), durable=False)
            return True
    return False


def _keep(path: Path) -> None:
    """Remember the tables that MLflow has just made; where the disk refuses, not."""
    with contextlib.suppress(OSError, sqlite3.Error):
        template = _template()
        template.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with scratch() as room:
            copy = room / "mlflow.db"
            with (
                contextlib.closing(sqlite3.connect(path)) as source,
                contextlib.closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
                target.execute(f"DELETE FROM {_OF_PLACE}")
                target.commit()
                target.execute("VACUUM")
            if _rows(copy) == set(_OF_MLFLOW):  # nobody else has written to it meanwhile
                write_atomic(template, copy.read_bytes(), durable=False)


def _template() -> Path:
    """Where the tables of this MLflow are kept, told by its version and its migrations."""
    import mlflow

    versions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    names = "\n".join(sorted(file.name for file in versions.glob("*.py")))
    digest = hashlib.sha256(names.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "rayloom" / f"mlflow-{mlflow.__version__}-{digest}.db"


def _rows(path: Path) -> set[str] | None:
    """The tables that hold rows; None for a damaged file or one without tables."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            return None
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        held = {name for (name,) in tables if database.execute(f"SELECT 1 FROM {name}").fetchone()}
        return held if set(_OF_MLFLOW) <= held else None
