"""All that can be refused of a new run, refused before anything of it is written."""

from collections.abc import Mapping
from typing import Any

from rayloom.config.sections import RunConfig
from rayloom.core.errors import ConfigError, UserError
from rayloom.records.record import Data
from rayloom_pipelines.run.prepare import Prepared, prepare
from rayloom_pipelines.run.quiet import quiet


def check_rules(config: RunConfig, made: Prepared) -> None:
    """Refuse stop rules and metrics that no evaluation gives, before anything is written.

    Args:
        config: What holds now; its rules may be newer than what was prepared.
        made: Of `prepare`.

    Raises:
        ConfigError: What is wrong, and what there is; see `places.placed`.
    """
    from rayloom.training.preflight import rule_problems

    problems = rule_problems(config, made.metrics, made.default_metrics, made.own_metrics)
    if problems:
        raise ConfigError(problems)


def checked(config: RunConfig, options: Any) -> Prepared:
    """Prepare a new run; all that can be refused of it is refused here.

    Raises:
        UserError: The config does not fit the data, the environment or this machine, or names a
            metric that no evaluation gives.
    """
    with quiet(None):
        made = prepare(config, options)
        check_rules(config, made)
    return made


def check_same_data(now: Mapping[str, Any] | None, before: Data | None) -> None:
    """A resume goes on with the data that the run was started with.

    Raises:
        UserError: They have changed.
    """
    if now and before and now["fingerprint"] != before.fingerprint:
        raise UserError(
            f"the data set {now['name']} has changed since the run was started (fingerprint "
            f"{before.fingerprint[:12]} then, {now['fingerprint'][:12]} now)"
        )
