"""The console log of a job in its run folder: whole, bounded, clean, and it outlives the job."""

import os
import subprocess
import sys
import time

import pytest
from records_help import SmallDisk

from rayloom.records import console
from rayloom.records.console import CONSOLE, Console, copy, end_of

KEY = "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n"


def copied(tmp_path, chunks, *, limit=10_000):
    """The console file after a source has grown by these pieces, one between two looks."""
    source, target = tmp_path / "source", tmp_path / CONSOLE
    source.write_bytes(b"")
    waiting = list(chunks)

    def over(pause_s):
        if waiting:
            with source.open("ab") as file:
                file.write(waiting.pop(0).encode())
            return False
        return True

    copy(source, Console(target, limit=limit), title="job a", over=over)
    return target.read_text()


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (["one\ntw", "o\nthree"], "one\ntwo\nthree"),
        (["Running entrypoint for job a: exec x\n", "one\n"], "one\n"),
        (["2026 INFO job_manager.py:5 -- Runtime\nRunning entrypoint for job a: x\nb\n"], "b\n"),
        (["\x1b[31mred\x1b[0m \x1b]0;title\x07\n"], "red \\x1b]0;title\\x07\n"),
        (["10%\r20%\r100%\r\ndone\n"], "100%\ndone\n"),
        (["export DB_PASSWORD=hunter2hunter2", "x9\n"], "export DB_PASSWORD=***\n"),
        ([KEY.format("MIIE" * 9)[:50], KEY.format("MIIE" * 9)[50:], "b\n"], "***\nb\n"),
        (["\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "\n"], "ÿ\n"),
        ([], ""),
    ],
)  # fmt: skip
def test_lines_come_whole_and_clean(tmp_path, chunks, expected):
    assert copied(tmp_path, chunks) == "--- job a ---\n" + expected


def test_the_middle_of_a_long_log_is_left_out_and_said(tmp_path):
    lines = [f"line {number:05d}\n" for number in range(5000)]
    blocks = ["".join(lines[start : start + 50]) for start in range(0, 5000, 50)]
    text = copied(tmp_path, blocks, limit=4000)
    assert len(text) <= 4000
    assert text.startswith("--- job a ---\nline 00000\n")
    assert text.endswith("line 04999\n")
    (note,) = [line for line in text.splitlines() if line.startswith("[...")]
    left_out = int(note.split()[1])
    kept = len(text) - len(note) - 1
    assert left_out == len("".join(lines)) + len("--- job a ---\n") - kept


def test_another_attempt_is_appended(tmp_path):
    copied(tmp_path, ["one\n"])
    assert copied(tmp_path, ["two\n"]) == "--- job a ---\none\n--- job a ---\ntwo\n"


def test_a_link_in_its_place_is_neither_written_nor_read(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine\n")
    (tmp_path / CONSOLE).symlink_to(other)
    assert end_of(tmp_path / CONSOLE, 5) == []
    copied(tmp_path, ["one\n"])
    assert other.read_text() == "mine\n"
    os.mkfifo(tmp_path / "pipe")
    assert end_of(tmp_path / "pipe", 5) == []  # and does not wait
    assert end_of(tmp_path / "missing", 5) == []
    assert end_of(tmp_path / CONSOLE, 1) == ["one"]


def test_a_full_disk_is_waited_for(tmp_path, monkeypatch):
    with SmallDisk(tmp_path / "disk", "64k") as disk:
        filler = disk.fill()
        source = tmp_path / "source"
        source.write_text("".join(f"line {number}\n" for number in range(2000)))
        looks = []

        def over(pause_s):
            looks.append(1)
            if len(looks) == 3:
                filler.unlink()
            return len(looks) == 4

        monkeypatch.setattr(console.time, "sleep", lambda s: pytest.fail("it is over"))
        copy(source, Console(disk.folder / CONSOLE), title="job a", over=over)
        assert (disk.folder / CONSOLE).read_text().endswith("line 1998\nline 1999\n")


JOB = """
import os, sys, time
from pathlib import Path
from rayloom.records.console import follow_output
print("before the folder was there", flush=True)
assert follow_output(Path(sys.argv[1]), title="job a")
assert not follow_output(Path(sys.argv[1]), title="once")
print("the last words", flush=True)
os.killpg(0, 9)  # as Ray does with a job whose head is gone
"""


def test_the_copy_outlives_a_killed_job(tmp_path):
    with (tmp_path / "job.log").open("wb") as log:
        env = os.environ | {console.VARIABLE: "1"}
        command = [sys.executable, "-c", JOB, tmp_path]
        done = subprocess.run(command, stdout=log, env=env, start_new_session=True)
    assert done.returncode == -9
    end = time.monotonic() + 60
    while time.monotonic() < end and "last words" not in "".join(end_of(tmp_path / CONSOLE, 9)):
        time.sleep(0.05)
    assert (tmp_path / CONSOLE).read_text() == (
        "--- job a ---\nbefore the folder was there\nthe last words\n"
    )


def test_nothing_is_copied_outside_of_a_job(tmp_path, monkeypatch):
    assert not console.follow_output(tmp_path, title="x")
    assert list(tmp_path.iterdir()) == []
