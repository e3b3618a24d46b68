"""Names of a package that are imported when they are first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def handed_on(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` that finds each name in the module that owns it.

    Args:
        package: `__name__` of the package.
        home: Name to module: one of the package, or a whole dotted name.
    """

    def attribute(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name]
        return getattr(import_module(module if "." in module else f"{package}.{module}"), name)

    return attribute
