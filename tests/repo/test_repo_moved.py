"""Modules that moved are found by their old names, as the same objects."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rayloom.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("old", sorted(MOVED))
def test_no_module_stands_under_an_old_name(old):
    """Nobody could reach it."""
    path = ROOT / "platform" / old.replace(".", "/")
    assert not path.with_suffix(".py").exists()
    assert not path.exists()


def test_a_class_is_one_by_both_names():
    code = (
        "from rayloom.generative.vae import VAE as old\n"
        "from rayloom.models.autoencoders.vae import VAE as new\n"
        "assert old is new and new.__module__ == 'rayloom.models.autoencoders.vae'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_that_never_was_is_refused_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"rayloom\.core\.catalog'"):
        import_module("rayloom.core.catalog")
