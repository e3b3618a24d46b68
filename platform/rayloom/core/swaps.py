"""Something else in its place for the length of a block: variables, names of a module."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def variables(wanted: Mapping[str, str], *, keep: Iterable[str] = ()) -> Iterator[None]:
    """These environment variables for the block.

    Args:
        wanted: Values by name.
        keep: Names that get no value here, but are put back as well.
    """
    before = {name: os.environ.get(name) for name in (*wanted, *keep)}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute for the block.

    Args:
        owner: A module or an object that has it.
        name: Of the attribute.
        value: What stands there meanwhile.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
