"""Which settings of a config tell one run from another at a glance."""

from collections.abc import Iterable
from typing import Any

from rayloom.core.config import leaves, to_dict
from rayloom.core.sections import RunConfig

METHOD = ("model.", "algorithm.")
ALWAYS = ("data.name", "data.batch_size", "env.name", "optimizer.name", "optimizer.lr", "seed")
ELSEWHERE = ("tracking.", "storage", "sweep.")  # where and how, not what


def hyperparameters(config: RunConfig, *, keep: Iterable[str] = ()) -> dict[str, Any]:
    """Settings of a run for a page with little room, such as MLflow's params.

    All of the method's own section, a few that every reader asks for, and of the rest what is not
    at its default; nulls and empty values are left out. The whole config is `config.yaml`.

    Args:
        config: Resolved config.
        keep: Paths that are shown whatever their value, such as those that a sweep searches.

    Returns:
        Values by dotted path, in the config's order; a list is one value.
    """
    changed = leaves(config.model_dump(mode="json", exclude_defaults=True))
    kept = {*ALWAYS, *keep}

    def shown(path: str, value: Any) -> bool:
        if path in kept:
            return True
        if value in (None, [], {}) or path.startswith(ELSEWHERE):
            return False
        return path.startswith(METHOD) or path in changed

    return {path: value for path, value in leaves(to_dict(config)).items() if shown(path, value)}
