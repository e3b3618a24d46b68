"""Fixtures of the tracking tests: MLflow and its schema are loaded once."""

import shutil

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A SQLite file with MLflow's tables and nothing in them."""
    from rayloom.tracking.client import make_client

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    make_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(tmp_path, empty_database):
    """A database of its own for one test; this process has not opened it yet."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
