"""The table of each kind of name, and how plugins add to it."""

from importlib import import_module
from typing import Any

from rayloom.catalogue.described import described
from rayloom.catalogue.entry import KINDS, Entry, Kind
from rayloom.core.errors import UserError


def _table(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def _merged(*indexes: str) -> dict[str, Entry]:
    """The lines of several families, by the names of their index modules: imports go down only."""
    return _table(*(entry for name in indexes for entry in import_module(name).INDEX))


CATALOGUE: dict[Kind, dict[str, Entry]] = {
    "models": _merged(
        "rayloom.models.autoencoders.index",
        "rayloom.models.autoregressive.index",
        "rayloom.models.diffusion.index",
        "rayloom.models.flows.index",
        "rayloom.models.gans.index",
        "rayloom.models.geometry.index",
        "rayloom.models.sequences.index",
        "rayloom.models.supervised.index",
    ),
    "algorithms": _merged("rayloom.rl.algorithms.index"),
    "envs": _merged("rayloom.rl.envs.index"),
    "datasets": _merged("rayloom.data.sets.index"),
}


OBJECTS: dict[tuple[str, str], object] = {}  # classes that plugins brought


def register(kind: Kind, name: str, target: str | object, *, source: str, **about: Any) -> Entry:
    """Add one name for this process (plugins). `target` may be the class itself.

    Raises:
        UserError: The name is taken by something else, or the class says of itself what makes no
            sense.
    """
    if kind not in CATALOGUE:
        raise UserError(f"catalogue kind {kind!r} is none of {', '.join(KINDS)}")
    taken = CATALOGUE[kind].get(name)
    if taken is not None and taken.source != source:
        raise UserError(f"{source} adds {kind} {name!r}, but {taken.source} has that name already")
    if isinstance(target, str):
        entry = Entry(name, target, source=source, **about)
    else:
        entry = Entry(name, f"<{source}>", source=source, **{**described(kind, target), **about})
        OBJECTS[kind, name] = target
    CATALOGUE[kind][name] = entry
    return entry
