"""The catalogue: names of models, algorithms, environments and data sets, and where they live.

One explicit table per kind maps a name to a lazy `"module:Class"` string, so that listing names
imports neither torch nor ray. A config only ever says a *name*: import strings never come from
YAML. Third parties add names by a plugin (`--plugin`, see `plugins`) or by the packaging entry
point `rayloom.catalogue` (an object with the same `CATALOGUE` shape as a plugin).
"""

from rayloom.catalogue.entry import KINDS, Entry, Kind
from rayloom.catalogue.lookup import entries, has, load, lookup, names, task_of
from rayloom.catalogue.table import CATALOGUE, register

__all__ = [
    "CATALOGUE",
    "KINDS",
    "Entry",
    "Kind",
    "entries",
    "has",
    "load",
    "lookup",
    "names",
    "register",
    "task_of",
]
