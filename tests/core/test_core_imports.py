"""While one thread loads in the background, others wait before they begin to."""

import builtins
import importlib
import sys
import threading

import pytest

from rayloom.core.imports import is_loaded, others_wait

FORMS = {
    "import": "import PACKAGE.part",
    "from a package": "from PACKAGE import part",
    "a name": "from PACKAGE.part import VALUE",
    "relative": "from .part import VALUE",
    "relative module": "from . import part",
    "by name": "import importlib; importlib.import_module('PACKAGE.part')",
    "by relative name": "import importlib; importlib.import_module('.part', 'PACKAGE')",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package with a module `part`, which tells when it is loaded."""
    name = f"waits_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "part.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(name)
    yield name
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[module]


def beside(package, statement, *, finish):
    """Run a statement beside a thread that loads: whether it was through before the end."""
    held, release, through = threading.Event(), threading.Event(), threading.Event()

    def load():
        with others_wait():
            import decimal  # noqa: F401 (the holder's own imports go on)

            held.set()
            release.wait(5)

    def other():
        code = statement.replace("PACKAGE", package)
        exec(code, {"__name__": f"{package}.x", "__package__": package})
        through.set()

    holder, waiter = threading.Thread(target=load), threading.Thread(target=other)
    holder.start()
    assert held.wait(5)
    waiter.start()
    early = through.wait(finish)
    release.set()
    holder.join(5)
    waiter.join(5)
    assert through.is_set()
    return early


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_first_import_waits_and_is_made_then(package, form):
    plain, by_name = builtins.__import__, importlib.import_module
    assert not beside(package, form, finish=0.05)
    assert f"{package}.part" in sys.modules
    assert (builtins.__import__, importlib.import_module) == (plain, by_name)


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_what_is_loaded_is_not_waited_for(package, form):
    importlib.import_module(f"{package}.part")
    if "importlib.import_module('.part'" in form:
        return  # a relative name always waits, which costs a moment at most
    assert beside(package, form, finish=5)


def test_the_gate_opens_after_an_error(package):
    plain = builtins.__import__
    with pytest.raises(ZeroDivisionError), others_wait():
        1 / 0  # noqa: B018
    assert builtins.__import__ is plain


def test_what_is_loaded():
    world = {"__package__": "rayloom.core"}
    assert is_loaded("sys", None, (), 0)
    assert is_loaded("imports", world, ("others_wait",), 1)
    assert is_loaded("core.imports", world, ("*",), 2)
    assert is_loaded("", world, ("imports",), 1)
    assert not is_loaded("imports", world, ("nothing",), 1)
    assert not is_loaded("rayloom.nothing", None, (), 0)


def test_a_thread_in_the_middle_of_an_import_goes_on(package):
    """It holds locks of modules, and the holder may need one of them."""
    begun, go_on = threading.Event(), threading.Event()
    world = sys.modules[package]
    world.begun, world.go_on = begun, go_on
    source = f"import {package}\n{package}.begun.set()\n{package}.go_on.wait(5)\n"
    folder = world.__path__[0]
    with open(f"{folder}/middle.py", "w") as file:
        file.write(f"{source}from {package} import part\n")
    importlib.invalidate_caches()
    importer = threading.Thread(target=importlib.import_module, args=[f"{package}.middle"])
    importer.start()
    assert begun.wait(5)

    def load():
        with others_wait():
            go_on.set()
            importlib.import_module(f"{package}.middle")

    holder = threading.Thread(target=load, daemon=True)
    holder.start()
    holder.join(5)
    assert not holder.is_alive(), "each waits for the other"
    importer.join(5)
    assert sys.modules[f"{package}.middle"].part.VALUE == 1
