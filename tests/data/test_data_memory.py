"""Sets larger than memory: peak resident set, under limits that the kernel enforces."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from rayloom.core.errors import UserError
from rayloom.data.residency import (
    _cgroup_limits,
    available_memory,
    memory_budget,
    parse_bytes,
)

MIB = 1 << 20
SCRIPT = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from rayloom.data.large import peak_rss, train_on, write_noise
torch.set_num_threads(1)
size, steps, room, limit = (int(v) for v in sys.argv[2:])
folder = Path(sys.argv[1])
torch.nn.Linear(4096, 4)(torch.zeros(256, 4096)).sum().backward()  # what torch itself takes
before = peak_rss()
if not folder.exists():
    write_noise(folder, size)
written = peak_rss()
if room:
    limit = psutil.Process().memory_info().vms + room
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
told = train_on(folder, grad_steps=steps)
print(json.dumps({**told, "before": before, "written": written}))
"""


def measure(folder, size, steps, *, room=0, limit=0, **environment):
    """Write, verify and train in a process; `room` or `limit`: bytes of address space."""
    numbers = [str(value) for value in (size, steps, room, limit)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *numbers],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(
        f"{told['bytes'] / MIB:.0f} MiB set: peak resident set {told['peak_rss_bytes'] / MIB:.0f} "
        f"MiB ({told['before'] / MIB:.0f} before the data, {told['written'] / MIB:.0f} after "
        f"writing), {told['seen']} of {told['examples']} examples, "
        f"{told['examples_per_s']:.0f} examples/s, loss {told['loss_first']:.2f} to "
        f"{told['loss_last']:.2f}"
    )
    return told


@pytest.fixture
def big(tmp_path):
    """A folder for a large set, emptied at once: pytest would keep it for three sessions."""
    yield tmp_path / "noise"
    shutil.rmtree(tmp_path / "noise", ignore_errors=True)


def test_a_set_larger_than_its_allowance(big):
    """512 MiB are written in 200 MiB, then verified and trained on in as much address space."""
    steps = 512 * MIB // 4096 // 256
    told = measure(big, 512 * MIB, steps, room=200 * MIB)
    assert told["streamed"]
    assert told["seen"] == told["examples"] == 512 * MIB // 4096
    assert told["peak_rss_bytes"] - told["before"] < 200 * MIB
    assert told["loss_last"] < 0.7 * told["loss_first"]


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_four_gib_within_one_and_a_half(big):
    """The whole process, torch included, in 1.5 GiB of address space; one epoch."""
    size = 4096 * MIB
    steps = size // 4096 // 256
    told = measure(big, size, steps, limit=1536 * MIB)
    assert told["streamed"]
    assert told["seen"] == size // 4096
    assert told["peak_rss_bytes"] < 1536 * MIB


def test_a_small_set_is_mapped(tmp_path):
    told = measure(tmp_path / "noise", 8 * MIB, 4, RAYLOOM_DATA_BUDGET="64M")
    assert not told["streamed"]
    told = measure(tmp_path / "noise", 8 * MIB, 4, RAYLOOM_DATA_BUDGET="1M")
    assert told["streamed"]


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
