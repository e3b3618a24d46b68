"""JSON schema of configs, for editors (completion, hover texts, red lines as one types).

Written for the YAML language server of VS Code (draft 7 features: `if`/`then`, `$ref`). Looser than
the loader where an editor cannot know: a file may leave keys to what it `extends`, so none is
required; any leaf may hold a search space.
"""

from typing import Any

from rayloom import catalogue
from rayloom.config.schema_walk import OPEN_SECTIONS, config_class
from rayloom.config.sections import OPTIMIZERS, RunConfig
from rayloom.config.spaces import KINDS, SEARCHABLE

DRAFT = "http://json-schema.org/draft-07/schema#"
_SPACE = {"$ref": "#/definitions/Space"}


def json_schema(config: RunConfig | None = None) -> dict[str, Any]:
    """The schema of every config; or, given one, with its own model or algorithm only.

    Without `config`, every model and algorithm of the catalogue is imported.

    Raises:
        UserError: A catalogue entry cannot be loaded.
    """
    definitions: dict[str, Any] = {"Space": _space_schema()}
    whole = RunConfig.model_json_schema(mode="validation", ref_template="#/definitions/{model}")
    definitions |= whole.pop("$defs", {})
    properties = whole["properties"]
    for section, kind in OPEN_SECTIONS.items():
        chosen = getattr(config, section) if config is not None else None
        if config is None:
            wanted = catalogue.names(kind)
        else:
            wanted = [chosen.name] if chosen is not None else []
        properties[section] = _open_section(kind, wanted, definitions)
    definitions.pop("Config", None)
    properties["optimizer"] = _optimizer_section()
    for name, definition in definitions.items():
        if name != "Space":
            _loosen(definition)
    searched = {section: properties[section] for section in SEARCHABLE if section != "seed"}
    for section in searched.values():
        _allow_spaces(section, definitions, set())
    properties["seed"] = {"anyOf": [properties["seed"], _SPACE]}
    properties["extends"] = {
        "description": "configs to start from: a shipped name, or a file relative to this one",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return {
        "$schema": DRAFT,
        "title": "rayloom config",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "definitions": definitions,
    }


def _space_schema() -> dict[str, Any]:
    number = {"type": "number"}
    return {
        "title": "Search space",
        "description": "what a sweep may try here, in the place of one value",
        "type": "object",
        "required": ["search"],
        "additionalProperties": False,
        "properties": {
            "search": {"enum": list(KINDS)},
            "low": {**number, "description": "lower end, included"},
            "high": {**number, "description": "upper end, included"},
            "values": {"type": "array", "minItems": 1, "description": "the choices"},
        },
        "if": {"properties": {"search": {"const": "choice"}}},
        "then": {"required": ["values"]},
        "else": {"required": ["low", "high"]},
    }


def _open_section(
    kind: catalogue.Kind, wanted: list[str], definitions: dict[str, Any]
) -> dict[str, Any]:
    """A section whose other keys depend on its `name`."""
    if not wanted:
        return {"type": "null"}
    branches = []
    for name in wanted:
        own = config_class(kind, name).model_json_schema(
            mode="validation", ref_template="#/definitions/{model}"
        )
        definitions |= own.pop("$defs", {})
        key = f"{kind[:-1]} {name}".replace("/", "-")
        definitions[key] = own
        branches.append(_branch(name, f"#/definitions/{key}"))
    return {
        "anyOf": [
            {"type": "null"},
            {
                "type": "object",
                "properties": {"name": {"anyOf": [{"enum": list(wanted)}, _SPACE]}},
                "allOf": branches,
            },
        ]
    }


def _branch(name: str, reference: str) -> dict[str, Any]:
    return {
        "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
        "then": {"$ref": reference},
    }


def _optimizer_section() -> dict[str, Any]:
    """One optimizer, adamw unless named, or a mapping with one per player."""
    names = {name: f"#/definitions/{kind.__name__}" for name, kind in OPTIMIZERS.items()}
    branches = [_branch(name, reference) for name, reference in names.items()]
    leaf = {"not": {"type": "object", "not": {"required": ["search"]}}}
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"anyOf": [{"enum": list(OPTIMIZERS)}, _SPACE]}},
                "additionalProperties": leaf,
                "allOf": [
                    *branches,
                    {
                        "if": {"not": {"required": ["name"]}},
                        "then": {"$ref": names["adamw"]},
                    },
                ],
            },
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "not": {"required": ["search"]},
                    "properties": {"name": {"enum": list(OPTIMIZERS)}},
                    "allOf": branches,
                },
            },
        ]
    }


def _loosen(schema: Any) -> None:
    """No key is required: it may stand in a file that this one extends."""
    if isinstance(schema, dict):
        schema.pop("required", None)
        schema.pop("discriminator", None)
        for name in ("properties", "items", "anyOf", "oneOf"):
            inner = schema.get(name)
            children = inner.values() if name == "properties" and inner else inner
            for child in children if isinstance(children, list) else list(children or ()):
                _loosen(child)


def _allow_spaces(schema: Any, definitions: dict[str, Any], seen: set[str]) -> None:
    """Let every leaf below `schema` hold a search space instead."""
    reference = schema.get("$ref", "")
    if reference:
        name = reference.rpartition("/")[2]
        if name in seen or name == "Space":
            return
        seen.add(name)
        schema = definitions[name]
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in schema.get(key, ()):
            _allow_spaces(branch, definitions, seen)
    if isinstance(schema.get("then"), dict):
        _allow_spaces(schema["then"], definitions, seen)
    for key, inner in schema.get("properties", {}).items():
        if isinstance(inner, dict) and not _admits_space(inner):
            _allow_spaces(inner, definitions, seen)
            if not _is_section(inner):
                about = {k: inner.pop(k) for k in ("description", "title", "default") if k in inner}
                schema["properties"][key] = {**about, "anyOf": [inner, _SPACE]}


def _admits_space(schema: dict[str, Any]) -> bool:
    return _SPACE in schema.get("anyOf", ())


def _is_section(schema: dict[str, Any]) -> bool:
    """Whether a property is a section of its own, and no leaf."""
    branches = schema.get("anyOf", ()) or schema.get("oneOf", ())
    return "$ref" in schema or any("$ref" in branch for branch in branches)
