"""The temporary folder of a command that uses Ray, and what killed commands leave."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom.core.errors import RayloomError, UserError
from rayloom.distributed import place, witness
from rayloom.distributed import place_checks as finding
from rayloom.distributed.train import wait_until

LONG = "/tmp/" + "x" * 120


@pytest.fixture(autouse=True)
def own_index(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path_factory):
    """A folder with a short path: pytest's own are too long for Ray's sockets."""
    import shutil
    import tempfile

    made = tempfile.mkdtemp(prefix="rl", dir="/tmp")
    yield made
    shutil.rmtree(made)


def leftovers(root):
    """Those below a folder: the machine may have others, of commands that are no test's."""
    return [one for one in place.find_leftovers() if one.folder.is_relative_to(root)]


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (LONG, "too long"),
        ("/tmp/" + "é" * 20, "too long"),
        ("/nowhere/at/all", "does not exist"),
        ("here", "not an absolute path"),
        ("/tmp/a b", "characters"),
        ("/tmp/é", "characters"),
        ("/tmp/a'b", "characters"),
        ("/etc/hostname", "cannot be used (Not a directory)"),
        ("/proc", "cannot be used"),
    ],
)
def test_a_folder_where_rays_files_cannot_lie_is_passed_over(folder, words):
    chosen, passed = place.choose_root({"TMPDIR": folder})
    assert chosen == "/tmp"
    assert passed == [f"TMPDIR={folder} {place.unfit(folder)}"]
    assert words in passed[0]


def test_the_longest_path_that_is_fit_holds_rays_longest_socket():
    longest = "/" + "x" * (place.longest_root() - 1)
    socket_path = f"{longest}/{place.PREFIX}12345678{place._LONGEST}"
    assert len(socket_path) == place._SOCKET_BYTES


def test_a_full_disk_is_passed_over_and_nothing_left_is_told(root, monkeypatch):
    monkeypatch.setattr(place, "ROOM_BYTES", 2**62)
    assert "MB free" in place.unfit(root)
    with pytest.raises(RayloomError, match=r"TMPDIR=.*free.*Set RAY_TMPDIR to a folder"):
        place.choose_root({"TMPDIR": root})
    assert finding.check_temporary({"TMPDIR": root}).state == "fail"


def test_the_users_own_choice_comes_first(root):
    assert place.choose_root({"RAY_TMPDIR": root, "TMPDIR": "/tmp"}) == (root, [])
    assert place.choose_root({"TMPDIR": root}) == (root, [])
    assert finding.check_temporary({"TMPDIR": LONG}).state == "warn"


@pytest.mark.parametrize(
    ("error", "kept"),
    [(None, 0), (UserError("no"), 0), (KeyboardInterrupt(), 0), (RayloomError("x"), 1)],
)
def test_the_folder_goes_with_the_command_and_a_failed_rays_logs_stay_a_day(
    root, monkeypatch, error, kept
):
    monkeypatch.setenv("TMPDIR", root)
    try:
        with place.own_place() as folder:
            (folder / "session_latest").mkdir()
            if error is not None:
                raise error
    except (RayloomError, KeyboardInterrupt):
        pass
    assert len(list(Path(root).iterdir())) == kept == len(list(place.index().iterdir()))
    assert leftovers(root) == []  # its owner lives: this process


CRASH = """
import os, signal, subprocess, sys
from rayloom.distributed import place
with place.own_place() as folder:
    (folder / "session_latest").mkdir()
    env = {**os.environ, place.VARIABLE: str(folder)}
    named = subprocess.Popen(["sleep", "60"], env=env, stdout=subprocess.DEVNULL)
    log = open(folder / "a.log", "w")
    titled = subprocess.Popen(["bash", "-c", "exec -a ray::Agent sleep 60"], stdout=log)
    print(folder, named.pid, titled.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def crashed(root, monkeypatch):
    """(folder, pids) that a command killed by SIGKILL left."""
    monkeypatch.setenv("TMPDIR", root)
    monkeypatch.setattr(place, "roots", lambda environ=None: [])  # what others left is no matter
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    folder, *pids = process.stdout.readline().split()
    assert leftovers(root) == []  # it still lives
    process.communicate("go\n")
    yield Path(folder), tuple(map(int, pids))
    for pid in pids:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


def test_what_a_killed_command_left_is_found_and_taken_away(root, crashed):
    """Also where TMPDIR is another one by then, by the index; and a process without environment."""
    folder, pids = crashed
    assert wait_until(lambda: len(place.processes_of(folder)) == 2, timeout_s=5)
    (left,) = leftovers(root)
    assert (left.folder, sorted(left.pids)) == (folder, sorted(pids))
    assert "2 processes of its Ray" in finding.check_leftovers().message
    assert finding.check_leftovers(clean=True).message.startswith("taken away: ")
    assert not folder.exists()
    assert place.processes_of(folder) == []
    assert finding.check_leftovers().message == "killed commands left nothing here"


@pytest.mark.parametrize("fault", ["another machine", "no mark", "another user", "a link", "kept"])
def test_what_is_not_ours_is_left_alone(crashed, fault, monkeypatch):
    folder, pids = crashed
    mark = json.loads((folder / place.MARK).read_text())
    if fault == "another machine":
        (folder / place.MARK).write_text(json.dumps(mark | {"machine": "far"}))
    elif fault == "no mark":
        (folder / place.MARK).unlink()
    elif fault == "another user":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    elif fault == "a link":
        moved = folder.rename(folder.parent / "elsewhere")
        folder.symlink_to(moved)
    else:
        (folder / place.MARK).write_text(json.dumps(mark | {"keep_until": 4e9}))
    assert place.clear_old() == []
    assert folder.exists()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)


WITNESSED = """
import os, signal, sys
from rayloom.distributed import place, witness
from rayloom.records.scratch import scratch
note = "Go on with: rayloom resume it"
with place.own_place() as folder, witness.witnessed(folder, note), scratch() as other:
    assert not list(other.iterdir())
    print(folder, flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["well", "killed"])
def test_the_witness_cleans_up_after_a_kill_and_says_how_to_go_on(root, end):
    """Its standard error ends after the cleaning, so nothing needs to be waited for."""
    ended = subprocess.run(
        [sys.executable, "-c", WITNESSED, end],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": root},
        timeout=60,
    )
    assert Path(ended.stdout.strip()).parent == Path(root)
    assert list(Path(root).iterdir()) == []  # nor what MLflow's sender had in hand
    killed = f"{witness.DIED} Go on with: rayloom resume it\n"
    assert ended.stderr == (killed if end == "killed" else "")
