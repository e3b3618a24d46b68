"""What a run folder records is read as data: its config, its plugins, its options, its MLflow."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rayloom import catalogue
from rayloom.catalogue import plugins
from rayloom.catalogue.plugins import load_plugins
from rayloom.config.resolved import config_from_dict, to_dict
from rayloom.core.errors import ConfigError, UserError
from rayloom.records import RunFolder
from rayloom.tracking import address
from rayloom_pipelines import cli
from rayloom_pipelines.facade import Run
from rayloom_pipelines.load.recorded import config_of_folder
from rayloom_pipelines.run.folder import Options
from rayloom_pipelines.run.publish import register, send_rest
from rayloom_pipelines.run.server import mlflow_of, name_tracking, named_mlflow

SOURCE = """\
from typing import Literal
from rayloom.config.sections import Config
open({mark!r}, "w")

class MineConfig(Config):
    name: Literal["their-model"] = "their-model"

class Mine:
    config_class = MineConfig

CATALOGUE = {{"models": {{"their-model": Mine}}}}
"""
CONFIG = to_dict(config_from_dict({"model": {"name": "vae"}, "data": {"name": "digits"}}))


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(address, "_NAMED", set())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    yield
    catalogue.CATALOGUE["models"].pop("their-model", None)


def make(storage, config=CONFIG, **info):
    facts = {"task": "generative", "seed": 0, "options": {}, "tracking": {"uri": None}} | info
    folder = RunFolder.create(storage, "a", config=config, info=facts)
    folder.update(status="finished")
    return folder


@pytest.fixture
def theirs(tmp_path):
    """(a run whose model is a plugin's, the plugin, what its code makes)."""
    mark, path = tmp_path / "ran", tmp_path / "theirs.py"
    path.write_text(SOURCE.format(mark=str(mark)))
    one = {
        "name": "theirs.py",
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "names": ["models/their-model"],
    }
    config = CONFIG | {"model": {"name": "their-model"}}
    return make(tmp_path / "runs", config, plugins=[one]), path, mark


@pytest.mark.parametrize("verb", ["evaluate", "sample", "play", "resume"])
def test_a_verb_names_the_plugin_that_the_run_needs_and_runs_it_not(theirs, verb, capsys):
    folder, path, mark = theirs
    words = [verb, str(folder.path)]
    if verb in ("sample", "play"):
        words += ["--out", "x.npy" if verb == "sample" else "x.gif"]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert f"--plugin {path}" in told
    assert "not allowed on this machine" in told
    assert not mark.exists()


def test_a_plugin_that_was_named_once_is_found_again(theirs):
    folder, path, mark = theirs
    load_plugins([str(path)])
    plugins._LOADED.clear()
    del catalogue.CATALOGUE["models"]["their-model"]
    mark.unlink()
    assert Run(folder.path).config.model.name == "their-model"
    assert mark.exists()


def test_a_plugin_that_the_config_does_not_need_is_not_needed(tmp_path):
    one = {"name": "x.py", "path": "/x.py", "sha256": "0" * 64, "names": ["envs/x"]}
    folder = make(tmp_path / "runs", plugins=[one])
    assert config_of_folder(folder.path).model.name == "vae"


def test_a_run_s_config_leads_nowhere(tmp_path):
    folder = make(tmp_path / "runs")
    file = folder.path / "config.yaml"
    text = file.read_text()
    file.write_text(f"extends: autoencoders/vae-digits\n{text}")
    with pytest.raises(UserError, match="'extends' leads out of it"):
        config_of_folder(folder.path)
    (tmp_path / "other.yaml").write_text(text)
    file.unlink()
    file.symlink_to(tmp_path / "other.yaml")
    with pytest.raises(UserError, match="no link is followed"):
        config_of_folder(folder.path)
    file.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        config_of_folder(folder.path)


def test_options_are_those_that_are_known(tmp_path):
    assert Options.of(make(tmp_path / "a", options={"smoke": True}).record).smoke
    with pytest.raises(UserError, match="the option 'shell'"):
        Options.of(make(tmp_path / "b", options={"shell": "x"}).record)
    folder = make(tmp_path / "c")
    folder.replace({k: v for k, v in folder.read().items() if k != "options"})
    with pytest.raises(UserError, match="it lacks 'options'"):
        Options.of(folder.record)


class _Says:
    def __init__(self):
        self.heard = []

    def on_message(self, text):
        self.heard.append(text)


def test_no_way_leads_to_a_server_that_only_the_folder_names(tmp_path, monkeypatch):
    """Not by sync, resume, register, a trial or a group; a listener hears nothing."""
    seen = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_error(500)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mine")
        uri = f"http://127.0.0.1:{server.server_port}"
        moved = CONFIG | {"tracking": CONFIG["tracking"] | {"uri": uri}}
        for folder in (
            make(tmp_path / "a", tracking={"uri": uri}),
            make(tmp_path / "b", moved, tracking={"uri": "sqlite:///mlflow.db"}, config_now=moved),
        ):
            for act in (
                lambda f=folder: send_rest(f, _Says()),
                lambda f=folder: mlflow_of(f.record),
            ):
                with pytest.raises(UserError, match="is not used"):
                    act()
            with pytest.raises(UserError):
                register(folder, config_from_dict(moved), say=print)
            assert named_mlflow(folder.record, config_from_dict(moved)) is None
            assert cli.main(["runs", "sync", str(folder.path)]) == 2
            assert cli.main(["resume", str(folder.path)]) == 0
        assert seen == []
        name_tracking([f"tracking.uri={uri}"])
        assert mlflow_of(make(tmp_path / "c", tracking={"uri": uri}).record) == uri
    finally:
        server.shutdown()
        server.server_close()


def test_sync_names_the_run_s_own_mlflow_and_no_other(tmp_path, monkeypatch, capsys):
    """It said that MLflow has everything, and meant another one."""
    own = f"sqlite:///{tmp_path}/own.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    folder = make(tmp_path / "a", tracking={"uri": own})
    other = "http://me:" + "hunter" + "77x@127.0.0.1:9"
    assert cli.main(["runs", "sync", str(folder.path), "--uri", other]) == 2
    told = capsys.readouterr().err
    assert f"is tracked in {own}, and --uri http://***@127.0.0.1:9 is another" in told


@pytest.mark.parametrize(("body", "code"), [(b"3.17.2", 0), (b"<html>log in</html>", 1)])
def test_ui_of_a_server_says_where_it_is_and_what_is_wrong(capsys, body, code):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    assert cli.main(["ui", "--uri", uri]) == code
    server.shutdown()
    server.server_close()
    shown = capsys.readouterr()
    assert shown.out == f"open {uri}\n"
    assert ("not as MLflow does" in shown.err) is bool(code)
