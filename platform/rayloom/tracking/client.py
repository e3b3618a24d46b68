"""Talking to MLflow: a quiet client that gives up soon, experiments, and runs found by our tag."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rayloom.core import garbage
from rayloom.tracking.page import NAMES, NAMES_TAG, VIEW_TAG, pictures_of, view_state
from rayloom.tracking.schema import new_database
from rayloom.tracking.uri import artifact_root, is_database, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_ID_TAG = "rayloom.run_id"
PATH_TAG = "rayloom.path"
PARENT_TAG = "mlflow.parentRunId"
# A dead server must not hold a thread for minutes, nor be asked twice for each try: the follower
# has its own retries, and heeds `Retry-After` itself (`answers`).
_SOON = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def quiet() -> None:
    """Short time-outs and no chatter, unless the user's environment says otherwise."""
    for name, value in _SOON.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)


@contextlib.contextmanager
def _first_one(uri: str) -> Iterator[None]:
    """Let one process at a time create a SQLite schema: parallel first starts race otherwise."""
    path = sqlite_file(uri)
    if path is None or (path.exists() and path.stat().st_size > 0 and not _lock_of(path).exists()):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(_lock_of(path), "w") as guard:
        with contextlib.suppress(OSError):
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            _lock_of(path).unlink()


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.creating")


def load() -> None:
    """Import MLflow, which takes a second; again, nothing."""
    quiet()
    with garbage.paused():
        import mlflow  # noqa: F401


def make_client(uri: str) -> "MlflowClient":
    """A client of one tracking URI, which also keeps the registry.

    Raises:
        Exception: Whatever MLflow or its database raises while it cannot be reached.
    """
    load()
    from mlflow import MlflowClient

    from rayloom.tracking import answers

    answers.forget()
    with garbage.paused():  # the first one imports SQLAlchemy
        if is_database(uri):
            _try_database(uri)
        else:
            answers.listen()
        path = sqlite_file(uri)
        if path is None:
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        with _first_one(uri):
            return new_database(path, lambda: _opened(uri))


def _opened(uri: str) -> "MlflowClient":
    """A client that has looked into its database, which makes the tables."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    return client


def _try_database(uri: str) -> None:
    """Connect once: MLflow itself tries ten times, for 100 s, before it says what is wrong."""
    import sqlalchemy

    path = sqlite_file(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect():
        pass


# Told, so that MLflow's pages need not guess.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development", VIEW_TAG: view_state()}


def ensure_experiment(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of the experiment of a name, made if missing and restored if deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            where = artifact_root(uri, name)
            return client.create_experiment(name, artifact_location=where, tags=EXPERIMENT_TAGS)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # somebody was faster
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    view = view_state(pictures_of(found.tags.get(VIEW_TAG)))
    if found.tags.get(VIEW_TAG) != view:  # made by an earlier rayloom, or by hand
        client.set_experiment_tag(found.experiment_id, VIEW_TAG, view)
    return found.experiment_id


def find_run(
    client: "MlflowClient", experiment_id: str, run_id: str, folder: Path | None = None
) -> "Run | None":
    """The MLflow run that carries our run id; the earliest if a race made two.

    Args:
        client: MLflow client.
        experiment_id: Where to look.
        run_id: Our id.
        folder: Only a run that belongs to this run folder (`belongs`).
    """
    found = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{RUN_ID_TAG}` = '{run_id}'",
        max_results=100,
        order_by=["attributes.start_time ASC"],
    )
    return next((run for run in found if folder is None or belongs(run, folder)), None)


def belongs(run: "Run", folder: Path) -> bool:
    """Whether an MLflow run is that of a run folder, and not of one that it was copied from.

    A folder that was moved keeps its MLflow run. A copy, told by another name or by the original
    that still stands where MLflow says, gets its own.
    """
    noted = run.data.tags.get(PATH_TAG)
    if run.data.tags.get(RUN_ID_TAG) != folder.name:
        return False
    if noted is None or not (Path(noted) / "run.json").is_file():
        return True
    with contextlib.suppress(OSError):
        return os.path.samefile(noted, folder)
    return False


def ensure_parent(
    uri: str,
    experiment: str,
    parent_id: str,
    *,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
) -> str:
    """The MLflow run that groups others (a sweep, several seeds), made once.

    Args:
        uri: Tracking URI.
        experiment: Experiment name.
        parent_id: Our id of the parent, which is the key.
        name: Shown name; None: the id.
        tags: Further tags.
        params: Params, written at creation only.

    Returns:
        Its MLflow run id.
    """
    client = make_client(uri)
    experiment_id = ensure_experiment(client, uri, experiment)
    found = find_run(client, experiment_id, parent_id)
    if found is not None:
        return found.info.run_id
    made = client.create_run(
        experiment_id,
        tags={RUN_ID_TAG: parent_id, "rayloom.kind": "parent", NAMES_TAG: NAMES, **(tags or {})},
        run_name=name or parent_id,
    )
    first = find_run(client, experiment_id, parent_id) or made
    if first.info.run_id != made.info.run_id:  # two drivers at once: the earlier one stays
        client.delete_run(made.info.run_id)
    elif params:
        from mlflow.entities import Param

        client.log_batch(made.info.run_id, params=[Param(k, v) for k, v in params.items()])
    return first.info.run_id


def set_parent_results(
    uri: str,
    parent_run: str,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    status: str | None = None,
    step: int = 0,
    time_ms: int = 0,
) -> None:
    """Write results of the whole on a parent run; saying the same twice changes nothing.

    Args:
        uri: Tracking URI.
        parent_run: What `ensure_parent` returned.
        metrics: Points at `step`, stamped `time_ms` (fixed by the caller, so that a repeat is one).
        tags: Tags; the last value counts.
        status: FINISHED, FAILED, KILLED or RUNNING; None leaves it.
        step: Step of the points.
        time_ms: Time stamp of the points, ms since the epoch.
    """
    client = make_client(uri)
    from mlflow.entities import Metric, RunTag

    client.log_batch(
        parent_run,
        metrics=[Metric(k, float(v), time_ms, step) for k, v in (metrics or {}).items()],
        tags=[RunTag(k, str(v)) for k, v in (tags or {}).items()],
    )
    if status == "RUNNING":
        client.update_run(parent_run, status=status)
    elif status is not None:
        client.set_terminated(parent_run, status=status)
