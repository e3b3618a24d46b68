"""Planted secrets are in no file of a run folder, nor in what leaves it."""

import io
import json
import subprocess
import zipfile

import pytest

from planted import planted
from rayloom.config.resolved import resolve
from rayloom.core.errors import UserError
from rayloom.records import RunFolder, describe_environment
from rayloom.records.hiding import first_files
from rayloom.records.manage import export_run
from rayloom.tracking import MlflowFollower, recall_uri
from rayloom_pipelines.console import Console, Events
from rayloom_pipelines.outlet import Outlet

URI = "http://me:" + "hunter" + "77x@127.0.0.1:9/x"
PASSWORD = "hunter" + "77x"
WORD = "sword" + "fish"  # the diff of this repository may hold this file


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def leaks(text, kinds):
    return [one.kind for one in kinds if one.secret in text]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder made in a work tree whose uncommitted lines hold every planted secret."""
    kinds = planted(7)
    place = tmp_path_factory.mktemp("tree")
    git(place, "init", "-q", "-b", "main")
    (place / "a.py").write_text("x = 1\n")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "first")
    (place / "a.py").write_text(
        "x = 2\n" + "".join(f"{k.text}\n".replace("\n+", "\n") for k in kinds)
    )
    words = [word for word in kinds if word.kind in ("github classic", "drawn at random", "http")]
    command = ["rayloom", "train", "--password", PASSWORD, *(word.text for word in words)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for number, one in enumerate(kinds):
            if "\0" not in one.text:
                patch.setenv(f"RAYLOOM_UNLISTED_{number}", one.text)
        patch.setenv("RAYLOOM_PAT", PASSWORD)
        patch.setenv("MLFLOW_TRACKING_URI", URI)
        about = describe_environment(command=command)
        flags = ["model.name=vae", "data.name=digits", f"tracking.tags.token={WORD}"]
        config = resolve({}, [*flags, f"tracking.tags.note=key {kinds[5].secret}"]).to_dict()
        config["tracking"]["uri"] = URI
        extra = {"tracking": {"uri": URI}, "tags": {"token": WORD}, "config_now": config}
        folder = RunFolder.create(place / "runs", "x", config=config, info=about | extra)
        folder.update(status="failed", reason=f"Max retries: {URI} and {kinds[3].text}")
        folder.log("".join(one.text for one in kinds[:40]))
        folder.journal().tags({"token": kinds[4].secret})
        folder.journal().scalars(1, {"loss/total": 1.0})
        folder.journal().close()
        yield folder, kinds


def everything(path):
    return {p: p.read_bytes().decode(errors="replace") for p in path.rglob("*") if p.is_file()}


def test_no_file_of_the_run_folder_holds_one(run):
    folder, kinds = run
    for path, text in everything(folder.path).items():
        assert leaks(text, kinds) == [], path
        assert PASSWORD not in text, path
        assert WORD not in text, path
    assert (folder.path / "git.diff").stat().st_mode & 0o777 == 0o600
    assert "+x = 2" in (folder.path / "git.diff").read_text()
    about = json.loads((folder.path / "run.json").read_text())
    assert len(about["git"]["commit"]) == 40
    assert len(about["config_sha256"]) == 64
    assert about["tracking"]["uri"] == "http://***@127.0.0.1:9/x"


def test_no_file_of_a_sweep_or_of_its_trials_holds_the_password(tmp_path, monkeypatch, capfd):
    """A trial is a process of its own: the address goes there whole, and into no file."""
    from rayloom_pipelines.groups.sweep_checks import checked_plan
    from rayloom_pipelines.groups.sweep_plan import settle
    from rayloom_pipelines.groups.trial import payload_of, train_trial
    from rayloom_pipelines.run.folder import Options, make_folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    monkeypatch.setattr("rayloom.tracking.follower.FAILING_S", 0.3)
    tree = {"model": {"name": "vae"}, "data": {"name": "digits"}, "train": {"epochs": 1}}
    words = ["optimizer.lr=loguniform(1e-4,1e-2)", "model.widths=[4]"]
    options, heard = Options(smoke=True, track=True), []
    resolved = checked_plan(resolve(tree, words, search=True, name="x"), options)
    folder = make_folder(
        resolved.config,
        "x",
        options,
        tree=resolved.to_dict(),
        plugins=[],
        say=heard.append,
        facts={"kind": "sweep", "sweep_seeds": 1},
    )
    payload = payload_of(folder, resolved, options, settle(resolved))
    assert payload["tracking_uri"] == URI, "the trial can log in"
    done = train_trial(payload, {"optimizer.lr": 1e-3}, "0000", lambda *_: False)
    assert (folder.path.parent / done["run_id"] / "tracking.json").is_file()
    export_run(folder.path, tmp_path / "whole", "folder")
    export_run(folder.path.parent / done["run_id"], tmp_path / "out", "folder")
    for path, text in everything(tmp_path).items():
        assert PASSWORD not in text, path
    assert PASSWORD not in str((*capfd.readouterr(), heard))


@pytest.mark.parametrize("name", ["out.zip", "out.json", "out", "out.csv"])
def test_no_export_holds_one(run, tmp_path, name):
    folder, kinds = run
    # as if an older version had written it, and a secret in a setting that the run needs
    old = json.loads((folder.path / "run.json").read_text())
    token = kinds[6].secret
    old["config_now"]["env"] = {"name": "x", "kwargs": {"api_key": token}}
    copy = folder.path.parent / f"{name}-old"
    (copy / "media").mkdir(parents=True)
    (copy / "run.json").write_text(json.dumps(old | {"note": kinds[2].text}))
    (copy / "config.yaml").write_text(f'env: {{name: x, kwargs: {{api_key: "{token}"}}}}\n')
    (copy / "log.txt").write_text("".join(one.text + "\n" for one in kinds))
    (copy / "journal.jsonl").write_bytes((folder.path / "journal.jsonl").read_bytes())
    kind = {"out": "folder"}.get(name, name.partition(".")[2])
    target = export_run(copy, tmp_path / name, kind)
    texts = {target: target.read_text()} if kind in ("json", "csv") else {}
    if kind == "folder":
        texts = everything(target)
    if kind == "zip":
        with zipfile.ZipFile(target) as archive:
            texts = {n: archive.read(n).decode(errors="replace") for n in archive.namelist()}
    assert texts
    for place, text in texts.items():
        assert leaks(text, kinds) == [], place


def test_the_diff_is_uploaded_only_if_asked(run):
    record = run[0].record
    assert first_files(record) == ["config.yaml"]
    record.config_now["tracking"]["upload_diff"] = True
    assert first_files(record) == ["config.yaml", "git.diff", "library.diff"]
    assert first_files(None) == ["config.yaml"]


def test_mlflow_gets_none(run, tmp_path, uri):
    folder, kinds = run
    params = {"a": kinds[1].text, "nested": {"api_key": kinds[8].secret}, "lr": 0.1}
    tags = {"token": WORD, "note": kinds[9].text, "sha": "0123abcd" * 8}
    follower = MlflowFollower(folder.path, uri, "e", params=params, tags=tags).start()
    assert follower.close("FINISHED", 120.0)
    texts = everything(tmp_path) | everything(folder.path)
    for path, text in texts.items():
        assert leaks(text, kinds) == [], path
        assert PASSWORD not in text, path
        assert WORD not in text, path
    sent = {path.name for path in (tmp_path / "mlruns").rglob("*")}
    assert {"config.yaml", "run.json"} <= sent
    assert "git.diff" not in sent
    assert "0123abcd" * 8 in (tmp_path / "mlflow.db").read_bytes().decode(errors="replace")


def test_no_terminal_line_holds_one(run):
    _, kinds = run
    out = io.StringIO()
    console, events = Console(out, live=False), Events(out)
    for one in kinds:
        console.on_message(one.text)
        events.on_message(one.text)
        events.on_progress({"position": 1, "budget": 2, "values": {"a": 1.0}, "note": one.text})
        print(f"MLflow says: {one.text}", file=Outlet(out))
    assert leaks(out.getvalue(), kinds) == []
    lines = [line for line in out.getvalue().splitlines() if line.startswith("{")]
    assert any(json.loads(line) for line in lines if '"event"' in line)


def test_a_hidden_password_comes_again_from_the_environment_and_goes_nowhere_else(monkeypatch):
    recorded = "http://***@127.0.0.1:9/x"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to the whole address again"):
        recall_uri(recorded)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI.replace("127.0.0.1", "elsewhere"))
    with pytest.raises(UserError, match="a run folder never keeps them"):
        recall_uri(recorded)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    assert recall_uri(recorded) == URI
    assert recall_uri("http://h") == "http://h"
