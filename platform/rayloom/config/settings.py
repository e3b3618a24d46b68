"""Settings of an operation from `key=value` words or a mapping, with the errors of a config."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.config.merge import flags
from rayloom.config.sections import Config
from rayloom.config.validate import build_section
from rayloom.config.yaml_marks import node_of, shown
from rayloom.core.errors import ConfigError, Problem


def read_settings(
    kind: type[Config] | None, given: Sequence[str] | Mapping[str, Any], *, of: str
) -> Config | None:
    """An instance of a settings class.

    Args:
        kind: The class; None where there are no settings.
        given: Words such as `steps=20`, or a mapping.
        of: Whose settings, for messages, such as "operation 'sample' of DDPM".

    Raises:
        ConfigError: They are none of these settings; names all mistakes.
    """
    problems: list[Problem] = []
    title = f"the settings of {of}"
    tree = node_of(dict(given)) if isinstance(given, Mapping) else flags(given, problems)
    if kind is None:
        problems += [
            Problem(key, f"{of} has no settings", node.where or f"{key}={shown(node.plain())}")
            for key, node in tree.value.items()
        ]
        made = None
    else:
        made, wrong = build_section(kind, tree, title)
        problems += wrong
    if problems:
        raise ConfigError(problems, of=title)
    return made
