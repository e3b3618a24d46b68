"""Sets larger than memory: peak resident set, under limits that the kernel enforces."""

import json
import os
import shutil
import subprocess
import sys

import memory_limit
import numpy as np
import pytest

from rayloom.core.errors import UserError
from rayloom.data.store.residency import (
    _cgroup_limits,
    available_memory,
    memory_budget,
    parse_bytes,
)
from rayloom_pipelines.benchmarks.large import train_on, write_noise

MIB = 1 << 20
LIMIT = """
import resource, sys
if limit := int(sys.argv[3]):
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
WRITE = """
import sys
from pathlib import Path
from rayloom_pipelines.benchmarks.large import peak_rss, write_noise
before = peak_rss()
write_noise(Path(sys.argv[1]), int(sys.argv[2]))
print(before, peak_rss())
"""
TRAIN = """
import json
from pathlib import Path
import torch
from rayloom_pipelines.benchmarks.large import peak_rss, train_on
torch.set_num_threads(1)
torch.nn.Linear(4096, 4)(torch.zeros(256, 4096)).sum().backward()  # what torch itself takes
before = peak_rss()
print(json.dumps({"before": before, **train_on(Path(sys.argv[1]), grad_steps=int(sys.argv[2]))}))
"""


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(folder, size, steps, *, limit=0, **environment):
    """Write a set in one process, verify it and train on it in another.

    The limit is on the address space of the second: Python, torch, threads and data together.
    """
    before, after = (int(v) for v in run(WRITE, folder, size, **environment).split())
    told = json.loads(run(LIMIT + TRAIN, folder, steps, limit, **environment))
    told["writing"] = after - before
    print(
        f"\n{told['bytes'] / MIB:.0f} MiB set, limit {limit / MIB:.0f} MiB: peak resident set "
        f"{told['peak_rss_bytes'] / MIB:.0f} MiB ({told['before'] / MIB:.0f} before the data); "
        f"writing took {told['writing'] / MIB:.0f} MiB; {told['seen']} of {told['examples']} "
        f"examples, {told['examples_per_s']:.0f}/s, verified in {told['open_s']:.1f} s, "
        f"loss {told['loss_first']:.2f} to {told['loss_last']:.2f}"
    )
    return told


@pytest.fixture
def big(tmp_path):
    """A folder for a large set, emptied at once: pytest would keep it for three sessions."""
    yield tmp_path / "noise"
    shutil.rmtree(tmp_path / "noise", ignore_errors=True)


def test_a_set_larger_than_its_allowance(big):
    """512 MiB in 200 MiB, and in an address space of 1.25 GiB, most of which torch takes."""
    steps = 512 * MIB // 4096 // 256
    told = measure(big, 512 * MIB, steps, limit=1280 * MIB)
    assert told["streamed"]
    assert told["seen"] == told["examples"] == 512 * MIB // 4096
    assert told["peak_rss_bytes"] - told["before"] < 200 * MIB
    assert told["writing"] < 200 * MIB
    assert told["loss_last"] < 0.7 * told["loss_first"]


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_four_gib_within_one_and_a_half(big):
    """One epoch; the whole process, torch included, in 1.5 GiB of address space."""
    size = 4096 * MIB
    told = measure(big, size, size // 4096 // 256, limit=1536 * MIB)
    assert told["streamed"]
    assert told["seen"] == size // 4096
    assert told["peak_rss_bytes"] < 1536 * MIB
    assert told["writing"] < 256 * MIB


def write_npy(path, size):
    """A `.npy` of random 64x64 pictures, one quarter of each black, in bounded memory."""
    rng, block = np.random.default_rng(0), 2048
    header = {"descr": "|u1", "fortran_order": False, "shape": (size // 4096, 64, 64)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, size // 4096, block):
            count = min(block, size // 4096 - start)
            image = rng.integers(0, 256, (count, 4, 16, 64), np.uint8)
            image[np.arange(count), rng.integers(0, 4, count)] = 0
            file.write(image.tobytes())


CONFIG = """
model:
  name: vae
  latent_dim: 4
  network: mlp
  widths: [32]
  likelihood: {name: bernoulli, binarise: threshold}
data: {name: noise, batch_size: 256, eval_batch_size: 256}
optimizer: {name: adam, lr: 1e-3}
train: {epochs: 1, clip_norm: 100, ema: {decay: 0.99}}
evaluation: {every: 1}
"""


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_the_command_line_trains_on_four_gib_within_one_and_a_half(big):
    """`data import` of a 4 GiB array, then `train` with Adam for an epoch, each in 1.5 GiB."""
    size, limit = 4096 * MIB, 1536 * MIB
    big.mkdir()
    write_npy(big / "noise.npy", size)
    (big / "noise.yaml").write_text(CONFIG)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAYLOOM_", "MLFLOW_"))}
    env |= {"RAYLOOM_DATA_ROOT": str(big / "data"), "OMP_NUM_THREADS": "1"}

    def rayloom(*words):
        command = [sys.executable, "-m", "rayloom_pipelines.cli", *words]
        told = memory_limit.run_limited(command, limit, env=env, cwd=big, timeout=3000)
        print(
            f"\nrayloom {words[0]}: limit {limit / MIB:.0f} MiB by {told.limited_by}, "
            f"peak resident set {told.peak_rss / MIB:.0f} MiB"
        )
        assert told.returncode == 0, told.output
        assert 0 < told.peak_rss < limit
        return told.output

    rayloom("data", "import", "noise.npy", "noise", "--test-fraction", "0.01")
    (big / "noise.npy").unlink()
    rayloom("train", "noise.yaml", "--json")
    [run] = (big / "runs").iterdir()
    about = json.loads((run / "run.json").read_text())
    assert about["status"] == "finished"
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    points = [line["values"] for line in lines if line["type"] == "scalars"]
    losses = [point["loss/total"] for point in points if "loss/total" in point]
    rows = size // 4096 - round(0.01 * (size // 4096))
    assert about["progress"] == {"grad_step": -(-rows // 256), "epoch": 1, "batch": -(-rows // 256)}
    assert losses[-1] < losses[0] - 20


@pytest.mark.parametrize(("budget", "streamed"), [("64M", False), ("1M", True)])
def test_a_small_set_is_mapped(tmp_path, monkeypatch, budget, streamed):
    monkeypatch.setenv("RAYLOOM_DATA_BUDGET", budget)
    write_noise(tmp_path / "noise", 8 * MIB)
    told = train_on(tmp_path / "noise", grad_steps=4)
    assert told["streamed"] == streamed
    assert told["seen"] == 1024


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1500", 1500), ("512M", 512 * MIB), ("1.5GiB", 1536 * MIB), (" 2 kb ", 2048)],
)
def test_sizes_are_read(text, size, monkeypatch):
    assert parse_bytes(text) == size
    monkeypatch.setenv("RAYLOOM_DATA_BUDGET", text)
    assert memory_budget() == (size if text.strip() else available_memory() // 4)
    assert memory_budget(7) == 7


@pytest.mark.parametrize("text", ["much", "-1", "1X", "1e9"])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="no size"):
        parse_bytes(text)


def test_control_groups_are_obeyed(tmp_path):
    """v2 and v1 layouts, limits of enclosing groups included, "no limit" passed over."""
    process, mounts = tmp_path / "proc", tmp_path / "cgroup"
    process.mkdir()
    (mounts / "a" / "b").mkdir(parents=True)
    (process / "cgroup").write_text("0::/a/b\n")
    (mounts / "a" / "memory.max").write_text("1000\n")
    (mounts / "a" / "b" / "memory.max").write_text("max\n")
    assert _cgroup_limits(process, mounts) == [1000]
    (mounts / "memory" / "job").mkdir(parents=True)
    (process / "cgroup").write_text("4:cpu,memory:/job\n2:cpu:/x\n")
    (mounts / "memory" / "job" / "memory.limit_in_bytes").write_text("777\n")
    (mounts / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert _cgroup_limits(process, mounts) == [777]
    assert _cgroup_limits(tmp_path / "none", mounts) == []
