"""From a dotted path to the field that governs it, and the bounds and names that it allows."""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rayloom import catalogue
from rayloom.catalogue import Kind
from rayloom.config.sections import Config, RunConfig
from rayloom.config.yaml_marks import Node, shown
from rayloom.core.declared import declared_metrics, default_metrics
from rayloom.core.errors import Problem, UserError, nearest

OPEN_SECTIONS: dict[str, Kind] = {"model": "models", "algorithm": "algorithms"}
IMPORT_STRING = "import strings are refused: own code comes in by --plugin, under a plain name"


@dataclass(frozen=True)
class Field:
    """What the schema says of a path.

    Attributes:
        owner: The section class that has the field; None inside a free mapping.
        info: The field; None inside a free mapping or list.
        annotation: The type at the path.
    """

    owner: type[BaseModel] | None
    info: FieldInfo | None
    annotation: Any


@dataclass(frozen=True)
class ConfigClasses:
    """The schema of one config: the classes that its `name`s select.

    Attributes:
        open_classes: By section.
        root: What the top level is.
        title: What the top level is called where its keys are told.
    """

    open_classes: dict[str, type[BaseModel]]
    root: type[BaseModel] = RunConfig
    title: str = "a config"

    def locate(self, parts: Sequence[str], tree: Any) -> Field | None:
        """The field at a path, `tree` being the plain data; None if there is no such key."""
        found = Field(None, None, self.root)
        data = tree
        for depth, part in enumerate(parts):
            if depth == 1 and parts[0] in self.open_classes:
                found = Field(found.owner, found.info, self.open_classes[parts[0]])
            step = _step(found.annotation, part, data)
            if step is None:
                return None
            found = step
            data = _below(data, part)
        if len(parts) == 1 and parts[0] in self.open_classes:
            return Field(found.owner, found.info, self.open_classes[parts[0]])
        return found

    def keys(self, parts: Sequence[str], tree: Any) -> list[str]:
        """The names that may stand under a path; empty where any may."""
        found = self.locate(parts, tree)
        if found is None:
            return []
        data = tree
        for part in parts:
            data = _below(data, part)
        chosen = chosen_class(found.annotation, data)
        return list(chosen.model_fields) if chosen else []


def _below(data: Any, part: str) -> Any:
    """What stands under a key, or at a place of a list."""
    if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
        return data[int(part)]
    return data.get(part) if isinstance(data, dict) else None


def members(annotation: Any) -> list[Any]:
    """The alternatives of a type, `Annotated` taken off."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def is_section(kind: Any) -> bool:
    """Whether a type is a pydantic class."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def chosen_class(annotation: Any, data: Any) -> type[BaseModel] | None:
    """The section class that `data` selects by its `name`, else by default, else the only one."""
    classes: list[type[BaseModel]] = [kind for kind in members(annotation) if is_section(kind)]
    wanted = data.get("name") if isinstance(data, dict) else None
    if len(classes) > 1 and isinstance(wanted, str):
        for kind in classes:
            if wanted in literal_names(kind):
                return kind
    if isinstance(data, dict) and has_free_mapping(annotation) and is_player_mapping(data):
        return None
    return classes[0] if classes else None


def has_free_mapping(annotation: Any) -> bool:
    """Whether a type also admits a mapping with names of the user's own."""
    return any(get_origin(kind) is dict for kind in members(annotation))


def is_player_mapping(data: Any) -> bool:
    """Whether an `optimizer` section has one section per player."""
    if not isinstance(data, dict) or not data:
        return False
    values = [value.value if isinstance(value, Node) else value for value in data.values()]
    return all(isinstance(value, dict) and "search" not in value for value in values)


def literal_names(kind: type[BaseModel]) -> tuple[Any, ...]:
    """The values that the `name` field of a section class admits."""
    info = kind.model_fields.get("name")
    return get_args(info.annotation) if info and get_origin(info.annotation) is Literal else ()


def default_name(kind: Any, data: Any = None) -> str | None:
    """The `name` that a section has when nobody says it."""
    chosen = chosen_class(kind, data)
    info = chosen.model_fields.get("name") if chosen else None
    return info.default if info is not None and isinstance(info.default, str) else None


def _step(annotation: Any, part: str, data: Any) -> Field | None:
    chosen = chosen_class(annotation, data)
    if chosen is not None and part in chosen.model_fields:
        info = chosen.model_fields[part]
        return Field(chosen, info, info.annotation)
    for kind in members(annotation):
        if kind is Any:
            return Field(None, None, Any)
        origin, arguments = get_origin(kind), get_args(kind)
        if (kind is dict or origin is dict) and chosen is None:
            return Field(None, None, arguments[1] if len(arguments) == 2 else Any)
        if (kind in (list, tuple) or origin in (list, tuple)) and part.isdecimal():
            return Field(None, None, arguments[0] if arguments else Any)
    return None


def bounds(info: FieldInfo | None) -> str:
    """The range that a field's bounds allow, such as `0 <= value < 1`; "" without bounds."""
    if info is None:
        return ""
    found: dict[str, Any] = {}

    def collect(metadata: Sequence[Any]) -> None:
        for item in metadata:
            for name in ("ge", "gt", "le", "lt"):
                limit = getattr(item, name, None)
                if limit is not None:
                    found[name] = limit
            collect(getattr(item, "metadata", ()))

    collect(info.metadata)
    for part in (info.annotation, *get_args(info.annotation)):
        if get_origin(part) is Annotated:
            collect(get_args(part)[1:])
    left = f"{found['ge']} <= " if "ge" in found else f"{found['gt']} < " if "gt" in found else ""
    right = f" <= {found['le']}" if "le" in found else f" < {found['lt']}" if "lt" in found else ""
    if left and not right:
        return f">= {found['ge']}" if "ge" in found else f"> {found['gt']}"
    if right and not left:
        return right.strip()
    return f"{left}value{right}" if left else ""


def open_class(section: str, node: Node, problems: list[Problem]) -> type[Config] | None:
    """The config class that the `name` of a `model` or `algorithm` section selects.

    None after saying what is wrong: no name, an unknown one, or code that cannot be loaded.
    """
    kind = OPEN_SECTIONS[section]
    name = node.value.get("name") if isinstance(node.value, dict) else None
    if not isinstance(node.value, dict):
        message = f"must be a mapping such as {{name: {catalogue.names(kind)[0]}}}"
        problems.append(Problem(section, f"{message}, not {_shape(node.value)}", node.where))
        return None
    path = f"{section}.name"
    if name is None or name.value is None:
        known = ", ".join(catalogue.names(kind))
        problems.append(Problem(path, f"is required; known: {known}", node.where))
        return None
    text, where = name.value, name.where
    try:
        if isinstance(text, str) and catalogue.has(kind, text):
            return config_class(kind, text)
    except UserError as error:
        problems.append(Problem(path, str(error), where))
        return None
    known = ", ".join(catalogue.names(kind))
    message = f"no {kind[:-1]} is called {shown(text)}; known: {known}"
    near = None
    if isinstance(text, str) and (":" in text or "." in text):
        message = f"{message} ({IMPORT_STRING})"
    elif isinstance(text, str):
        near = nearest(text, catalogue.names(kind))
    problems.append(Problem(path, message, where, near))
    return None


def config_class(kind: Kind, name: str) -> type[Config]:
    """The `config_class` of a catalogue entry.

    Raises:
        UserError: It cannot be imported, has no usable `config_class`, or declares metrics that
            make no sense.
    """
    source = catalogue.lookup(kind, name).source
    try:
        target = catalogue.load(kind, name)
    except UserError:
        raise
    except Exception as error:  # whatever someone's own code raises when it is imported
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{name!r} (from {source}) cannot be loaded: {reason}") from error
    found = getattr(target, "config_class", None)
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise UserError(
            f"{name!r} (from {source}) must name its settings: config_class = a subclass of "
            "rayloom.config.sections.Config"
        )
    names = literal_names(found)
    if name not in names:
        raise UserError(
            f"{name!r} (from {source}): the field `name` of {found.__name__} must be "
            f"Literal[{name!r}]"
        )
    declared_metrics(target)  # what it says of itself makes sense
    default_metrics(target)
    return found


def _shape(value: Any) -> str:
    return "a list" if isinstance(value, list) else shown(value)
