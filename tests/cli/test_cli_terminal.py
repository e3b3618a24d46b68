"""What reaches a terminal: no control character of a stranger, no secret, whatever the encoding."""

import io
import json
import subprocess
import sys

import pytest

from rayloom.core.errors import UserError
from rayloom.records import RunFolder
from rayloom_pipelines import cli
from rayloom_pipelines.outlet import Outlet, guarded

TITLE, CLIPBOARD, OVER = "\x1b]0;owned\x07", "\x1b]52;c;ZXZpbA==\x07", "\u202etxt.exe"
HOSTILE = f"na{TITLE}me{CLIPBOARD}\r\x9b31m{OVER}\u2028line"


@pytest.fixture
def storage(tmp_path):
    info = {"task": "generative", "seed": 0, "kind": "run", "options": {}, "command": HOSTILE}
    folder = RunFolder.create(tmp_path / "runs", "x", config={"a": 1}, info=info)
    about = json.loads((folder.path / "run.json").read_text())
    about |= {"reason": f"{HOSTILE}\nfake-run   finished", "name": HOSTILE, "status": "failed"}
    best = {"metric": HOSTILE, "value": 1.0, "step": 1}
    about["summary"] = {"step": 1, "metrics": {}, "best": best}
    (folder.path / "run.json").write_text(json.dumps(about))
    return folder.path


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show"], ["show", "--json"]])
def test_a_strangers_run_cannot_act_on_the_terminal(storage, capfd, words):
    about = [storage.name] if words[0] == "show" else []
    code = cli.main(["runs", *words, *about, "--storage", str(storage.parent)])
    out, err = capfd.readouterr()
    for sign in ("\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2028"):
        assert sign not in out + err, repr(sign)
    assert "fake-run" not in [line.split(" ")[0] for line in out.splitlines()]
    assert code in (0, 2)


@pytest.mark.parametrize(
    "words",
    [
        ["train", HOSTILE],
        [HOSTILE],
        ["list", HOSTILE],
        ["runs", "show", HOSTILE],
        ["data", HOSTILE],
    ],
)
def test_errors_show_what_was_typed_and_do_nothing(capfd, words):
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert "owned" in err
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_a_narrow_terminal_gets_every_line(encoding):
    raw = io.BytesIO()
    out = Outlet(io.TextIOWrapper(raw, encoding=encoding, line_buffering=True))
    print("Klassen: 猫, Füchse, ñandú", file=out)
    assert "Klassen: \\u732b" in raw.getvalue().decode(encoding)


def test_the_command_line_on_an_ascii_terminal(tmp_path):
    env = {"PATH": "", "LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "HOME": str(tmp_path)}
    env["PYTHONPATH"] = ":".join(path for path in sys.path if path)
    command = [sys.executable, "-m", "rayloom_pipelines.cli", "train", "猫-Füchse"]
    done = subprocess.run(command, env=env, capture_output=True, cwd=tmp_path)
    assert done.returncode == 2
    assert b"\\u732b" in done.stderr
    assert b"Unicode" not in done.stderr


def test_prints_of_libraries_and_errors_pass_the_outlet(capfd, monkeypatch):
    word = "hunter" + "99x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{word}@h")

    def fail(argv):
        print(f"mlflow: connecting to http://me:{word}@h")
        print(f"password {word}", file=sys.stderr)
        raise UserError(f"cannot reach http://me:{word}@h ({word})")

    monkeypatch.setattr(cli, "dispatch", fail)
    before = sys.stdout, sys.stderr
    assert cli.main(["x"]) == 2
    assert (sys.stdout, sys.stderr) == before
    out, err = capfd.readouterr()
    assert word not in out + err
    assert "http://***@h" in out
    with guarded():
        assert sys.stdout.fileno() == before[0].fileno()
