"""The table of a plugin: checked, and put into the catalogue whole or not at all."""

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any

from rayloom.catalogue.described import METHODS, described
from rayloom.catalogue.entry import KINDS, Entry, Kind
from rayloom.catalogue.table import CATALOGUE, register
from rayloom.core.declared import declared_metrics
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.tasks import task_named

_ABOUT = tuple(f.name for f in fields(Entry) if f.name not in ("name", "target", "source"))


def register_table(table: Any, module: ModuleType, label: str, source: str) -> tuple[str, ...]:
    """Put a plugin's table into the catalogue, whole or not at all."""
    if not isinstance(table, Mapping) or not table:
        form = 'CATALOGUE = {"models": {"name": Class}}'
        raise UserError(f"{label}: needs a table at module level such as {form}")
    checked: list[tuple[Kind, str, Any, dict[str, Any]]] = []
    for kind, named in table.items():
        if kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS, otherwise="")
            known = ", ".join(KINDS)
            raise UserError(f"{label}: CATALOGUE has the key {kind!r}; known: {known}{hint}")
        if not isinstance(named, Mapping):
            raise UserError(f"{label}: CATALOGUE[{kind!r}] must be a table of names")
        for name, given in named.items():
            checked.append((kind, name, *_target(kind, name, given, module, label)))
    for kind, name, _, _ in checked:
        taken = CATALOGUE[kind].get(name)
        if taken is not None and taken.source != source:
            who = taken.source
            raise UserError(f"{label}: adds {kind} {name!r}, a name that {who} has already")
    for kind, name, target, about in checked:
        register(kind, name, target, source=source, **about)
    return tuple(f"{kind}/{name}" for kind, name, _, _ in checked)


def _target(
    kind: Kind, name: Any, given: Any, module: ModuleType, label: str
) -> tuple[Any, dict[str, Any]]:
    """(the class or its lazy `module:Class`, what to tell about it)."""
    place = f"{label}: CATALOGUE[{kind!r}][{name!r}]"
    if not isinstance(name, str) or not name or ":" in name or name != name.strip():
        raise UserError(f"{place}: a name is text without ':'")
    about: dict[str, Any] = {}
    if isinstance(given, Mapping):
        about = {key: value for key, value in given.items() if key != "target"}
        unknown = [key for key in about if key not in _ABOUT]
        if unknown or "target" not in given:
            wrong = f"unknown key {unknown[0]!r}" if unknown else "'target' is missing"
            raise UserError(f"{place}: {wrong}; it takes target, {', '.join(_ABOUT)}")
        given = given["target"]
    if isinstance(given, str) and ":" not in given:
        if not hasattr(module, given):
            public = [n for n in vars(module) if not n.startswith("_")]
            hint = did_you_mean(given, public, otherwise="")
            raise UserError(f"{place}: the file has no {given!r}{hint}")
        given = getattr(module, given)
    if not isinstance(given, str) and not callable(given):
        raise UserError(f"{place}: must be a class, its name in the file, or 'module:Class'")
    if not isinstance(given, str) and "summary" not in about:
        lines = (given.__doc__ or "").strip().splitlines()
        about["summary"] = lines[0] if lines else ""
    if isinstance(about.get("capabilities"), list):
        about["capabilities"] = tuple(about["capabilities"])
    if "task" in about:
        task_named(about["task"], f"{place}, task")
    if not isinstance(given, str):
        _check_declared(kind, given, place)
    if not isinstance(given, str) and kind in ("models", "algorithms"):
        _check_settings(given, name, place)
    return given, about


def _check_declared(kind: Kind, target: Any, place: str) -> None:
    """What a class says of its work and its metrics must make sense."""
    if kind in METHODS:
        try:
            described(kind, target)
            declared_metrics(target)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error


def _check_settings(target: Any, name: str, place: str) -> None:
    """A model or learner must name its settings, and their `name` must admit its own."""
    found = getattr(target, "config_class", None)
    info = getattr(found, "model_fields", {}).get("name")
    if not isinstance(found, type) or info is None:
        raise UserError(f"{place}: needs config_class, a Config with name: Literal[{name!r}]")
    if name not in getattr(info.annotation, "__args__", ()):
        raise UserError(f"{place}: the field `name` of {found.__name__} must be Literal[{name!r}]")
