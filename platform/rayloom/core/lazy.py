"""Names of a package that are imported when they are first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def handed_on(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` that finds each name in the module that owns it.

    Args:
        package: `__name__` of the package.
        home: Name to module: below the package (`engine`, `store.writer`), or whole, with
            `rayloom` in front. None may be called as its name is, or the module, once
            imported, would stand in its place.
    """

    def attribute(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name]
        whole = module if module.startswith("rayloom") else f"{package}.{module}"
        return getattr(import_module(whole), name)

    return attribute
