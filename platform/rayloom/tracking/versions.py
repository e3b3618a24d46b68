"""Registered versions, found again: by name and alias, number, or the run that they are of."""

import contextlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from rayloom.core.errors import UserError, did_you_mean
from rayloom.tracking.client import make_client
from rayloom.tracking.patience import asked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RUN_TAG = "rayloom.run_id"
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")


def fetch_version(reference: str, uri: str, *, target: str | Path | None = None) -> Path:
    """The folder of a registered version.

    Args:
        reference: `models:/name@alias`, `models:/name/3` or `models:/name/latest`.
        uri: Tracking URI (`resolve_uri`).
        target: Where to download to; None: a new temporary folder. A version that lies on this
            machine is not copied.

    Returns:
        A folder with `MLmodel`, `data/` and `rayloom/`.

    Raises:
        UserError: No such model, alias or version.
    """
    client = make_client(uri)
    version = asked(uri, lambda: _version(client, reference))
    number = str(version.version)
    source = asked(uri, lambda: client.get_model_version_download_uri(version.name, number))
    local = _local_path(source)
    if local is not None and (local / "MLmodel").exists():
        return local
    import mlflow.artifacts

    place = Path(target) if target is not None else Path(tempfile.mkdtemp(prefix="rayloom-"))
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(place), tracking_uri=uri
        )
    )


def numbered(reference: str, uri: str) -> str:
    """The version that a reference means now, as `models:/name/number`: aliases move.

    Raises:
        UserError: No such version.
    """
    client = make_client(uri)
    version = asked(uri, lambda: _version(client, reference))
    return f"models:/{version.name}/{version.version}"


def run_of_model(reference: str, uri: str) -> str:
    """The path, as noted when it was tracked, of the run folder that a registered version is from.

    The folder may have moved: its last part is the run's id.

    Raises:
        UserError: No such version, or none of ours.
    """
    client = make_client(uri)
    version = asked(uri, lambda: _version(client, reference))
    if version.run_id:
        with contextlib.suppress(UserError):
            return run_of_mlflow_id(version.run_id, uri)
    if RUN_TAG in version.tags:
        return version.tags[RUN_TAG]
    raise UserError(f"{reference} was not registered by rayloom")


def run_of_mlflow_id(run_id: str, uri: str) -> str:
    """The path, as noted when it was tracked, of the run folder of an MLflow run.

    Raises:
        UserError: No such MLflow run, or none of ours.
    """
    client = make_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        tags = asked(uri, lambda: client.get_run(run_id).data.tags)
    except MlflowException as error:
        raise UserError(f"MLflow has no run {run_id}") from error
    if "rayloom.path" not in tags:
        raise UserError(f"the MLflow run {run_id} was not made by rayloom")
    return tags["rayloom.path"]


def _local_path(source: str) -> Path | None:
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(source) if not parsed.scheme else None


def _version(client: "MlflowClient", reference: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    match = _REFERENCE.fullmatch(reference.rstrip("/"))
    if match is None:
        raise UserError(f"{reference!r} is not models:/name@alias or models:/name/version")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        if number == "latest":
            found = client.search_model_versions(f"name = '{name}'")
            if found:
                return max(found, key=lambda version: int(version.version))
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"{reference} does not exist; {_known(client, name)}") from error


def _known(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):
        model = client.get_registered_model(name)
        aliases = ", ".join(f"@{alias}" for alias in sorted(model.aliases)) or "none"
        return f"aliases of {name}: {aliases}"
    names = [model.name for model in client.search_registered_models(max_results=200)]
    hint = did_you_mean(name, names, otherwise="")
    return f"registered models: {', '.join(sorted(names)[:20]) or 'none'}{hint}"
