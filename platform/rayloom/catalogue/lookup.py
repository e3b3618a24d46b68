"""What a name stands for; installed packages are asked for names that nobody else has."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from rayloom.catalogue.described import METHODS
from rayloom.catalogue.entry import Entry, Kind
from rayloom.catalogue.plugins import load_installed
from rayloom.catalogue.table import CATALOGUE, OBJECTS
from rayloom.core.declared import declared_task
from rayloom.core.errors import UserError, did_you_mean
from rayloom.core.tasks import TASKS, Task


def has(kind: Kind, name: str) -> bool:
    """Whether there is such a name; installed packages are asked only if it is not known yet.

    Raises:
        UserError: One of them cannot be loaded.
    """
    if name not in CATALOGUE[kind]:
        load_installed()
    return name in CATALOGUE[kind]


def names(kind: Kind) -> list[str]:
    """All names of a kind, sorted."""
    return sorted(entries(kind))


def entries(kind: Kind) -> Mapping[str, Entry]:
    """The table of a kind, with what installed packages offer."""
    load_installed()
    return CATALOGUE[kind]


def lookup(kind: Kind, name: str) -> Entry:
    """The entry of a name.

    Raises:
        UserError: There is no such name; tells the nearest one and all of them.
    """
    if has(kind, name):
        return CATALOGUE[kind][name]
    hint = did_you_mean(name, CATALOGUE[kind])
    raise UserError(f"no {kind[:-1]} is called {name!r}{hint} Known: {', '.join(names(kind))}")


def task_of(kind: Kind, name: str) -> Task:
    """The kind of work of a method: its entry's, else its class's, else the usual one of its kind.

    Raises:
        UserError: The class names one that does not exist.
    """
    entry = CATALOGUE[kind].get(name)
    if entry is not None and entry.task:
        return TASKS[entry.task]
    said = declared_task(load(kind, name)) if entry is not None else None
    return said or TASKS[METHODS[kind]]


def load(kind: Kind, name: str) -> Any:
    """Import and return what a name stands for (a class)."""
    entry = lookup(kind, name)
    if (kind, name) in OBJECTS:
        return OBJECTS[kind, name]
    module, _, attribute = entry.target.partition(":")
    return getattr(import_module(module), attribute)
