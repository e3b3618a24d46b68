"""From what a person types to what it means: runs, their storage, their MLflow."""

from pathlib import Path

from rayloom.config.resolved import site_settings
from rayloom.core.errors import UserError

DEFAULT_STORAGE = "runs"


def storage_path(storage: str | Path | None = None) -> Path:
    """Absolute folder of run folders: the given one, the site's, or ./runs."""
    chosen = storage or site_settings().get("storage") or DEFAULT_STORAGE
    return Path(str(chosen)).expanduser().absolute()


def tracking_uri(uri: str | None = None) -> str:
    """Absolute MLflow URI: the given one, MLFLOW_TRACKING_URI, the site's, or ./mlflow.db.

    Raises:
        UserError: It cannot be used; says why.
    """
    import os

    from rayloom.tracking import resolve_uri

    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not chosen:
        chosen = site_settings().get("tracking.uri")
    return str(resolve_uri(chosen, Path.cwd()))


def allowed_uri(recorded: str) -> str:
    """The MLflow of a run folder, if it is one that the user names; see `rayloom.tracking.address`.

    Args:
        recorded: What the run folder says.

    Raises:
        UserError: It is not; says how to name it.
    """
    import os

    from rayloom.tracking import allowed, resolve_uri

    site = site_settings().get("tracking.uri")
    named = [os.environ.get("MLFLOW_TRACKING_URI"), site, "sqlite:///mlflow.db"]
    here = Path.cwd()
    return str(allowed(recorded, [resolve_uri(uri, here) for uri in named if uri]))


def run_path(
    word: str | Path, storage: str | Path | None = None, *, uri: str | None = None
) -> Path:
    """The run folder that a word names.

    Args:
        word: An id, a unique prefix of one, a path, an MLflow run id, `models:/name@alias` (or
            `models:/name/version`), or `latest`.
        storage: Where run folders live.
        uri: Which MLflow; None: as `tracking_uri`.

    Raises:
        UserError: Nothing, or more than one run, fits.
    """
    from rayloom.records import resolve_run

    text = str(word)
    if text.startswith("models:/"):
        from rayloom.tracking import run_of_model

        return _existing(run_of_model(text, tracking_uri(uri)), text, storage)
    try:
        return Path(resolve_run(text, storage_path(storage)))
    except UserError as unknown:
        if len(text) == 32 and set(text) <= set("0123456789abcdef"):
            from rayloom.tracking import run_of_mlflow_id

            return _existing(run_of_mlflow_id(text, tracking_uri(uri)), text, storage)
        raise unknown


def _existing(found: str, word: str, storage: str | Path | None) -> Path:
    """The folder of a run that MLflow told: its noted path, or its id in the storage."""
    for path in (Path(found), storage_path(storage) / Path(found).name):
        if (path / "run.json").is_file():
            return path
    raise UserError(f"{word} belongs to the run {found}, whose folder is not here")


def version_path(reference: str, *, uri: str | None = None) -> Path:
    """The folder with config and checkpoint inside a registered model version.

    Args:
        reference: `models:/name@alias` or `models:/name/version`.
        uri: Which MLflow; None: as `tracking_uri`.

    Raises:
        UserError: No such version, or rayloom did not register it.
    """
    from rayloom.tracking import fetch_version

    folder = Path(fetch_version(reference, tracking_uri(uri))) / "rayloom"
    if not (folder / "run.json").is_file():
        raise UserError(f"{reference} was not registered by rayloom")
    return folder
