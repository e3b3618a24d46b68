"""A new mlflow.db gets MLflow's tables from the cache, the same ones and nothing else."""

import sqlite3
from contextlib import closing

import pytest

from rayloom.tracking import schema
from rayloom.tracking.client import make_client


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rayloom"


def tables(path):
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return sorted(rows, key=str)


def make(path, *, rows=()):
    """What MLflow would make, as far as `schema` looks at it."""
    with closing(sqlite3.connect(path)) as database:
        for table in ("alembic_version", "workspaces", "experiments", "runs"):
            database.execute(f"CREATE TABLE {table} (name TEXT)")
        for table in ("alembic_version", "workspaces", "experiments", *rows):
            database.execute(f"INSERT INTO {table} VALUES ('x')")
        database.commit()


def test_the_second_database_of_a_machine_is_the_first_ones_twin(
    tmp_path, cache, empty_database, monkeypatch
):
    """Equal tables, its own default experiment, and none of MLflow's migrations."""
    schema._keep(empty_database)  # which MLflow made
    (kept,) = cache.iterdir()
    assert kept.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", pytest.fail)
    path = tmp_path / "new" / "mlflow.db"
    client = make_client(f"sqlite:///{path}")
    assert tables(path) == tables(empty_database)
    (default,) = client.search_experiments()
    assert (default.experiment_id, default.name) == ("0", "Default")
    client.log_metric(client.create_run(client.create_experiment("mine")).info.run_id, "a", 1.0)


def test_mlflow_makes_what_the_cache_cannot_give(tmp_path, cache):
    made = []

    def opener(path):
        return lambda: (
            made.append(path)
            if path.exists() and path.stat().st_size
            else (make(path), made.append("by hand"))
        )

    first, second, third = (tmp_path / f"{name}.db" for name in "abc")
    schema.new_database(first, opener(first))
    second.touch()  # as who only connects leaves it
    schema.new_database(second, opener(second))
    assert made == ["by hand", second]
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:5000])  # half a file
    schema.new_database(third, opener(third))
    assert made[2:] == ["by hand"]
    schema.new_database(first, opener(first))  # one that is there is left as it is
    assert made[3:] == [first]


def test_only_a_database_that_nobody_has_written_to_is_kept(tmp_path, cache):
    path = tmp_path / "mlflow.db"
    schema.new_database(path, lambda: make(path, rows=["runs"]))
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, cache):
    cache.parent.write_text("a file where the folder should be")
    path = tmp_path / "mlflow.db"
    assert schema.new_database(path, lambda: make(path) or "opened") == "opened"
