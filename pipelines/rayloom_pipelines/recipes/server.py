"""Which MLflow a run folder belongs to, in full: its files never hold a user or password."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.core.sections import RunConfig


def mlflow_of(about: Mapping[str, Any], config: RunConfig | None = None) -> str | None:
    """The MLflow of a run; None where it is not tracked.

    Args:
        about: Its `run.json`.
        config: The config that holds now, if it is at hand: a resume may move the tracking.

    Raises:
        UserError: Its address had a user and password, and nothing here names them.
    """
    from rayloom.core.config import config_from_dict
    from rayloom.tracking import recall_uri, resolve_uri
    from rayloom_pipelines.resolve import site_settings

    recorded = (about.get("tracking") or {}).get("uri")
    if recorded is None:
        return None
    if config is None and about.get("config_now"):
        config = config_from_dict(about["config_now"])
    if config is not None and config.tracking.uri is not None:
        recorded = resolve_uri(config.tracking.uri, Path.cwd())
    if "***@" not in recorded:
        return str(recorded)
    return str(recall_uri(recorded, (site_settings().get("tracking") or {}).get("uri")))
