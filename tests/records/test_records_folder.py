"""Run folders, their locks, and what they record of the world."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from records_help import Ear, SmallDisk, run_forked

from rayloom.core.errors import RunLockedError, UserError
from rayloom.core.secrets import mask, mask_command
from rayloom.records import RunFolder, describe_environment
from rayloom.records.environment import describe_git
from rayloom.records.lock import RunLock, holder

CONFIG = {"model": {"name": "vae"}, "optimizer": {"lr": 1e-3}, "train": {"epochs": None}}


def make(storage, **info):
    return RunFolder.create(storage, "autoencoders/vae-digits", config=CONFIG, info=info)


def test_a_run_folder_comes_whole_and_opens_again(tmp_path):
    library = {"commit": "def", "diff": "+y\n"}
    own = {"commit": "abc", "diff": "+x\n"}
    folder = make(tmp_path / "deep" / "runs", seed=3, git=own, library_git=library)
    again = RunFolder.open(folder.path)
    about = again.read()
    assert about["run_id"] == folder.run_id == folder.path.name
    assert about["name"] == "autoencoders/vae-digits"
    assert about["schema_version"] == 1
    assert about["seed"] == 3
    assert about["name"] == "autoencoders/vae-digits"
    assert about["status"] == "created"
    assert about["git"]["commit"] == "abc"
    assert "diff" not in about["git"]
    assert (folder.path / "git.diff").read_text() == "+x\n"
    assert about["library_git"]["commit"] == "def"
    assert "diff" not in about["library_git"]
    assert (folder.path / "library.diff").read_text() == "+y\n"
    from rayloom.config.yaml_text import read

    assert read(again.path / "config.yaml") == CONFIG
    assert again.media.is_dir()
    assert again.path.is_absolute()
    assert folder.run_id.startswith("vae-digits-2")
    assert len(about["config_sha256"]) == 64
    assert not [p for p in folder.path.parent.iterdir() if p.name.startswith(".")]


def test_ids_are_unique_and_safe(tmp_path):
    names = ["a", "a", "../../etc/passwd", "x y\n$(rm)", "/", "ü" * 300]
    folders = [RunFolder.create(tmp_path, name, config={}, info={}) for name in names]
    assert len({f.run_id for f in folders}) == len(names)
    assert all(f.path.parent == tmp_path for f in folders)
    for folder in folders:
        assert folder.run_id.isascii()
        assert not set(folder.run_id) & set("/\\ \n$:*?\"'")
        assert len(folder.run_id) < 120


def test_the_hash_of_a_config_ignores_the_order(tmp_path):
    one = RunFolder.create(tmp_path, "a", config={"a": 1, "b": 2}, info={}).read()
    two = RunFolder.create(tmp_path, "a", config={"b": 2, "a": 1}, info={}).read()
    three = RunFolder.create(tmp_path, "a", config={"b": 2, "a": 2}, info={}).read()
    assert one["config_sha256"] == two["config_sha256"] != three["config_sha256"]


def test_update_replaces_fields_and_stays_strict_json(tmp_path):
    folder = make(tmp_path)
    assert folder.update(status="running", summary={"a": float("nan"), "b": [float("-inf"), 1]})
    text = (folder.path / "run.json").read_text()
    about = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert about["status"] == "running"
    assert about["summary"] == {"a": "nan", "b": ["-inf", 1]}
    assert about["run_id"] == folder.run_id


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 99}']
)
def test_what_is_no_run_folder_is_a_message(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        RunFolder.open(tmp_path)


def test_storage_that_is_a_file_is_a_message(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="storage=PATH"):
        make(tmp_path / "runs")


def test_an_unwritable_or_full_disk(tmp_path):
    ear = Ear()
    with SmallDisk(tmp_path / "disk", "256k") as disk:
        folder = RunFolder.create(disk.folder, "a", config={}, info={}, say=ear)
        disk.read_only(True)
        with pytest.raises(UserError, match="Read-only"):
            make(disk.folder)
        with pytest.raises(UserError, match="cannot lock"):
            folder.lock().acquire()
        assert not folder.update(status="running", a=1)
        assert folder.read()["status"] == "running"
        folder.log("is ignored")
        disk.read_only(False)
        filler = disk.fill()
        with pytest.raises(UserError, match="No space"):
            make(disk.folder)
        assert not folder.update(b="x" * 5000)
        filler.unlink()
        assert folder.update(c=3)
        about = RunFolder.open(folder.path).read()
        assert (about["status"], about["a"], len(about["b"]), about["c"]) == ("running", 1, 5000, 3)
        assert not [p.name for p in disk.folder.iterdir() if p.name.startswith(".")]
        assert not list(folder.path.glob(".*.tmp"))


# ---- the lock ----

HOLD = """
import sys, time
from pathlib import Path
from rayloom.records.lock import RunLock
lock = RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_living_writer_is_refused_and_a_dead_one_taken_over(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError, match=f"process {other.pid} on "):
            RunLock(tmp_path).acquire()
        assert holder(tmp_path).alive
        other.kill()
        other.wait()
        assert not holder(tmp_path).alive
        ear = Ear()
        with RunLock(tmp_path, say=ear) as lock:
            assert lock.held
            assert holder(tmp_path).pid == os.getpid()
        assert ear.count(f"took over {tmp_path.name} from process {other.pid}") == 1
        assert holder(tmp_path) is None
    finally:
        other.kill()
        other.wait()


def test_a_reused_process_id_does_not_count_as_the_holder(tmp_path):
    with RunLock(tmp_path):
        entry = json.loads((tmp_path / "lock.json").read_text())
    entry["start_ticks"] -= 1  # our process id, but an earlier process
    (tmp_path / "lock.json").write_text(json.dumps(entry))
    assert not holder(tmp_path).alive
    RunLock(tmp_path).acquire().release()


@pytest.mark.parametrize(("age_s", "alive"), [(5, True), (300, False)])
def test_on_another_machine_the_heartbeat_decides(tmp_path, age_s, alive):
    with RunLock(tmp_path):
        entry = json.loads((tmp_path / "lock.json").read_text())
    entry |= {"host": "elsewhere", "machine": "elsewhere|1|2", "pid": 1}
    (tmp_path / "lock.json").write_text(json.dumps(entry))
    then = time.time() - age_s
    os.utime(tmp_path / "lock.json", (then, then))
    if alive:
        with pytest.raises(RunLockedError, match="process 1 on elsewhere"):
            RunLock(tmp_path).acquire()
    else:
        RunLock(tmp_path).acquire().release()


def test_the_heartbeat_beats_and_a_lost_lock_is_noticed(tmp_path):
    with RunLock(tmp_path, heartbeat_s=0.02) as lock:
        os.utime(tmp_path / "lock.json", (0, 0))
        end = time.monotonic() + 5
        while (tmp_path / "lock.json").stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / "lock.json").stat().st_mtime > 0
        entry = json.loads((tmp_path / "lock.json").read_text()) | {"token": "somebody"}
        (tmp_path / "lock.json").write_text(json.dumps(entry))
        while lock.held and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.lost
    assert (tmp_path / "lock.json").exists(), "somebody else's lock is not freed"


def take(folder, token):
    import rayloom.records.lock as module

    real = module.write_atomic

    def slowly(*arguments):
        time.sleep(0.1)  # between looking and writing: all eight are in here at once
        real(*arguments)

    module.write_atomic = slowly
    try:
        RunLock(folder).acquire()
        (folder / f"taken-{token}").touch()
    except RunLockedError:
        pass
    (folder / f"tried-{token}").touch()
    end = time.monotonic() + 60
    while len(list(folder.glob("tried-*"))) < 8 and time.monotonic() < end:
        time.sleep(0.02)  # a holder that is gone may be followed, then without a release


def test_of_many_at_once_one_gets_it(tmp_path):
    stale = {"host": "h", "machine": "m|1|2", "pid": 1, "since_ms": 0, "token": "t"}
    (tmp_path / "lock.json").write_text(json.dumps(stale))
    os.utime(tmp_path / "lock.json", (0, 0))
    pids = []
    for token in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                take(tmp_path, token)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert len(list(tmp_path.glob("taken-*"))) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_lock_file_is_replaced(tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    RunLock(tmp_path).acquire().release()
    assert holder(tmp_path) is None


def test_checkpoints_beside_a_living_writer_are_read_only(tmp_path):
    folder = make(tmp_path)
    assert not folder.checkpoints()._read_only
    with folder.lock():
        assert not folder.checkpoints()._read_only, "the holder writes"
        assert RunFolder.open(folder.path).checkpoints()._read_only, "others read"


def crash_while_making(storage):
    import rayloom.records.run_folder as module

    module.to_json = lambda *a, **k: os.kill(os.getpid(), 9)
    make(storage)


def test_a_kill_while_making_leaves_no_half_run(tmp_path):
    from rayloom.records import list_runs

    assert run_forked(crash_while_making, tmp_path) == -9
    assert list_runs(tmp_path) == []
    assert [p.name[:8] for p in tmp_path.iterdir()] == [".making-"]


# ---- what is recorded ----


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://me:hunter2@host/x", "hunter2"),
        ("--api-key=hunter2", "hunter2"),
        ("DB_PASSWORD: hunter2", "hunter2"),
        ('+token = "hunter2"', "hunter2"),
        ("access_key='hunter2 x'", "hunter2 x"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0123"),
        ("x AKIAIOSFODNN7EXAMPLE y", "AKIAIOSFODNN7EXAMPLE"),
    ],
)
def test_secrets_are_hidden(text, secret):
    assert secret not in mask(text)
    assert "***" in mask(text)


def test_what_is_no_secret_stays():
    text = "optimizer.lr=1e-3 storage=/tmp/runs num_tokens 5 https://host:5000/x seed=3"
    assert mask(text) == text
    command = ["rayloom", "train", "--token", "hunter2", "model.beta=2", "--password=hunter2"]
    shown = mask_command(command)
    assert shown == ["rayloom", "train", "--token", "***", "model.beta=2", "--password=***"]


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_git_is_recorded_and_runs_nothing(tmp_path):
    assert describe_git(tmp_path) == {}
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a.txt").write_text("one\n")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = describe_git(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["branch"] == "main"
    assert not clean["dirty"]
    assert clean["diff"] == ""
    (tmp_path / "a.txt").write_text("two\napi_key = 'hunter2'\n")
    (tmp_path / "new.txt").write_text("")
    (tmp_path / ".gitattributes").write_text("*.txt diff=evil\n")
    marker = tmp_path / "ran"
    git(tmp_path, "config", "diff.evil.textconv", f"touch {marker}; cat")
    git(tmp_path, "config", "diff.evil.command", f"touch {marker}")
    git(tmp_path, "config", "core.fsmonitor", f"touch {marker}")
    dirty = describe_git(tmp_path)
    assert dirty["dirty"]
    assert "+two" in dirty["diff"]
    assert "hunter2" not in dirty["diff"]
    assert dirty["untracked"] == [".gitattributes", "new.txt"]
    assert not marker.exists()


def test_a_repository_without_commits_and_no_git_at_all(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    assert describe_git(tmp_path)["commit"] == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe_git(tmp_path) == {}
    about = describe_environment()
    assert about["python"]


def test_the_library_s_own_changes_are_known_wherever_one_works(tmp_path, monkeypatch):
    from rayloom.records import environment

    repository = environment.describe_git(Path(environment.__file__).parent)
    if not repository:
        pytest.skip("the library does not lie in a git work tree")
    monkeypatch.chdir(tmp_path)
    found = environment.describe_environment()
    assert found["git"] == {}
    assert found["library_git"]["commit"] == repository["commit"]
    assert found["library_git"].keys() == repository.keys()


def test_the_environment_is_json_and_hides_secrets(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host:5000")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    monkeypatch.setenv("HOME_SECRET", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    about = describe_environment(command=["rayloom", "train", "x y"])
    for key in ("git", "library_git"):
        about.get(key, {}).pop("diff", None)  # it may hold these very lines
    text = json.dumps(about)
    assert "hunter2" not in text
    assert about["command"] == "rayloom train 'x y'"
    assert about["environment"]["OMP_NUM_THREADS"] == "1"
    assert {"torch", "numpy", "mlflow"} <= set(about["packages"])
    assert about["machine"]["cpus"] == os.cpu_count()


def test_the_room_imports_neither_torch_nor_mlflow_to_list_runs():
    code = (
        "import sys, rayloom.records as r\n"
        "r.list_runs('/nowhere'); r.RunFolder; r.describe_environment\n"
        "heavy = {'torch', 'mlflow', 'ray', 'numpy', 'yaml', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_folder_s_config_is_read_back_as_it_was(tmp_path):
    """Written by the rules that resume reads by: a tag "1e-3" stays text."""
    from rayloom.config.resolved import config_from_dict, load_config, to_dict

    texts = ["1e-3", "2e5", "on", "~", "0o17", "1_000", ".inf", "12:30:45", "=", "a\x85b", "😀 "]
    config = config_from_dict(
        {
            "model": {"name": "vae"},
            "data": {"name": "digits"},
            "optimizer": {"lr": 1e-05},
            "tracking": {
                "experiment": "2e5",
                "tags": {f"t{number}": text for number, text in enumerate(texts)},
            },
        }
    )
    folder = RunFolder.create(tmp_path, "vae", config=to_dict(config), info={})
    assert load_config(folder.path / "config.yaml", site=None).config == config
