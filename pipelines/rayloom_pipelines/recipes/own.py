"""Classes of the caller's own, and the plugins of this process."""

from typing import Any

from rayloom.core import catalogue
from rayloom.core.errors import UserError


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
        changes.append(f"model={field.default}")
    if env is not None:
        name = env if isinstance(env, str) else getattr(env, "__name__", "own-env")
        if not isinstance(env, str):
            catalogue.register("envs", name, env, source=_source(env))
        changes.append(f"env={name}")
    return changes


def _source(thing: Any) -> str:
    return f"{getattr(thing, '__module__', 'caller')}.{getattr(thing, '__qualname__', 'own')}"


def loaded_plugins() -> list[dict[str, Any]]:
    """`Plugin.to_dict()` of every plugin of this process."""
    from rayloom.core import plugins

    return [plugin.to_dict() for plugin in plugins._LOADED.values()]
