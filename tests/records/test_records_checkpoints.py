"""Checkpoints' laws: bit for bit, verified or not used, and a kill costs at most the newest one."""

import json
import math
import os
import struct

import numpy as np
import pytest
import torch
from records_help import Ear, SmallDisk, run_forked

from rayloom.core.errors import CheckpointError, UserError
from rayloom.core.protocols import Chunk
from rayloom.records.checkpoints import Checkpoints
from rayloom.records.state_codec import read_arrays, write_arrays

A_RARE_NAN = struct.unpack(">d", bytes.fromhex("7ff8000000000007"))[0]


def chunk(number, size=1000):
    rng = np.random.default_rng(number)
    arrays = {"obs": rng.normal(size=(size, 4)).astype(np.float32), "done": rng.random(size) < 0.5}
    return Chunk(f"replay-{number:06d}", arrays)


def state(seed=0, chunks=()):
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(6, 4, generator=g)
    return {
        "model": {"w": base, "view": base.t()[1:3], "b": torch.randn(3, generator=g).bfloat16()},
        "half": torch.randn(5, generator=g).half(),
        "double": torch.randn(2, 0, 3, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "zero_d": torch.tensor(7, dtype=torch.int64),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "conj": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
        "array": np.arange(6, dtype=np.uint64).reshape(2, 3) + 2**63,
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "numpy_0d": np.array(2.5, dtype=np.float32),
        "numpy_number": np.uint8(200),
        "empty": {},
        "none": None,
        "big": 2**200 + 1,
        "negative": -(2**63) - 1,
        "floats": [0.1, -0.0, 1e-320, math.inf, -math.inf, A_RARE_NAN],
        "text": 'ünï\n"code" \u2028',
        "yes": True,
        "pair": (1, torch.ones(2), ("a", None)),
        "list": [{"x": torch.zeros(1)}, [], 3],
        "a/b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "replay": {"chunks": list(chunks), "cursor": 5},
    }


def assert_same(a, b, path=""):
    assert type(a) is type(b), f"{path}: {type(a)} is not {type(b)}"
    if isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert a.shape == b.shape, path
        flat = [t.resolve_conj().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        assert torch.equal(*flat), path
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype, path
        assert a.shape == b.shape, path
        assert a.tobytes() == b.tobytes(), path
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b), path
    elif isinstance(a, Chunk):
        assert a.key == b.key
        assert_same(dict(sorted(a.arrays.items())), dict(sorted(b.arrays.items())), path)
    else:
        assert a == b, path


def test_a_state_comes_back_in_every_bit(tmp_path):
    before = state(chunks=[chunk(0), chunk(1)])
    Checkpoints(tmp_path).save(10, before, metrics={"m": 1.5, "n": float("nan")}, score=2.0)
    fresh = Checkpoints(tmp_path)
    info = fresh.latest()
    assert info.step == 10
    assert info.score == 2.0
    assert info.metrics["m"] == 1.5
    assert math.isnan(info.metrics["n"])
    assert_same(before, fresh.load(10))


def test_the_files_are_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    info = Checkpoints(tmp_path).save(1, state(), metrics={})
    theirs = load_file(info.path / "state.safetensors")
    assert torch.equal(theirs["model/w"], state()["model"]["w"])
    assert theirs["model/b"].dtype == torch.bfloat16
    ours = write_arrays(tmp_path / "x", {"a": torch.ones(3), "b": np.arange(4)})
    assert ours == write_arrays(tmp_path / "y", {"b": np.arange(4), "a": torch.ones(3)})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_loaded_tensors_own_their_memory(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, {"a": torch.zeros(3), "b": torch.zeros(3)}, metrics={})
    loaded = store.load(1)
    loaded["a"] += 1
    assert loaded["b"].sum() == 0
    assert loaded["a"].data_ptr() % 64 == loaded["b"].data_ptr() % 64 == 0, "torch's alignment"
    assert store.load(1)["a"].sum() == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"x": {1: 2}},
        {"x": {"$y": 1}},
        {"x": {1, 2}},
        {"x": b"bytes"},
        {"x": np.array(["text"])},
        {"x": np.array([object()])},
        {"x": np.array([1 + 1j])},
        {"x": torch.eye(2).to_sparse()},
        {"x": len},
        {"x": [Chunk("k", {"a": np.zeros(1)}), Chunk("k", {"a": np.ones(1)})]},
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_path(tmp_path, bad):
    with pytest.raises(TypeError, match=r"state/x.*cannot be checkpointed"):
        Checkpoints(tmp_path).save(1, bad, metrics={})
    assert not list(tmp_path.iterdir())


FILES = ["state.safetensors", "state.json", "manifest.json", "COMPLETE", "chunk"]


def damage(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "longer":
        path.write_bytes(data + b"\0")
    else:
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "longer", "flipped"])
def test_damage_anywhere_is_found_and_the_one_before_is_used(tmp_path, name, how):
    store = Checkpoints(tmp_path)
    store.save(1, state(1, [chunk(0)]), metrics={})
    store.save(2, state(2, [chunk(0), chunk(1)]), metrics={})
    newest = tmp_path / "step-000000000002"
    target = newest / name
    if name == "chunk":
        entry = json.loads((newest / "manifest.json").read_text())["chunks"]["replay-000001"]
        target = tmp_path / "chunks" / entry["file"]
    damage(target, how)
    with pytest.raises(CheckpointError):
        Checkpoints(tmp_path).load(2)
    ear = Ear()
    fresh = Checkpoints(tmp_path, say=ear)
    assert fresh.latest().step == 1
    assert_same(state(1, [chunk(0)]), fresh.load(1))
    assert len(ear.heard) == 1
    assert "step-000000000002 is not used" in ear.heard[0]
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    quiet = Ear()
    assert Checkpoints(tmp_path, say=quiet).latest().step == 1
    assert not quiet.heard
    # The run goes on and writes that step again.
    fresh.save(2, state(2, [chunk(0), chunk(1)]), metrics={})
    assert_same(state(2, [chunk(0), chunk(1)]), Checkpoints(tmp_path).load(2))


def test_a_reader_moves_nothing(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, state(1), metrics={})
    store.save(2, state(2), metrics={})
    (tmp_path / "step-000000000002" / "COMPLETE").unlink()
    (tmp_path / ".saving-3-1").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest().step == 1
    assert reader.prune(1) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_nothing_there(tmp_path):
    store = Checkpoints(tmp_path / "none")
    assert store.latest() is None
    assert store.best() is None
    assert store.complete() == []
    assert store.prune(1) == []
    with pytest.raises(CheckpointError, match="no checkpoint"):
        store.load(3)


def test_a_newer_format_is_refused_not_quarantined(tmp_path):
    import hashlib

    info = Checkpoints(tmp_path).save(1, state(), metrics={})
    manifest = info.path / "manifest.json"
    text = manifest.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 99')
    manifest.write_bytes(text)
    (info.path / "COMPLETE").write_text(hashlib.sha256(text).hexdigest())
    with pytest.raises(UserError, match="newer rayloom"):
        Checkpoints(tmp_path).latest()
    assert info.path.exists()


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    store = Checkpoints(tmp_path)
    scores = {1: 0.5, 2: 0.9, 3: 0.9, 4: float("nan"), 5: 0.1, 6: None, 7: 0.2}
    for step, score in scores.items():
        store.save(step, {"x": step}, metrics={}, score=score)
    assert store.best().step == 2, "the earliest of equals"
    assert store.prune(keep_last=2, keep_best=2) == [1, 4, 5]
    assert [info.step for info in store.complete()] == [2, 3, 6, 7]
    assert store.prune(keep_last=1) == [3, 6]
    assert [info.step for info in store.complete()] == [2, 7], "the best always stays"
    assert store.load(store.best())["x"] == 2


def test_a_score_that_is_not_finite_is_never_the_best(tmp_path):
    store = Checkpoints(tmp_path)
    bad = [math.inf, -math.inf, math.nan, None]
    for direction in ("min", "max"):
        for step, score in enumerate([*bad, -5.0, *bad]):
            store.save(step, {}, metrics={}, score=score, direction=direction)
        assert store.best().step == 4
        assert store.surplus(keep_last=1, keep_best=3)[0][-1].step == 7
    assert store.prune(keep_last=1, keep_best=3) == [0, 1, 2, 3, 5, 6, 7]


def test_a_small_score_may_be_the_good_one(tmp_path):
    store = Checkpoints(tmp_path)
    for step, score in {1: 3.0, 2: 1.0, 3: 2.0}.items():
        store.save(step, {}, metrics={}, score=score, direction="min")
    assert store.best().step == 2


def test_prune_never_deletes_the_last_one_that_verifies(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        store.save(step, state(step), metrics={})
    for step in (2, 3):
        damage(tmp_path / f"step-{step:012d}" / "state.safetensors", "flipped")
    fresh = Checkpoints(tmp_path)
    fresh.prune(keep_last=1)
    assert fresh.latest().step == 1


def test_the_best_one_damaged_gives_way_to_the_next(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        store.save(step, {"x": torch.ones(9)}, metrics={}, score=float(-step))
    damage(tmp_path / "step-000000000001" / "state.safetensors", "truncated")
    assert Checkpoints(tmp_path).best().step == 2


def test_chunks_are_stored_once_and_collected(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, state(1, [chunk(0), chunk(1)]), metrics={})
    files = tmp_path / "chunks"
    first = {p.name: p.stat().st_mtime_ns for p in files.iterdir()}
    assert len(first) == 2
    store.save(2, state(2, [chunk(1), chunk(2)]), metrics={})
    second = {p.name: p.stat().st_mtime_ns for p in files.iterdir()}
    assert first.items() < second.items(), "a stored chunk is not written again"
    again = Checkpoints(tmp_path)
    assert_same(state(2, [chunk(1), chunk(2)]), again.load(2))
    again.save(3, state(3, [chunk(1), chunk(2)]), metrics={})
    assert {p.name: p.stat().st_mtime_ns for p in files.iterdir()} == second
    again.prune(keep_last=2)
    assert sorted(p.name[:13] for p in files.iterdir()) == ["replay-000001", "replay-000002"]
    assert_same(state(2, [chunk(1), chunk(2)]), Checkpoints(tmp_path).load(2))


def test_a_chunk_made_anew_with_other_bytes_does_not_spoil_an_old_checkpoint(tmp_path):
    """A resume from an earlier checkpoint in a world that is not deterministic."""
    Checkpoints(tmp_path).save(1, {"c": Chunk("k", {"a": np.zeros(4)})}, metrics={})
    Checkpoints(tmp_path).save(2, {"c": Chunk("k", {"a": np.ones(4)})}, metrics={})
    assert Checkpoints(tmp_path).load(1)["c"].arrays["a"].sum() == 0
    assert Checkpoints(tmp_path).load(2)["c"].arrays["a"].sum() == 4


def test_the_same_step_again_replaces(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, {"x": 1}, metrics={})
    store.save(1, {"x": 2}, metrics={})
    assert Checkpoints(tmp_path).load(1) == {"x": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000000001"]


def save_to_the_end(folder):
    """Steps 1 to 4, going on from what stands."""
    store = Checkpoints(folder)
    start = store.latest()
    for step in range(1 if start is None else start.step + 1, 5):
        chunks = [Chunk(f"c-{i}", {"a": np.full(100, i)}) for i in range(step)]
        made = {"x": torch.full((1000,), step), "chunks": chunks}
        store.save(step, made, metrics={}, score=1.0)
        store.prune(2, 0)
    assert store.latest().step == 4


POINTS = ["before", "during", "before_rename", "before_marker", "after"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_labelled_point_and_started_again(tmp_path, point):
    assert run_forked(save_to_the_end, tmp_path, failpoint=f"checkpoint.{point}:3") == -9
    standing = Checkpoints(tmp_path, read_only=True).latest().step
    assert standing == (3 if point == "after" else 2)
    assert run_forked(save_to_the_end, tmp_path) == 0
    unbroken = tmp_path / "unbroken"
    assert run_forked(save_to_the_end, unbroken) == 0
    assert_same(Checkpoints(unbroken).load(4), Checkpoints(tmp_path).load(4))
    left = {p.name for p in tmp_path.iterdir()} - {"unbroken", "quarantine"}
    assert left == {"chunks", "step-000000000001", "step-000000000003", "step-000000000004"}
    assert (tmp_path / "quarantine").exists() == (point == "before_marker")


def save_twice(folder):
    store = Checkpoints(folder)
    for x in (1, 2):
        store.save(1, {"x": x}, metrics={})


@pytest.mark.parametrize("point", ["before_rename", "before_marker", "after"])
def test_killed_while_replacing_a_step(tmp_path, point):
    """Whichever of the two it is afterwards, there is one that verifies."""
    assert run_forked(save_twice, tmp_path, failpoint=f"checkpoint.{point}:2") == -9
    store = Checkpoints(tmp_path)
    assert store.latest().step == 1
    assert store.load(1) == {"x": 2 if point == "after" else 1}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_full_disk_costs_a_checkpoint_not_the_run(tmp_path):
    ear = Ear()
    with SmallDisk(tmp_path / "disk", "512k") as disk:
        store = Checkpoints(disk.folder / "checkpoints", say=ear)
        assert store.save(1, state(1), metrics={}) is not None
        filler = disk.fill()
        assert store.save(2, {"x": torch.ones(50_000)}, metrics={}) is None
        assert store.save(3, state(3, [chunk(3)]), metrics={}) is None
        assert store.latest().step == 1
        assert not [p for p in store.folder.iterdir() if p.name.startswith(".")]
        filler.unlink()
        assert store.save(4, state(4, [chunk(3)]), metrics={}) is not None
        assert Checkpoints(store.folder).latest().step == 4
        disk.read_only(True)
        assert store.save(5, state(5), metrics={}) is None
        reader = Checkpoints(store.folder, read_only=True)
        assert_same(state(4, [chunk(3)]), reader.load(4))
        disk.read_only(False)
    assert ear.count("not written") == 3
    assert ear.count("can be written again") == 1


def test_the_journal_is_made_durable_first(tmp_path):
    order = []
    store = Checkpoints(tmp_path, before_save=lambda: order.append(sorted(os.listdir(tmp_path))))
    store.save(1, {}, metrics={})
    assert order == [[]]


def test_a_foreign_file_is_not_read_as_arrays(tmp_path):
    headers = [struct.pack("<Q", len(h)) + h for h in (b"[]", b'{"a":{}}', b'{"a":3}')]
    for content in (b"", b"short", b"\xff" * 64, *headers):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            read_arrays(tmp_path / "x")
