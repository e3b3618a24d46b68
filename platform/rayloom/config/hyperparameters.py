"""Which settings of a config tell one run from another at a glance."""

from collections.abc import Iterable
from typing import Any

from rayloom.config.resolved import leaves, to_dict
from rayloom.config.sections import RunConfig

METHOD = ("model.", "algorithm.")
ALWAYS = ("data.name", "data.batch_size", "env.name", "optimizer.name", "optimizer.lr", "seed")
ELSEWHERE = ("tracking.", "storage", "sweep.")  # where and how, not what
SHORT = ("data.name", "env.name", "optimizer.lr", "seed")
MEASURING = ("evaluation.", "checkpoint.", "resources.", "data.eval_")


def hyperparameters(
    config: RunConfig, *, keep: Iterable[str] = (), short: bool = False
) -> dict[str, Any]:
    """Settings of a run for a page with little room, such as MLflow's params.

    All of the method's own section, a few that every reader asks for, and of the rest what is not
    at its default; nulls and empty values are left out. The whole config is `config.yaml`.

    Args:
        config: Resolved config.
        keep: Paths that are shown whatever their value, such as those that a sweep searches.
        short: For a place that repeats them above every picture: of the method its name, its own
            numbers and what was changed, and nothing of how it is measured.

    Returns:
        Values by dotted path, in the config's order; a list is one value.
    """
    changed = leaves(config.model_dump(mode="json", exclude_defaults=True))
    kept = {*(SHORT if short else ALWAYS), *keep}

    def shown(path: str, value: Any) -> bool:
        if path in kept:
            return True
        if value in (None, [], {}) or path.startswith(ELSEWHERE):
            return False
        if not short:
            return path.startswith(METHOD) or path in changed
        section, _, name = path.rpartition(".")
        if path.startswith(METHOD) and f"{section}." in METHOD:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return name == "name" or number or path in changed
        other_kind = name == "name" and changed.get(section) == {}  # a choice with no more to say
        return (path in changed or other_kind) and not path.startswith(MEASURING)

    return {path: value for path, value in leaves(to_dict(config)).items() if shown(path, value)}
