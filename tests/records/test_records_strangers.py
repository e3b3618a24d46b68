"""A run folder from anybody: what it may hold, what is never followed, who goes on beside it."""

import hashlib
import json
import os
import pickle
import socket
import struct
import zipfile

import pytest
import torch
from records_help import Ear

from rayloom.core.errors import CheckpointError, UserError
from rayloom.core.protocols import Chunk
from rayloom.records import (
    RunFolder,
    collect,
    compare,
    export_run,
    find_waste,
    history,
    list_runs,
    remove_run,
)
from rayloom.records.about import read_about
from rayloom.records.inside import is_bare, is_relative, open_inside, parse_json, read_inside
from rayloom.records.journal_reader import MAX_LINE, media, tail
from rayloom.records.lock import RunLock, holder


def make(storage, name="a", **info):
    folder = RunFolder.create(storage, name, config={"seed": 0}, info=info)
    journal = folder.journal()
    journal.scalars(1, {"loss/total": 0.5})
    journal.close()
    folder.update(status="finished")
    return folder


@pytest.fixture
def pair(tmp_path):
    """A healthy run and one that a test spoils, in one storage."""
    storage = tmp_path / "runs"
    return make(storage, "good"), make(storage, "bad"), storage


def chunk():
    import numpy as np

    return Chunk("replay-0", {"obs": np.arange(8, dtype=np.float32)})


def checkpointed(folder, steps=(1, 2, 3), chunks=False):
    store = folder.checkpoints()
    for step in steps:
        state = {"trainable": {"w": torch.full((4,), float(step))}, "n": step}
        if chunks:
            state["replay"] = chunk()
        store.save(step, state, metrics={"eval/loss": 1.0 / step}, score=-1.0 / step)
    return store


def reseal(path, manifest):
    """Write a manifest as its maker would, marker included: the hashes of a stranger agree."""
    text = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "COMPLETE").write_text(hashlib.sha256(text).hexdigest())


def replace(path, name, content):
    """Put other bytes in the place of a checkpoint's file, with a manifest that agrees."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"size": len(content), "sha256": digest}
    reseal(path, manifest)


def spoil(folder, **fields):
    path = folder.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


WRONG = {
    "parent-path": {"parent": "../good"},
    "parent-number": {"parent": 7},
    "best-run-path": {"best_run": "/etc"},
    "run-id-path": {"run_id": "a/../../b"},
    "run-id-hidden": {"run_id": ".ssh"},
    "created-word": {"created": "yesterday"},
    "created-year-1": {"created": "0001-01-01T00:00:00"},
    "created-year-9999": {"created": "9999-12-31T23:59:59"},
    "status-list": {"status": ["finished"]},
    "status-sentence": {"status": "finished\x1b]0;x\x07"},
    "seed-text": {"seed": "1"},
    "seed-bool": {"seed": True},
    "position-negative": {"position": -1},
    "position-bool": {"position": True},
    "exit-code-text": {"exit_code": "0"},
    "plugins-text": {"plugins": "evil.py"},
    "plugin-without-hash": {"plugins": [{"name": "a", "path": "a.py"}]},
    "plugin-hash-number": {"plugins": [{"name": "a", "path": "a.py", "sha256": 1}]},
    "tracking-list": {"tracking": ["http://a"]},
    "tracking-uri-number": {"tracking": {"uri": 1}},
    "options-list": {"options": [1]},
    "options-init-number": {"options": {"init": 5}},
    "stages-path": {"stages": {"../x": {"run": "a", "step": 1, "parameters_sha256": "b"}}},
    "stage-run-path": {"stages": {"x": {"run": "../a", "step": 1, "parameters_sha256": "b"}}},
    "data-text": {"data": "digits"},
    "shape-huge": {
        "data": {
            "name": "a",
            "fingerprint": "b",
            "spec": {
                "name": "a",
                "fields": {
                    "x": {"shape": [10**12], "dtype": "uint8", "kind": "image", "num_classes": 0}
                },
            },
        }
    },
    "dtype-word": {
        "data": {
            "name": "a",
            "fingerprint": "b",
            "spec": {
                "name": "a",
                "fields": {"x": {"shape": [1], "dtype": "load", "kind": "image", "num_classes": 0}},
            },
        }
    },
    "git-text": {"git": "abc"},
    "git-commit-number": {"git": {"commit": 5}},
    "model-list": {"model": []},
    "trial-path": {"trial": "../1"},
    "seeds-huge": {"seeds": list(range(100_001))},
    "huge-text": {"command": "x" * (1 << 19)},
    "deep": {"note": json.loads("[" * 60 + "]" * 60)},
}
RAW = {
    "huge-int": b'"position": ' + b"1" + b"0" * 400,
    "huger-int": b'"seed": ' + b"1" * 5000,
    "float-out-of-range": b'"note": 1e999',
    "nan": b'"note": NaN',
    "lone-surrogate": rb'"note": "\ud800"',
}


@pytest.mark.parametrize("case", [*WRONG, *RAW])
def test_a_wrong_value_leaves_that_run_out_by_name_and_no_other(pair, case):
    good, bad, storage = pair
    if case in WRONG:
        spoil(bad, **WRONG[case])
    else:
        text = (bad.path / "run.json").read_bytes().rstrip().removesuffix(b"}")
        (bad.path / "run.json").write_bytes(text + b", " + RAW[case] + b"}")
    ear = Ear()
    assert [run.run_id for run in list_runs(storage, say=ear)] == [good.run_id]
    assert ear.count(bad.run_id) == 1
    ear = Ear()
    assert find_waste(storage, say=ear) == []
    assert ear.count(bad.run_id) == 1
    ear = Ear()
    assert len(compare([good.path, bad.path], say=ear).runs) == 1
    assert ear.count(bad.run_id) == 1
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        RunFolder.open(bad.path)
    assert remove_run(bad.path) > 0, "what is damaged can be deleted"
    assert good.path.is_dir()


def test_a_missing_key_is_said_as_a_fault_of_the_file(pair):
    about = read_about(pair[0].path)
    with pytest.raises(UserError, match=r"run\.json is damaged: it lacks 'options'"):
        about["options"]
    assert about.get("options") is None


def test_what_a_run_wrote_is_read_back(tmp_path):
    strange = {
        "reason": "a\udcffb" * 3,
        "score": float("nan"),
        "command": "x" * (1 << 19),
        "summary": {"step": 3, "metrics": {"a": float("inf")}, "best": None},
    }
    folder = make(tmp_path, "run")
    assert folder.update(**strange)
    about = RunFolder.open(folder.path).read()
    assert about["reason"] == "a?b" * 3
    assert about["summary"]["metrics"] == {"a": "inf"}


# ---- names and numbers of journals, manifests and locks ------------------------------------------

LINES = [
    {"type": "scalars", "step": -1, "time_ms": 1, "values": {"a": 1.0}},
    {"type": "scalars", "step": True, "time_ms": 1, "values": {"a": 1.0}},
    {"type": "scalars", "step": 2**63, "time_ms": 1, "values": {"a": 1.0}},
    {"type": "scalars", "step": 1, "time_ms": 10**30, "values": {"a": 1.0}},
    {"type": "scalars", "step": 1, "time_ms": 1, "values": {"a": 10**400}},
    {"type": "scalars", "step": 1, "time_ms": 1, "values": {"a": True}},
    {"type": "scalars", "step": 1, "time_ms": 1, "values": {"a": [1]}},
    {"type": "tags", "time_ms": 1, "values": {"a": {"b": 1}}},
    *(
        {"type": "image", "step": 1, "time_ms": 1, "key": "a", "path": path, "sha256": "0"}
        for path in ("/etc/passwd", "media/../../x", "run.json", "media/a\0.png", "media/" * 400)
    ),
]


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_line_that_makes_no_sense_is_skipped(pair, number):
    good = pair[0]
    with open(good.path / "journal.jsonl", "a") as file:
        file.write(json.dumps(LINES[number]) + "\n")
        file.write('{"type":"scalars","step":2,"time_ms":2,"values":{"loss/total":0.25}}\n')
    assert history(good.path)["loss/total"][1].tolist() == [0.5, 0.25]
    assert media(good.path) == []
    assert [line["step"] for line in tail(good.path / "journal.jsonl")] == [1, 2]


def test_a_line_without_end_takes_no_memory_and_hides_nothing(pair):
    good = pair[0]
    with open(good.path / "journal.jsonl", "ab") as file:
        file.write(b"[" * (2 * MAX_LINE) + b"\n")
        file.write(b'{"type":"scalars","step":2,"time_ms":2,"values":{"loss/total":0.25}}\n')
    assert history(good.path)["loss/total"][1].tolist() == [0.5, 0.25]
    good._journal = None
    journal = good.journal()  # offsets are right: the next line goes to the end
    journal.scalars(3, {"loss/total": 0.125})
    journal.close()
    assert history(good.path)["loss/total"][1].tolist() == [0.5, 0.25, 0.125]


MANIFESTS = {
    "chunk-path": lambda m: m["chunks"]["replay-0"].update(file="../../../precious"),
    "chunk-absolute": lambda m: m["chunks"]["replay-0"].update(file="/etc/passwd"),
    "chunk-hidden": lambda m: m["chunks"]["replay-0"].update(file=".x"),
    "chunk-number": lambda m: m["chunks"]["replay-0"].update(file=5),
    "file-path": lambda m: m["files"].update({"../../run.json": m["files"]["state.json"]}),
    "file-missing": lambda m: m["files"].pop("state.json"),
    "step-other": lambda m: m.update(step=7),
    "step-negative": lambda m: m.update(step=-1),
    "step-huge": lambda m: m.update(step=10**400),
    "score-text": lambda m: m.update(score="good"),
    "metrics-list": lambda m: m.update(metrics=[1]),
    "size-negative": lambda m: m["files"]["state.json"].update(size=-1),
    "direction": lambda m: m.update(direction="up"),
    "version-text": lambda m: m.update(schema_version="1"),
    "no-chunks": lambda m: m.pop("chunks"),
    "a-list": None,
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_names_nothing_outside_and_stops_nobody(pair, case):
    good, bad, storage = pair
    for run in (good, bad):
        checkpointed(run, chunks=True)
    precious = storage.parent / "precious"
    precious.write_text("mine")
    path = bad.path / "checkpoints" / "step-000000000001"
    manifest = json.loads((path / "manifest.json").read_bytes())
    if MANIFESTS[case] is None:
        manifest = [1]
    else:
        MANIFESTS[case](manifest)
    reseal(path, manifest)
    waste = find_waste(storage)
    inside = [item.path.resolve().is_relative_to(storage.resolve()) for item in waste]
    assert waste
    assert all(inside)
    collect(waste)
    assert precious.read_text() == "mine"
    assert [c.step for c in good.checkpoints().complete()] == [3]
    assert bad.checkpoints().latest().step == 3
    with pytest.raises(CheckpointError):
        bad.checkpoints(read_only=True).load(1)


def test_gc_goes_on_where_a_manifest_names_chunks_that_are_gone(pair):
    good, bad, storage = pair
    for run in (good, bad):
        checkpointed(run, chunks=True)
    for file in (bad.path / "checkpoints" / "chunks").iterdir():
        file.unlink()
    (bad.path / "checkpoints" / "chunks").rmdir()
    collect(find_waste(storage))
    assert [c.step for c in good.checkpoints().complete()] == [3]


FOREIGN = {
    "pickle": pickle.dumps({"a": 1}),
    "text": b"hello",
    "empty": b"",
    "huge-header": struct.pack("<Q", 2**62) + b"{}",
    "header-no-object": struct.pack("<Q", 2) + b"[]",
    "unknown-type": b'{"w":{"dtype":"Q99","shape":[1],"data_offsets":[0,4]}}',
    "negative-shape": b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    "huge-shape": b'{"w":{"dtype":"F32","shape":[0,%d],"data_offsets":[0,0]}}' % 10**30,
    "float-shape": b'{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
    "beyond": b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
    "overlap": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "other-names": b'{"other":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
}
TREES = {
    "no-json": b"\x80\x04.",
    "a-list": b"[]",
    "deep": b"[" * 100_000,
    "unknown-name": b'{"a":{"$tensor":"nowhere"}}',
    "name-is-a-list": b'{"a":{"$tensor":[1]}}',
    "unknown-leaf": b'{"a":{"$object":"os.system"}}',
    "float-of-text": b'{"a":{"$float":"zz"}}',
    "tuple-of-number": b'{"a":{"$tuple":5}}',
    "unknown-chunk": b'{"a":{"$chunk":"nowhere"}}',
}


@pytest.mark.parametrize("case", [*FOREIGN, *TREES])
def test_a_foreign_file_in_a_checkpoint_that_agrees_with_itself_gives_way(pair, case):
    bad = pair[1]
    checkpointed(bad)
    path = bad.path / "checkpoints" / "step-000000000003"
    if case in TREES:
        replace(path, "state.json", TREES[case])
    else:
        content = FOREIGN[case]
        if content.startswith(b"{"):
            content = struct.pack("<Q", len(content)) + content + bytes(4)
        replace(path, "state.safetensors", content)
    assert bad.checkpoints(read_only=True).best().step == 2
    ear = Ear()
    store = RunFolder.open(bad.path, say=ear).checkpoints()
    assert store.latest().step == 2
    assert ear.count("step-000000000003 is not used") == 1
    assert store.load(2)["n"] == 2
    assert not path.exists(), "in quarantine"


@pytest.mark.parametrize(
    "entry",
    ["", "[]", "{}", '{"pid": true}', "[" * 9999]
    + [
        json.dumps(
            {"host": "h", "machine": "m", "token": "t", "pid": pid, "start_ticks": 1, "since_ms": s}
        )
        for pid, s in ((0, 1), (-1, 1), (10**30, 1), ("1", 1), (5, -1), (5, 10**40))
    ],
)
def test_a_lock_that_nobody_can_hold_keeps_nobody_out(pair, entry):
    bad = pair[1]
    (bad.path / "lock.json").write_text(entry)
    assert not holder(bad.path).alive
    with RunLock(bad.path):
        pass


def test_a_heartbeat_in_the_future_is_none(pair):
    bad = pair[1]
    entry = {"host": "h", "machine": "m", "token": "t", "pid": 5, "start_ticks": 1, "since_ms": 1}
    (bad.path / "lock.json").write_text(json.dumps(entry))
    assert holder(bad.path).alive
    os.utime(bad.path / "lock.json", (4e9, 4e9))
    assert not holder(bad.path).alive


def test_names_and_paths():
    assert is_bare("vae-20260101-abc.1")
    assert not any(
        map(is_bare, ["", ".", "..", ".x", "a/b", "a\\b", "a\0b", "a\nb", "x" * 256, 5, None])
    )
    assert is_relative("media/a b/10.png")
    assert not any(map(is_relative, ["", "/a", "../a", "a/../b", "a\0b", "x" * 2000, 5, None]))
    with pytest.raises(ValueError, match=r"a\.b\[1\]"):
        parse_json('{"a": {"b": [0, 1e999]}}')


# ---- links, pipes, sockets -----------------------------------------------------------------------


def lay(kind, place, outside):
    """Put something that is no plain file in the place of one (or of a folder)."""
    if place.is_dir() and not place.is_symlink():
        os.rename(place, place.with_name(f"{place.name}.before"))
    place.unlink(missing_ok=True)
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "dangling":
        place.symlink_to(outside.with_name("not-there"))
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "hard":
        os.link(outside, place)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(place.parent)
            try:
                made.bind(place.name)
            finally:
                os.chdir(here)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket", "folder"])
@pytest.mark.parametrize(
    "name", ["run.json", "config.yaml", "journal.jsonl", "log.txt", "lock.json", ".lock.guard"]
)
def test_what_is_no_plain_file_is_neither_read_nor_written(pair, kind, name):
    good, bad, storage = pair
    outside = storage.parent / "outside"
    outside.write_text("mine")
    before = os.lstat(outside).st_mtime_ns
    lay(kind, bad.path / name, outside)
    ids = {run.run_id for run in list_runs(storage)}
    assert good.run_id in ids
    assert (bad.run_id in ids) == (name != "run.json")
    with pytest.raises(UserError):
        with RunFolder(bad.path).lock():
            pass
    RunFolder(bad.path).log("a line")
    if name == "config.yaml":
        with pytest.raises(UserError, match=r"config\.yaml"):
            _ = RunFolder.open(bad.path).config_text
    ear = Ear()
    collect(find_waste(storage, say=ear), say=ear)
    remove_run(bad.path)
    assert not bad.path.exists()
    assert (outside.read_text(), os.lstat(outside).st_mtime_ns) == ("mine", before)
    assert not outside.with_name("not-there").exists()


@pytest.mark.parametrize("name", ["journal.jsonl", "log.txt"])
def test_a_file_with_a_second_name_is_not_appended_to(pair, name):
    bad, outside = pair[1], pair[2].parent / "outside"
    outside.write_text("mine")
    lay("hard", bad.path / name, outside)
    with pytest.raises(UserError, match="hard link"):
        bad.lock()
    bad.log("a line")
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("place", ["media", "media/pictures", "checkpoints", "checkpoints/chunks"])
def test_a_linked_folder_inside_a_run_is_not_entered(pair, place):
    good, bad, storage = pair
    for run in (good, bad):
        checkpointed(run, chunks=True)
    outside = storage.parent / "outside"
    (outside / "quarantine").mkdir(parents=True)
    for name in ("step-000000000001", ".saving-1-1", "chunks"):
        (outside / name).mkdir()
        (outside / name / "precious").write_text("mine")
    lay("link", bad.path / place, outside)
    with pytest.raises(UserError, match="is a link"):
        bad.lock()
    ear = Ear()
    collect(find_waste(storage, say=ear), say=ear)
    assert [c.step for c in good.checkpoints().complete()] == [3]
    target = storage.parent / "copy"
    export_run(bad.path, target, "folder", checkpoints="all", say=ear)
    assert not [p for p in target.rglob("*") if p.name == "precious"]
    assert ear.count(place) > 0
    remove_run(bad.path)
    assert len(list(outside.rglob("precious"))) == 3


def test_a_linked_run_folder_is_read_but_not_tidied_or_deleted(pair):
    good, bad, storage = pair
    checkpointed(bad)
    elsewhere = storage.parent / "elsewhere"
    os.rename(bad.path, elsewhere)
    (storage / bad.run_id).symlink_to(elsewhere)
    ear = Ear()
    assert {run.run_id for run in list_runs(storage)} == {good.run_id, bad.run_id}
    assert find_waste(storage, say=ear) == []
    assert ear.count(bad.run_id) == 1
    with pytest.raises(UserError, match="is a link to"):
        remove_run(storage / bad.run_id)
    assert len(RunFolder.open(elsewhere).checkpoints().complete()) == 3


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_an_export_holds_nothing_from_outside(pair, form):
    good, storage = pair[0], pair[2]
    import numpy as np

    journal = good.journal()
    journal.image(2, "pictures/samples", np.zeros((2, 2), np.uint8))
    journal.close()
    outside = storage.parent / "secret"
    outside.write_text("root:x:0")
    linked = good.path / "media" / "stolen.png"
    linked.symlink_to(outside)
    (good.path / "media" / "deep").symlink_to(storage.parent)
    os.mkfifo(good.path / "media" / "pipe.png")
    os.link(outside, good.path / "media" / "hard.png")
    (good.path / "git.diff").symlink_to(outside)
    (good.path / "notes.txt").write_text("the user's own")
    ear = Ear()
    target = storage.parent / ("out.zip" if form == "zip" else "out")
    export_run(good.path, target, form, say=ear)
    if form == "zip":
        with zipfile.ZipFile(target) as archive:
            held = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    else:
        files = [p for p in target.rglob("*") if p.is_file()]
        held = {str(p.relative_to(target)): p.read_bytes() for p in files}
    assert not any(b"root:x:0" in content for content in held.values())
    assert held["media/pictures/samples/2.png"].startswith(b"\x89PNG")
    assert held["notes.txt"] == b"the user's own"
    for name in ("stolen.png", "deep", "pipe.png", "hard.png", "git.diff"):
        assert ear.count(name) == 1, name


def test_a_temporary_name_that_is_a_link_is_not_written_through(pair):
    good, outside = pair[0], pair[2].parent / "outside"
    outside.write_text("mine")
    (good.path / f".run.json.{os.getpid()}.tmp").symlink_to(outside)
    assert good.update(note="x")
    assert outside.read_text() == "mine"
    assert RunFolder.open(good.path).read()["note"] == "x"


def test_a_file_is_opened_through_no_link_on_the_way(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_text("x")
    assert read_inside(tmp_path, "a/b/f") == b"x"
    (tmp_path / "l").symlink_to(tmp_path / "a")
    for name in ("l/b/f", "../x", "/etc/passwd", "a/b", "."):
        with pytest.raises(OSError, match=r".+"):
            os.close(open_inside(tmp_path, name))
    with pytest.raises(OSError, match="at most 0"):
        read_inside(tmp_path, "a/b/f", limit=0)
