"""Pictures and files of a stranger's run folder: checked, else left out by name, the rest sent."""

import hashlib
import json
import os
import struct
import zlib

import numpy as np
import pytest

from rayloom.records.journal import encode_png
from rayloom.tracking.media import MAX_PIXELS
from rayloom.tracking.sender import Sender

GOOD = encode_png(np.zeros((4, 4), np.uint8))
LARGE = encode_png(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))


class Client:
    """Takes files as MLflow's client does."""

    def __init__(self):
        self.got = {}

    def log_artifact(self, run, path, folder=None):
        with open(path, "rb") as file:
            self.got[f"{folder or ''}/{os.path.basename(path)}"] = file.read()

    def log_batch(self, run, **_):
        pass


@pytest.fixture
def sent(tmp_path):
    """`sent()`: sends a journal to its end; gives what the client got and what was said."""
    (tmp_path / "run" / "media").mkdir(parents=True)
    (tmp_path / "run" / "journal.jsonl").touch()
    (tmp_path / "secret").write_text("root:x:0")
    client, said = Client(), []
    sender = Sender(client, "m", tmp_path / "run", say=said.append)

    def run():
        offset = -1
        after = 0
        while after != offset:
            offset, after = after, sender.media(after)
        return client.got, said

    run.folder = tmp_path / "run"
    run.sender = sender
    return run


def note(folder, step, name, content, *, kind="image", digest=None):
    line = {"type": kind, "step": step, "time_ms": 1, "key": "k", "path": f"media/{name}"}
    line["sha256"] = digest or hashlib.sha256(content).hexdigest()
    with open(folder / "journal.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def png(width, height):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


BAD = {
    "no picture": b"hello",
    "empty": b"",
    "cut": LARGE[: len(LARGE) // 2],
    "flipped": GOOD[:45] + bytes([GOOD[45] ^ 1]) + GOOD[46:],
    "bomb": png(60_000, 60_000),
    "just too large": png(MAX_PIXELS // 1000 + 1, 1000),
    "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("case", BAD)
def test_a_picture_that_is_none_keeps_nothing_behind_it_back(sent, case):
    content = BAD[case]
    (sent.folder / "media" / "bad.png").write_bytes(content)
    (sent.folder / "media" / "good.png").write_bytes(GOOD)
    note(sent.folder, 1, "bad.png", content)
    note(sent.folder, 2, "good.png", GOOD)
    got, said = sent()
    assert [name for name in got if "+step+2+" in name and name.endswith(".png")]
    assert not [name for name in got if "+step+1+" in name]
    assert len(said) == 1
    assert "media/bad.png is not sent to MLflow" in said[0]


@pytest.mark.parametrize("kind", ["image", "file"])
@pytest.mark.parametrize("how", ["link", "folder link", "hard link", "pipe", "changed"])
def test_nothing_from_outside_is_sent(sent, how, kind):
    folder, secret = sent.folder, sent.folder.parent / "secret"
    name = "deep/x.png" if how == "folder link" else "x.png"
    place = folder / "media" / name
    if how == "link":
        place.symlink_to(secret)
    elif how == "folder link":
        (folder.parent / "x.png").write_bytes(GOOD)
        (folder / "media" / "deep").symlink_to(folder.parent)
    elif how == "hard link":
        os.link(secret, place)
    elif how == "pipe":
        os.mkfifo(place)
    else:
        place.write_bytes(secret.read_bytes())
    note(folder, 1, name, GOOD, kind=kind)
    (folder / "media" / "good.mp4").write_bytes(b"film")
    note(folder, 2, "good.mp4", b"film", kind="file")
    got, said = sent()
    assert list(got.values()) == [b"film"]
    assert len(said) == 1
    assert name in said[0]


def test_what_is_gone_is_no_trouble(sent):
    note(sent.folder, 1, "gone.png", GOOD)
    assert sent() == ({}, [])


@pytest.mark.parametrize("name", ["config.yaml", "git.diff", "run.json"])
def test_a_linked_file_beside_the_run_is_not_sent(sent, name):
    secret = sent.folder.parent / "secret"
    (sent.folder / name).symlink_to(secret)
    sent.sender.artifact(sent.folder / name)
    got, said = sent()
    assert got == {}
    assert said == [f"{name} is not sent to MLflow: it is a link, which is not followed"]


def test_a_diff_with_a_second_name_is_not_sent(sent):
    os.link(sent.folder.parent / "secret", sent.folder / "git.diff")
    sent.sender.artifact(sent.folder / "git.diff")
    got, said = sent()
    assert got == {}
    assert "hard link" in said[0]
