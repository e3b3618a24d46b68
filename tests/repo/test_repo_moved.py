"""Modules that moved are found by their old names, as the same objects."""

import subprocess
import sys
from importlib import import_module

import pytest

from rayloom.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_module_of_the_new_one(old, monkeypatch):
    new = import_module(MOVED[old])
    spec = new.__spec__
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {MOVED[old]}$"):
        assert import_module(old) is new
    assert new.__spec__ is spec
    assert new.__name__ == MOVED[old]
    assert import_module(old) is new


def test_no_module_stands_under_an_old_name():
    """Else it would win, and the two could drift apart."""
    code = (
        "import importlib.machinery as m, rayloom.moved as r\n"
        "for old in r.MOVED:\n"
        "    parent = __import__(old.rpartition('.')[0], fromlist=['x'])\n"
        "    assert m.PathFinder.find_spec(old, parent.__path__) is None, old\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_that_never_was_is_refused_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"rayloom\.core\.catalog'"):
        import_module("rayloom.core.catalog")
