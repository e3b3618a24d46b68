"""Plugins: files and modules that add names to the catalogue, checked, hashed, loaded once."""

import hashlib
import subprocess
import sys

import pytest

from rayloom import catalogue
from rayloom.catalogue import plugins
from rayloom.catalogue.plugins import load_installed, load_plugins, plugin_specs, require_plugins
from rayloom.config.resolved import config_from_dict, load_config
from rayloom.core.errors import UserError

SOURCE = '''\
"""A model of my own."""
from typing import Literal

from rayloom.config.sections import Config


class MineConfig(Config):
    name: Literal["mine"] = "mine"
    width: int = 3


class Mine:
    """My model."""

    config_class = MineConfig


class Maze:
    """A maze."""


CATALOGUE = {
    "models": {"mine": "Mine"},
    "envs": {"my/Maze-v0": {"target": Maze, "summary": "a maze", "capabilities": ["discrete"]}},
    "datasets": {"my-data": "somewhere.far:Data"},
}
'''


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No plugin is loaded before a test."""
    monkeypatch.setattr(plugins, "_LOADED", {})


@pytest.fixture
def write(folder, monkeypatch):
    """`write(text, name)`: a file in the working folder, which Python can import from."""
    monkeypatch.syspath_prepend(str(folder))

    def run(text, name="mine.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return run


def test_a_file_adds_names_that_a_config_can_use(write, folder):
    path = write(SOURCE)
    (plugin,) = load_plugins(["mine.py"])
    assert plugin.path == str(path)
    assert plugin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert plugin.names == ("models/mine", "envs/my/Maze-v0", "datasets/my-data")
    config = config_from_dict({"model": {"name": "mine", "width": 5}, "data": {"name": "my-data"}})
    assert config.model.width == 5
    assert catalogue.lookup("models", "mine").summary == "My model."
    assert catalogue.lookup("models", "mine").source == f"plugin {path}"
    entry = catalogue.lookup("envs", "my/Maze-v0")
    assert (entry.summary, entry.capabilities) == ("a maze", ("discrete",))
    assert catalogue.load("envs", "my/Maze-v0").__name__ == "Maze"
    assert catalogue.lookup("datasets", "my-data").target == "somewhere.far:Data"


def test_a_class_that_is_only_named_says_its_kind_of_work_when_it_is_asked(write):
    write(SOURCE.replace("config_class =", "task = 'supervised'\n    config_class ="), "apart.py")
    write("CATALOGUE = {'models': {'mine': 'apart:Mine'}}\n")
    load_plugins(["mine.py"])
    assert catalogue.lookup("models", "mine").task == ""
    config = config_from_dict({"model": {"name": "mine"}, "data": {"name": "digits"}})
    assert (config.task, config.kind_of_work.noun) == ("supervised", "a supervised model")


def test_the_same_source_is_loaded_once_and_a_changed_one_again(write):
    path = write(SOURCE + "COUNT = []\n")
    (first,) = load_plugins(["mine.py", "mine.py"])
    loaded = catalogue.load("models", "mine")
    assert load_plugins(["mine.py"]) == [first]
    assert load_plugins([str(path)]) == [first], "by its absolute path too"
    assert catalogue.load("models", "mine") is loaded
    write(SOURCE.replace("width: int = 3", "width: int = 4"))
    (second,) = load_plugins(["mine.py"])
    assert second.sha256 != first.sha256
    assert catalogue.load("models", "mine").config_class().width == 4


def test_a_module_and_a_package(write):
    write(SOURCE.replace('"mine"', '"pack"'), "my_pack_a/__init__.py")
    write("X = 1\n", "my_pack_a/inner.py")
    (plugin,) = load_plugins(["my_pack_a"])
    assert plugin.path.endswith("my_pack_a")
    assert "models/pack" in plugin.names
    before = plugin.sha256
    write("X = 2\n", "my_pack_a/inner.py")
    assert plugins._source_of("my_pack_a")[1] != before, "any file of a package counts"


def test_a_worker_loads_a_package_by_its_folder(write, folder, tmp_path, monkeypatch):
    text = SOURCE.replace('"mine"', '"pack"') + "from my_pack_b.inner import X\n"
    write(text, "my_pack_b/__init__.py")
    write("X = 1\n", "my_pack_b/inner.py")
    (plugin,) = load_plugins(["my_pack_b"])
    code = (
        "import sys\nfrom rayloom import catalogue\n"
        "from rayloom.catalogue.plugins import load_plugins\n"
        "print(load_plugins([sys.argv[1]])[0].sha256, catalogue.load('models', 'pack').__module__)"
    )
    command = [sys.executable, "-c", code, plugin.path]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.split() == [plugin.sha256, "my_pack_b"]


MODEL_ONLY = 'from rayloom.config.sections import Config\nclass M:\n    """m"""\n'

BROKEN = {
    "syntax": ("x = 1\ndef f(:\n", "plugin bad.py, line 2: syntax error"),
    "import": ("x = 1\nimport no_such_module_at_all\n", "line 2: ModuleNotFoundError"),
    "raises": ("def f():\n    raise KeyError('k')\n\nf()\n", "line 2: KeyError: 'k'"),
    "exits": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "no table": ("x = 1\n", "needs a table at module level such as CATALOGUE"),
    "empty table": ("CATALOGUE = {}\n", "needs a table"),
    "a list": ("CATALOGUE = ['a']\n", "needs a table"),
    "kind": ("CATALOGUE = {'model': {}}\n", "known: models, algorithms, envs, datasets; did you"),
    "kind's table": ("CATALOGUE = {'models': ['a']}\n", "CATALOGUE['models'] must be a table"),
    "no such class": ("class Grid: pass\nCATALOGUE = {'envs': {'g': 'Gird'}}\n", "'Grid'"),
    "no class": ("CATALOGUE = {'envs': {'g': 3}}\n", "must be a class, its name in the file"),
    "name": ("class G: pass\nCATALOGUE = {'envs': {'a:b': G}}\n", "a name is text without ':'"),
    "taken": ("class G: pass\nCATALOGUE = {'datasets': {'digits': G}}\n", "rayloom has already"),
    "about": (
        "class G: pass\nCATALOGUE = {'envs': {'g': {'target': G, 'sumary': ''}}}\n",
        "unknown key 'sumary'; it takes target, summary",
    ),
    "a task": (
        "class G: pass\nCATALOGUE = {'models': {'g': {'target': G, 'task': 'rll'}}}\n",
        "no kind of work is called 'rll'; did you mean 'rl'",
    ),
    "a class's task": (
        "class G:\n    task = 'supervise'\nCATALOGUE = {'models': {'g': G}}\n",
        "CATALOGUE['models']['g']: G.task: no kind of work is called 'supervise'",
    ),
    "a class's metrics": (
        "class G:\n    metrics = ['eval/x']\nCATALOGUE = {'models': {'g': G}}\n",
        "CATALOGUE['models']['g']: G.metrics must be a tuple of Metric",
    ),
    "a class's best": (
        "class G:\n    default_metric = 'eval/acc'\nCATALOGUE = {'models': {'g': G}}\n",
        "G.default_metric is 'eval/acc', a metric without a known direction",
    ),
    "no target": ("CATALOGUE = {'envs': {'g': {'summary': ''}}}\n", "'target' is missing"),
    "no settings": (MODEL_ONLY + "CATALOGUE = {'models': {'m': M}}\n", "needs config_class"),
    "other settings": (
        "from typing import Literal\n"
        + MODEL_ONLY
        + "    class config_class(Config):\n        name: Literal['n'] = 'n'\n"
        + "CATALOGUE = {'models': {'m': M}}\n",
        "must be Literal['m']",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_gets_a_message_with_its_place(name, write):
    text, expected = BROKEN[name]
    write(text, "bad.py")
    before = {kind: dict(table) for kind, table in catalogue.CATALOGUE.items()}
    for _ in range(2):  # a second try says the same
        with pytest.raises(UserError) as caught:
            load_plugins(["bad.py"])
        assert expected in str(caught.value)
        assert str(caught.value).startswith("plugin bad.py")
    assert before == catalogue.CATALOGUE, "whole or not at all"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nothing.py", "no such file"),
        ("mine.pi.py", "did you mean 'mine.py'"),
        ("sub/", "is a folder without __init__.py"),
        ("sub/x.txt", "is no Python file"),
        ("no_such_module_at_all", "no such module; a plugin is FILE.py or"),
        ("no_such.module.at_all", "no such module"),
        ("", "no such module"),
        ("sys", "no such module"),
        ("math", "needs a table"),
        ("..", "no such module"),
    ],
)
def test_a_plugin_that_is_not_there(spec, expected, write):
    write(SOURCE)
    write("", "sub/x.txt")
    with pytest.raises(UserError, match=expected.replace(".", r"\.")):
        load_plugins([spec])


def test_two_plugins_cannot_have_one_name(write):
    write(SOURCE)
    write(SOURCE + "# the other\n", "other.py")
    with pytest.raises(UserError, match=r"other\.py: adds models 'mine', a name that plugin"):
        load_plugins(["mine.py", "other.py"])


def test_a_variable_names_plugins_too(monkeypatch):
    import os

    listed = os.pathsep.join(["a.py", "", "pack", "a.py"])
    assert plugin_specs(["b.py", "a.py"], {"RAYLOOM_PLUGINS": listed}) == ["b.py", "a.py", "pack"]
    monkeypatch.setenv("RAYLOOM_PLUGINS", "c.py")
    assert plugin_specs([]) == ["c.py"]


def test_a_yaml_cannot_load_a_plugin(write, folder):
    write("import pathlib\npathlib.Path('ran').touch()\nCATALOGUE = {}\n")
    text = "model: {name: mine.py}\ndata: {name: digits}\nplugins: [mine.py]\nplugin: mine.py\n"
    (folder / "c.yaml").write_text(text)
    (folder / "rayloom.yaml").write_text("plugins: [mine.py]\n")
    with pytest.raises(UserError, match="import strings are refused"):
        load_config("c.yaml")
    assert not (folder / "ran").exists()


def test_a_resumed_run_needs_the_plugins_that_it_was_started_with(write, monkeypatch):
    path = write(SOURCE)
    (plugin,) = load_plugins(["mine.py"])
    recorded = [plugin.to_dict()]
    assert require_plugins(recorded, ["mine.py"]) == [plugin]
    monkeypatch.setattr(plugins, "_LOADED", {})
    (again,) = require_plugins(recorded, [])
    assert again.sha256 == plugin.sha256, "found where the run noted it"
    path.write_text(SOURCE + "# changed\n")
    for specs in ([], ["mine.py"]):
        with pytest.raises(UserError, match="has changed since the run was started"):
            require_plugins(recorded, specs)
    path.unlink()
    with pytest.raises(UserError, match=r"started with the plugin mine\.py, which does not load"):
        require_plugins(recorded, [])


def test_a_moved_plugin_with_the_same_source_is_as_good(write, folder):
    path = write(SOURCE)
    recorded = [load_plugins(["mine.py"])[0].to_dict()]
    plugins._LOADED.clear()
    for kind, name in (one.split("/", 1) for one in recorded[0]["names"]):
        catalogue.CATALOGUE[kind].pop(name)
    path.rename(folder / "moved.py")
    (found,) = require_plugins(recorded, ["moved.py"])
    assert found.path.endswith("moved.py")


def test_a_copy_of_a_loaded_file_is_the_same_plugin(write):
    write(SOURCE)
    write(SOURCE, "shipped/mine.py")
    assert len(set(load_plugins(["mine.py", "shipped/mine.py"]))) == 1


@pytest.fixture
def install(write, folder):
    """`install(text, target)`: a package of one plugin, as pip leaves it in site-packages."""

    def run(text, target):
        module = target.partition(":")[0]
        top = module.partition(".")[0]
        if "." in module:
            write("", f"{top}/__init__.py")
            write("WIDTH = 3\n", f"{top}/numbers.py")
        write(text, f"{module.replace('.', '/')}.py")
        info = folder / f"{top}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {top}\nVersion: 1.0\n")
        points = f"[rayloom.catalogue]\nmy-pack = {target}\n"
        (info / "entry_points.txt").write_text(points)

    return run


def test_installed_packages_are_asked_for_a_name_that_is_not_known(install):
    install(SOURCE.replace('"mine"', '"installed"'), "my_installed_pack")
    config_from_dict({"model": {"name": "vae"}, "data": {"name": "digits"}})
    assert plugins.loaded() == [], "a known name asks nobody"
    config = config_from_dict({"model": {"name": "installed"}, "data": {"name": "digits"}})
    assert config.model.width == 3
    (plugin,) = plugins.loaded()
    assert plugin.installed
    assert plugin.name == "my_installed_pack"
    assert "models/installed" in plugin.names
    assert catalogue.lookup("models", "installed").source == f"plugin {plugin.path}"
    assert load_installed() == [plugin]
    assert load_plugins(["my_installed_pack"]) == [plugin], "asked for by name as well"


def test_names_of_installed_packages_are_listed(install):
    install(SOURCE.replace('"mine"', '"listed"'), "my_listed_pack:CATALOGUE")
    assert "listed" in catalogue.names("models")
    assert "my/Maze-v0" in catalogue.entries("envs")


def test_workers_and_resumes_find_an_installed_plugin_in_a_submodule(install, folder, monkeypatch):
    text = SOURCE.replace('"mine"', '"deep"') + "from .numbers import WIDTH\nTABLE = CATALOGUE\n"
    install(text, "my_deep_pack.inner:TABLE")
    (plugin,) = load_installed()
    assert plugin.path == str(folder / "my_deep_pack")
    assert plugin.sha256 == plugins._package_sha256(folder / "my_deep_pack"), "all of it counts"
    monkeypatch.setattr(plugins, "_LOADED", {})
    assert load_plugins([plugin.path]) == [plugin]
    monkeypatch.setattr(plugins, "_LOADED", {})
    assert require_plugins([plugin.to_dict()], []) == [plugin]
    monkeypatch.setattr(plugins, "_LOADED", {})
    (folder / "my_deep_pack/numbers.py").write_text("WIDTH = 4\n")
    with pytest.raises(UserError, match="has changed since the run was started"):
        require_plugins([plugin.to_dict()], [])


@pytest.mark.parametrize("name", ["import", "raises", "no table", "taken", "no settings"])
def test_a_broken_installed_plugin_is_named_with_its_package(name, install):
    install(BROKEN[name][0], f"my_broken_{name.replace(' ', '_')}")
    config_from_dict({"model": {"name": "vae"}, "data": {"name": "digits"}})
    label = r"installed plugin my-pack \(of my.broken.\w+ 1\.0\)"
    with pytest.raises(UserError, match=label) as caught:
        catalogue.names("models")
    assert BROKEN[name][1].partition(": ")[2] in str(caught.value)
    tree = {"model": {"name": "unknown"}, "data": {"name": "digits"}}
    with pytest.raises(UserError, match=label):
        config_from_dict(tree)


def test_an_installed_plugin_that_is_not_there(install, folder):
    install(SOURCE, "my_gone_pack")
    (folder / "my_gone_pack.py").unlink()
    with pytest.raises(
        UserError, match=r"my-pack \(of my.gone.pack 1\.0\): plugin my_gone_pack: no"
    ):
        load_installed()


def test_a_run_depends_on_the_installed_plugins_that_it_uses(install):
    from rayloom.config.resolved import resolve
    from rayloom_pipelines.run.own import loaded_plugins

    install(SOURCE.replace('"mine"', '"used"'), "my_used_pack")
    (plugin,) = load_installed()
    data = {"data": {"name": "digits"}}
    assert loaded_plugins(resolve({"model": {"name": "used"}} | data)) == [plugin.to_dict()]
    assert loaded_plugins(resolve({"model": {"name": "vae"}} | data)) == []
    space = ["model.name=choice(vae,used)"]
    assert loaded_plugins(resolve({"model": {"name": "vae"}} | data, space, search=True))


def test_plugin_classes_survive_pickling_by_value_or_name(write):
    """Ray ships classes by name where it can: the module must be found in `sys.modules`."""
    write(SOURCE)
    load_plugins(["mine.py"])
    kind = catalogue.load("models", "mine")
    assert sys.modules[kind.__module__].Mine is kind


def test_plugins_import_neither_torch_nor_ray():
    code = (
        "import sys, rayloom.catalogue.plugins\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pydantic', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
