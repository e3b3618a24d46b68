"""Classes of the caller's own, and the plugins of this process."""

from typing import TYPE_CHECKING, Any

from rayloom import catalogue
from rayloom.catalogue import Kind, plugins
from rayloom.config.yaml_text import flag
from rayloom.core.errors import UserError

if TYPE_CHECKING:
    from rayloom.config.resolved import Resolved

_SECTIONS: dict[Kind, str] = {
    "models": "model",
    "algorithms": "algorithm",
    "envs": "env",
    "datasets": "data",
}


def replace_by_own(model: type | None, env: Any) -> list[str]:
    """Register a caller's classes for this process; gives the overrides that name them.

    Raises:
        UserError: The class is no model, or its name is taken.
    """
    changes = []
    if model is not None:
        config_class = getattr(model, "config_class", None)
        field = getattr(config_class, "model_fields", {}).get("name")
        if field is None or not isinstance(field.default, str):
            raise UserError(
                f"{model.__name__} needs a config_class with `name: Literal['...'] = '...'`; "
                "see `rayloom new model`"
            )
        catalogue.register("models", field.default, model, source=_source(model))
        changes.append(flag("model", field.default))
    if env is not None:
        name = env if isinstance(env, str) else getattr(env, "__name__", "own-env")
        if not isinstance(env, str):
            catalogue.register("envs", name, env, source=_source(env))
        changes.append(flag("env", name))
    return changes


def _source(thing: Any) -> str:
    return f"{getattr(thing, '__module__', 'caller')}.{getattr(thing, '__qualname__', 'own')}"


def loaded_plugins(resolved: "Resolved") -> list[dict[str, Any]]:
    """`Plugin.to_dict()` of the plugins that a run depends on.

    Those that were asked for, and those of installed packages whose names the config uses.

    Raises:
        UserError: There is no such environment.
    """
    config = resolved.config
    used = set()
    for kind, section in _SECTIONS.items():
        part = getattr(config, section)
        if part is not None:
            used |= {f"{kind}/{part.name}"}
            space = resolved.spaces.get(f"{section}.name")
            used |= {f"{kind}/{value}" for value in space.values} if space is not None else set()
    if config.env is not None:
        from rayloom.rl.envs.making import check_id

        check_id(config.env.name)  # an installed package is asked where Gymnasium has no such id
    if config.data is not None:
        catalogue.has("datasets", config.data.name)
    return [
        plugin.to_dict()
        for plugin in plugins.loaded()
        if not plugin.installed or used & set(plugin.names)
    ]
