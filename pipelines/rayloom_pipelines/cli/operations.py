"""The operations of a model as `rayloom list models NAME` tells them; imports the model's class."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def told(name: str) -> list[dict[str, Any]]:
    """The operations of a model of the catalogue, JSON-able.

    Raises:
        UserError: Its class cannot be loaded.
    """
    from rayloom.catalogue import load
    from rayloom.config.schema_walk import config_class
    from rayloom.core.protocols import operations
    from rayloom_pipelines.load.forms import possible

    config_class("models", name)  # says in words what is wrong with a class
    return [
        {
            "name": made.name,
            "about": made.doc,
            "reads": list(made.reads),
            "takes": list(made.takes),
            "gives": dict(made.gives or {}),
            "files": possible(made),
            "settings": _settings(made.settings),
        }
        for made in operations(load("models", name)).values()
    ]


def lines(known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Operations as lines for a person."""
    for one in known:
        yield f"{one['name']}: {one['about']}"
        reads, takes = ", ".join(one["reads"]), ", ".join(one["takes"])
        if reads:
            yield f"  reads {reads} (--in)"
        if takes:
            yield f"  takes {takes} (--given)"
        gives = ", ".join(f"{name} ({kind})" for name, kind in one["gives"].items())
        yield f"  gives {gives or 'arrays'}; to {', '.join(one['files'])}"
        for setting in one["settings"]:
            allowed = f", {setting['allowed']}" if setting["allowed"] else ""
            about = f"  {setting['about']}" if setting["about"] else ""
            default = setting["default"]
            shown = default if isinstance(default, str) else json.dumps(default)
            yield f"  {setting['name']}={shown}  ({setting['type']}{allowed}){about}"


def _settings(kind: type | None) -> list[dict[str, Any]]:
    from rayloom.config.schema_walk import bounds

    fields: Mapping[str, Any] = getattr(kind, "model_fields", {})
    return [
        {
            "name": name,
            "type": _type(info.annotation),
            "default": None if info.is_required() else info.get_default(call_default_factory=True),
            "allowed": bounds(info),
            "about": info.description or "",
        }
        for name, info in fields.items()
    ]


def _type(annotation: Any) -> str:
    from typing import Literal, get_args, get_origin

    from rayloom.config.schema_walk import members

    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    found = []
    for kind in members(annotation):
        if get_origin(kind) is Literal:
            found += [str(choice) for choice in get_args(kind)]
        else:
            found.append("null" if kind is type(None) else words.get(kind, str(kind)))
    return " or ".join(found)
