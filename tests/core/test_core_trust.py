"""Plugins run because a user named them, never because a run folder does."""

import hashlib
import json
import multiprocessing
import os
import shutil

import pytest

from rayloom import catalogue
from rayloom.catalogue import plugins
from rayloom.catalogue.plugins import load_plugins, paths_of, require_plugins
from rayloom.core import trust
from rayloom.core.errors import UserError
from rayloom.core.trust import TrustedPlugin, remember_plugin, trust_file, trusted_plugin

SOURCE = '''\
import pathlib
pathlib.Path({mark!r}).touch()

class Maze:
    """A maze."""

CATALOGUE = {{"envs": {{"{name}": Maze}}}}
'''


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A user of their own, with nothing loaded and nothing allowed."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stranger(home):
    """`stranger(name)`: (record in run.json, the plugin's file, the file that its code makes)."""

    def make(name, folder="theirs"):
        mark = home / f"{name}-ran"
        path = home / folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(SOURCE.format(mark=str(mark), name=f"{name}/Maze-v0"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        names = [f"envs/{name}/Maze-v0"]
        one = {"name": f"{name}.py", "path": str(path), "sha256": digest, "names": names}
        return one, path, mark

    yield make
    for name in [n for n in catalogue.CATALOGUE["envs"] if n.endswith("/Maze-v0")]:
        del catalogue.CATALOGUE["envs"][name]


def forget():
    """As a new process."""
    plugins._LOADED.clear()
    for name in [n for n in catalogue.CATALOGUE["envs"] if n.endswith("/Maze-v0")]:
        del catalogue.CATALOGUE["envs"][name]


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("same", [True, False])
def test_a_plugin_that_only_a_run_folder_names_does_not_run(stranger, same, installed):
    one, path, mark = stranger("evil")
    with pytest.raises(UserError) as caught:
        require_plugins([one | {"installed": installed}], (), same=same)
    assert not mark.exists()
    for part in ("evil.py", str(path), one["sha256"], f"--plugin {path}"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="--plugin"):
        paths_of([one])
    assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"path": "antigravity"},
        {"path": "this", "name": "this"},
        {"path": "evil"},
        {"path": "../evil.py"},
        {"path": "/dev/stdin"},
        {"path": "/dev/zero"},
        {"path": "/nowhere/evil.py"},
        {"path": "a\0b.py"},
        {"path": ""},
        {"sha256": "0" * 64},
    ],
)
def test_whatever_a_run_folder_says_of_it(stranger, home, change):
    one, _, mark = stranger("other")
    package = home / "evil"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\nCATALOGUE = {{}}\n")
    with pytest.raises(UserError, match="To go on"):
        require_plugins([one | change], ())
    assert not mark.exists()


def test_a_pipe_in_its_place_blocks_nobody(stranger):
    one, path, _ = stranger("pipe")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="no such file"):
        require_plugins([one], ())


def test_what_the_user_named_runs_again_by_its_hash(stranger, home):
    one, path, mark = stranger("named")
    load_plugins([str(path)])
    assert mark.exists()
    file = trust_file()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert trusted_plugin(one["sha256"]).path == str(path)
    forget()
    mark.unlink()
    assert [plugin.path for plugin in require_plugins([one], ())] == [str(path)]
    assert mark.exists()
    forget()
    moved = home / "elsewhere" / "named.py"
    moved.parent.mkdir()
    path.rename(moved)
    assert require_plugins([one | {"path": str(moved)}], ())[0].path == str(moved)


def test_a_changed_file_does_not_run_for_an_old_trust(stranger):
    one, path, mark = stranger("changed")
    load_plugins([str(path)])
    forget()
    mark.unlink()
    path.write_text(path.read_text() + "# more\n")
    with pytest.raises(UserError, match="has changed since the run was started"):
        require_plugins([one], ())
    changed = one | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(UserError, match="not allowed on this machine"):
        require_plugins([changed], ())
    assert not mark.exists()


def test_byte_code_beside_a_trusted_file_does_not_run(stranger, home):
    """The hash is of the source: a stranger ships that, and byte code of their own beside it."""
    import importlib.util
    import py_compile

    one, path, _ = stranger("cached")
    load_plugins([str(path)])
    forget()
    theirs = home / "shipped" / "cached.py"
    theirs.parent.mkdir()
    shutil.copy(path, theirs)
    path.unlink()
    evil = home / "evil.py"
    evil.write_text(f"open({str(home / 'evil-ran')!r}, 'w')\nCATALOGUE = {{'envs': {{'x': int}}}}")
    cache = importlib.util.cache_from_source(str(theirs))
    py_compile.compile(
        str(evil), cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    require_plugins([one | {"path": str(theirs)}], ())
    assert not (home / "evil-ran").exists()


def test_a_trusted_package_runs_nothing_but_its_hashed_files(home, monkeypatch):
    import py_compile

    pack = home / "ours" / "maze_pack"
    pack.mkdir(parents=True)
    text = "from maze_pack.inner import Maze\nCATALOGUE = {'envs': {'pack/Maze-v0': Maze}}\n"
    (pack / "__init__.py").write_text(text)
    (pack / "inner.py").write_text("class Maze:\n    'm'\n")
    (plugin,) = load_plugins([str(pack)])
    forget()
    for name in ("maze_pack", "maze_pack.inner"):
        monkeypatch.delitem(__import__("sys").modules, name)
    theirs = home / "shipped" / "maze_pack"
    shutil.copytree(pack, theirs, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(pack)
    evil = home / "evil.py"
    evil.write_text(f"open({str(home / 'evil-ran')!r}, 'w')\nclass Maze:\n    'm'\n")
    cache = theirs / "__pycache__" / "inner.cpython-311.pyc"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), str(cache), invalidation_mode=mode)
    (found,) = require_plugins([plugin.to_dict() | {"path": str(theirs)}], ())
    assert found.path == str(theirs)
    assert not (home / "evil-ran").exists()
    forget()


def test_what_a_worker_is_handed_is_not_remembered(stranger):
    one, path, _ = stranger("worker")
    (plugin,) = load_plugins([str(path)], remember=False)
    assert not trust_file().exists()
    assert paths_of([one]) == [plugin.path], "the driver's own process has it"
    forget()
    with pytest.raises(UserError, match="not allowed on this machine"):
        require_plugins([one], ())


def test_another_version_will_do_where_only_names_count(stranger):
    one, path, _ = stranger("version")
    path.write_text(path.read_text() + "# newer\n")
    (newer,) = load_plugins([str(path)])
    assert require_plugins([one], (), same=False) == [newer]
    with pytest.raises(UserError):
        require_plugins([one], ())


DAMAGED = {
    "empty": "",
    "list": "[]",
    "other version": '{"schema_version": 9, "plugins": {}}',
    "deep": "[" * 100_000,
    "wrong entry": '{"schema_version": 1, "plugins": {"%s": 5}, "servers": {}}' % ("0" * 64),
    "wrong table": '{"schema_version": 1, "plugins": []}',
    "no hash": '{"schema_version": 1, "plugins": {"x": {"name": "", "path": "", "time": ""}}}',
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_list_allows_nothing_and_stops_nothing(case, stranger):
    one, path, mark = stranger("damaged")
    file = trust_file()
    file.parent.mkdir(mode=0o700, parents=True)
    file.write_text(DAMAGED[case])
    file.chmod(0o600)
    with pytest.raises(UserError, match="not allowed on this machine"):
        require_plugins([one], ())
    assert load_plugins([str(path)])
    assert mark.exists()


@pytest.mark.parametrize("mode", [0o666, 0o622, 0o620])
def test_a_list_that_others_may_write_allows_nothing(mode, stranger):
    one, path, _ = stranger("open")
    load_plugins([str(path)])
    trust_file().chmod(mode)
    forget()
    with pytest.raises(UserError, match=r"may be written by others \(chmod 600\)"):
        require_plugins([one], ())
    trust_file().chmod(0o600)
    trust_file().parent.chmod(0o777)
    with pytest.raises(UserError, match="lies in a folder that others may write"):
        require_plugins([one], ())
    trust_file().parent.chmod(0o700)
    assert require_plugins([one], ())


def test_where_nothing_can_be_noted_plugins_still_load(stranger, home, monkeypatch):
    _, path, mark = stranger("nowhere")
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    assert load_plugins([str(path)])
    assert mark.exists()


def remember_some(number):
    for count in range(20):
        digest = hashlib.sha256(f"{number}-{count}".encode()).hexdigest()
        assert remember_plugin(TrustedPlugin(digest, "a", "/a.py"))


def test_of_many_writers_at_once_none_loses_an_entry():
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=remember_some, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(json.loads(trust_file().read_text())["plugins"]) == 80
    assert sorted(p.name for p in trust_file().parent.iterdir()) == [
        ".trusted.lock",
        "trusted.json",
    ]


def test_the_list_is_bounded(monkeypatch):
    monkeypatch.setattr(trust, "MAX_ENTRIES", 3)
    for count in range(5):
        remember_plugin(TrustedPlugin(f"{count:064x}", "a", "/a.py"))
    assert len(json.loads(trust_file().read_text())["plugins"]) == 3
