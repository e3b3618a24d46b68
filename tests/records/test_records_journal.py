"""The journal's laws: first wins, nothing twice, nothing lost, nothing half."""

import json
import os

import numpy as np
import pytest
from records_help import Ear, SmallDisk, run_python

from rayloom.core.errors import UserError
from rayloom.records.journal import Journal, encode_png, history, tail
from rayloom.records.journal_reader import media

HARD = [0.1, -0.0, 1e-320, 1.7976931348623157e308, 1 / 3, float("inf"), float("-inf"), float("nan")]


def points(folder):
    return {
        (key, int(s)): v
        for key, (steps, values, _) in history(folder).items()
        for s, v in zip(steps, values, strict=True)
    }


def test_floats_come_back_in_every_bit(tmp_path):
    journal = Journal(tmp_path)
    for step, value in enumerate(HARD):
        journal.scalars(step, {"x": value})
    journal.close()
    _, values, _ = history(tmp_path)["x"]
    assert values.tobytes() == np.array(HARD).tobytes()
    for line in journal.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))


def test_numbers_of_numpy_and_torch_are_taken(tmp_path):
    import torch

    journal = Journal(tmp_path)
    journal.scalars(1, {"a": np.float32(0.1), "b": torch.tensor(0.1), "c": 3, "d": np.int64(4)})
    journal.close()
    assert points(tmp_path)["a", 1] == float(np.float32(0.1)) == points(tmp_path)["b", 1]


@pytest.mark.parametrize("reopened", [False, True])
def test_the_first_point_wins_and_a_repeat_is_dropped(tmp_path, reopened):
    ear = Ear()
    journal = Journal(tmp_path, say=ear)
    for step in (1, 2, 3):
        journal.scalars(step, {"loss/total": step / 3, "time/x": step})
    if reopened:
        journal.close()
        journal = Journal(tmp_path, say=ear)
    size = journal.path.stat().st_size if reopened else None
    journal.scalars(
        2, {"loss/total": 2 / 3, "time/x": 99.0}
    )  # the same, and a time that may differ
    assert (journal.repeats, journal.mismatches) == (2, 0)
    journal.scalars(3, {"loss/total": 1.0})
    journal.scalars(1, {"loss/total": 0.4, "other": 5.0})
    journal.scalars(2, {"loss/total": 0.4})
    assert journal.mismatches == 2
    assert ear.count("not bit-equal") == 1, "once per key"
    journal.close()
    assert points(tmp_path)["loss/total", 1] == 1 / 3
    assert points(tmp_path)["other", 1] == 5.0
    text = journal.path.read_text()
    assert text.count('"loss/total"') == 3
    if reopened:
        assert journal.path.stat().st_size > size


def test_nan_repeated_is_equal(tmp_path):
    journal = Journal(tmp_path)
    for _ in range(2):
        journal.scalars(1, {"x": float("nan")})
    assert journal.mismatches == 0


def test_steps_out_of_order_are_known(tmp_path):
    journal = Journal(tmp_path)
    for step in (5, 1, 3, 5, 1, 3, 2):
        journal.scalars(step, {"x": float(step)})
    assert (journal.repeats, journal.mismatches) == (3, 0)
    journal.close()
    assert history(tmp_path)["x"][0].tolist() == [1, 2, 3, 5]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_cut(tmp_path, cut):
    journal = Journal(tmp_path)
    for step in range(3):
        journal.scalars(step, {"x": float(step)})
    journal.close()
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    ear = Ear()
    again = Journal(tmp_path, say=ear)
    assert ear.count("torn") == 1
    for step in range(4):
        again.scalars(step, {"x": float(step)})
    again.close()
    assert history(tmp_path)["x"][1].tolist() == [0, 1, 2, 3]
    assert all(json.loads(line) for line in journal.path.read_text().splitlines())


DAMAGED = [
    b'{"type":"scalars","step":"1","time_ms":1,"values":{"x":1.0}}',
    b'{"type":"scalars","step":1,"values":{"x":1.0}}',
    b'{"type":"scalars","step":1,"time_ms":1,"values":3}',
    b'{"type":"scalars","step":1,"time_ms":1,"values":{"x":"1x"}}',
    b'{"type":"scalars","step":1,"time_ms":1,"values":{"x\\u0007":1.0}}',
    b'{"type":"image","step":1,"time_ms":1,"key":"x","path":"../../secret.png","sha256":"0"}',
    b'{"type":"image","step":1,"time_ms":1,"key":"x","sha256":"0"}',
    b'{"type":"tags","time_ms":1,"values":[]}',
    b'{"type":7}',
    b"\xff\x00 no text",
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_in_the_middle_is_skipped_by_every_reader(tmp_path, line):
    journal = Journal(tmp_path)
    for step in range(3):
        journal.scalars(step, {"x": float(step)})
    journal.close()
    whole = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(whole[0] + line + b"\n" + whole[2])
    assert history(tmp_path)["x"][0].tolist() == [0, 2]
    assert [entry["step"] for entry in tail(journal.path, max_bytes=200_000)] == [0, 2]
    assert media(tmp_path) == []
    again = Journal(tmp_path)
    for step in range(4):
        again.scalars(step, {"x": float(step)})
    again.close()
    assert again.mismatches == 0
    assert history(tmp_path)["x"][1].tolist() == [0, 1, 2, 3]


def test_a_journal_that_cannot_be_read_is_a_message(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    assert tail(tmp_path / "journal.jsonl") == []
    for read in (history, media, Journal):
        with pytest.raises(UserError, match="cannot read"):
            read(tmp_path)


def test_lines_of_another_process_are_not_destroyed(tmp_path):
    """The driver's journal is open while rank 0's appends."""
    ours = Journal(tmp_path)
    ours.scalars(1, {"x": 1.0})
    ours.flush()
    theirs = Journal(tmp_path)
    theirs.scalars(2, {"x": 2.0})
    theirs.close()
    ours.status("finished")
    ours.close()
    assert sorted(points(tmp_path)) == [("x", 1), ("x", 2)]
    ours.scalars(2, {"x": 2.0})
    assert ours.repeats == 1


def test_pictures_are_written_once_with_equal_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    journal = Journal(tmp_path)
    journal.image(4, "samples/grid", pixels)
    journal.image(4, "samples/grid", pixels.copy())
    journal.image(4, "grey", pixels[..., 0])
    journal.flush()
    assert journal.mismatches == 0
    (first, second) = media(tmp_path)
    assert first["path"] == "media/samples/grid/4.png"
    assert second["key"] == "grey"
    from PIL import Image

    with Image.open(tmp_path / first["path"]) as stored:
        assert np.array_equal(np.asarray(stored), pixels)
    assert encode_png(pixels) == encode_png(np.asfortranarray(pixels))
    again = Journal(tmp_path)
    again.image(4, "samples/grid", pixels // 2)
    assert again.mismatches == 1


def test_files_are_copied(tmp_path):
    video = tmp_path / "elsewhere.mp4"
    video.write_bytes(b"moving")
    run = tmp_path / "run"
    run.mkdir()
    journal = Journal(run)
    journal.file(7, "play/video", video)
    video.unlink()
    journal.close()
    assert (run / "media/play/video/7.mp4").read_bytes() == b"moving"


@pytest.mark.parametrize("key", ["", "a:b", "a" * 251, "é", "a\nb", "a+b"])
def test_names_that_mlflow_cannot_hold_are_refused(tmp_path, key):
    with pytest.raises(UserError, match="metric or picture name"):
        Journal(tmp_path).scalars(1, {key: 1.0})


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x"])
def test_a_picture_cannot_leave_the_media_folder(tmp_path, key):
    with pytest.raises(UserError, match="leaves"):
        Journal(tmp_path).image(1, key, np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(("shape", "dtype"), [((2, 2), "f4"), ((2, 2, 4), "u1"), ((0, 2), "u1")])
def test_what_is_no_picture_is_refused(tmp_path, shape, dtype):
    with pytest.raises(ValueError, match="a picture"):
        Journal(tmp_path).image(1, "x", np.zeros(shape, dtype))


def test_the_tail_is_whole_lines(tmp_path):
    journal = Journal(tmp_path)
    for step in range(1000):
        journal.scalars(step, {"x": 1.0})
    journal.close()
    last = tail(journal.path, max_bytes=1000)
    assert 5 < len(last) < 20
    assert [line["step"] for line in last] == list(range(1000 - len(last), 1000))
    assert tail(tmp_path / "none") == []


def test_memory_of_known_points_is_small(tmp_path):
    """100,000 points cost some bytes each, not hundreds."""
    import tracemalloc

    journal = Journal(tmp_path)
    for step in range(10_000):
        journal.scalars(step, {f"m/{i}": float(step) for i in range(10)})
    journal.close()
    tracemalloc.start()
    again = Journal(tmp_path)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 40 * 100_000
    again.scalars(9_999, {"m/3": 9_999.0})
    assert (again.repeats, again.mismatches) == (1, 0)


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_that_refuses_loses_nothing(tmp_path, trouble):
    ear = Ear()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with SmallDisk(tmp_path / "disk", "256k") as disk:
        run = disk.folder / "run"
        run.mkdir()
        journal = Journal(run, say=ear)
        journal.scalars(0, {"x": 0.0})
        assert journal.sync()
        if trouble == "full":
            filler = disk.fill()
        else:
            os.close(journal._handle)
            journal._handle = -1
            disk.read_only(True)
        for step in range(1, 400):
            journal.scalars(step, {"x": float(step), "a-rather-long-name-to-fill-pages": 1.0})
            if step % 50 == 0:
                journal.image(step, "picture", pixels)
                assert not journal.flush()
        assert journal.waiting > 300
        torn = (run / "journal.jsonl").read_bytes()
        assert torn.endswith(b"\n"), "a partial write must be cut off"
        if trouble == "full":
            filler.unlink()
        else:
            disk.read_only(False)
        assert journal.flush()
        journal.close()
        assert history(run)["x"][1].tolist() == [float(s) for s in range(400)]
        assert [m["step"] for m in media(run)] == [50, 100, 150, 200, 250, 300, 350]
        assert all((run / m["path"]).stat().st_size for m in media(run))
    assert len(ear.heard) == 2, ear.heard
    assert ear.count("training goes on") == 1
    assert ear.count("again") == 1


def test_a_partial_write_is_truncated(tmp_path, monkeypatch):
    import errno

    journal = Journal(tmp_path)
    journal.scalars(0, {"x": 0.0})
    journal.flush()
    real = os.pwrite
    calls = []

    def short(handle, data, offset):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:10], offset)

    monkeypatch.setattr(os, "pwrite", short)
    journal.scalars(1, {"x": 1.0})
    assert not journal.flush()
    assert history(tmp_path)["x"][0].tolist() == [0]
    assert journal.path.read_bytes().endswith(b"\n")
    monkeypatch.undo()
    assert journal.close()
    assert history(tmp_path)["x"][0].tolist() == [0, 1]


KILLED = """
import sys
from rayloom.records.journal import Journal
from pathlib import Path
journal = Journal(Path(sys.argv[1]))
for step in range(10):
    journal.scalars(step, {"x": step / 7})
    journal.flush()
"""


def test_killed_between_journal_and_mlflow_then_run_again(tmp_path):
    done = run_python(KILLED, tmp_path, failpoint="journal.appended:4")
    assert done.returncode == -9, done.stderr
    assert history(tmp_path)["x"][0].tolist() == [0, 1, 2, 3]
    assert run_python(KILLED, tmp_path).returncode == 0
    assert history(tmp_path)["x"][1].tolist() == [s / 7 for s in range(10)]
