"""Which MLflow a run folder belongs to, in full, and only if it is one that the user names.

Its files never hold a user or password, and it is no authority: see `rayloom.tracking.address`.
"""

from collections.abc import Sequence
from pathlib import Path

from rayloom.config.sections import RunConfig
from rayloom.core.errors import UserError
from rayloom.records.record import Record


def mlflow_of(record: Record, config: RunConfig | None = None) -> str | None:
    """The MLflow of a run; None where it is not tracked.

    Args:
        record: Its `run.json`.
        config: The config that holds now, if it is at hand: a resume may move the tracking.

    Raises:
        UserError: Nobody here names that server, or its user and password.
    """
    from rayloom.config.resolved import config_from_dict, site_settings
    from rayloom.tracking import recall_uri, resolve_uri
    from rayloom_pipelines.places import allowed_uri

    recorded = record.tracking.uri
    if recorded is None:
        return None
    if config is None and record.config_now:
        config = config_from_dict(record.config_now)
    if config is not None and config.tracking.uri is not None:
        recorded = resolve_uri(config.tracking.uri, Path.cwd())
    if "***@" not in recorded:
        return allowed_uri(recorded)
    return str(recall_uri(recorded, site_settings().get("tracking.uri")))


def named_mlflow(record: Record, config: RunConfig) -> str | None:
    """`mlflow_of`, or None where nobody names the server, which a run's own follower says."""
    try:
        return mlflow_of(record, config)
    except UserError:
        return None


def name_tracking(overrides: Sequence[str]) -> None:
    """Note the MLflow that overrides of a resume name, for the runs that it goes on with."""
    from rayloom.config.merge import flags
    from rayloom.tracking import name_server, resolve_uri

    node = flags(overrides, []).at("tracking.uri")
    if node is not None and isinstance(node.value, str):
        name_server(resolve_uri(node.value, Path.cwd()))
