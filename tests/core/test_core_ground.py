"""Noise, seeds, slices, the catalogue, the metric table, kill points, and what core imports."""

import ast
import itertools
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom import catalogue
from rayloom.core import errors, failpoints, metric_table
from rayloom.core.collective import Solo
from rayloom.core.noise import Noise
from rayloom.core.protocols import parameters_sha256, slice_of
from rayloom.core.seeding import numpy_stream, stream_seed

ROOT = Path(__file__).resolve().parents[2]
PINNED = (3785262058685774097, 8347811262222151985, [342520937, 165800271, 330552424])
DRAWS = {
    "normal": lambda noise: noise.normal("eps", 3, 2),
    "uniform": lambda noise: noise.uniform("u", 5),
    "integers": lambda noise: noise.integers("i", 1000, 2),
    "scalars": lambda noise: noise.normal("s"),
}


# --- noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("total", [7, 256, 257, 700])
def test_slices_of_all_ranks_are_the_global_draw(name, world, total):
    whole = DRAWS[name](Noise(3, step=11, total=total))
    slices = [slice_of(total, rank, world) for rank in range(world)]
    parts = [DRAWS[name](Noise(3, step=11, total=total, start=a, stop=b)) for a, b in slices]
    assert torch.equal(torch.cat(parts), whole)
    assert [len(part) for part in parts] == [b - a for a, b in slices]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 3, 16, 256]), st.data())
def test_accumulation_chunks_are_rows_of_the_slice(total, block, data):
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    cut = data.draw(st.integers(0, stop - start))
    noise = Noise(5, step=2, total=total, start=start, stop=stop, block=block)
    parts = [noise.rows(0, cut).normal("eps", 2), noise.rows(cut, len(noise)).normal("eps", 2)]
    assert torch.equal(torch.cat(parts), noise.normal("eps", 2))


def test_rows_of_one_block_are_those_of_a_single_draw():
    """Runs of old versions, which drew the whole batch at once, are repeated bit by bit."""
    noise = Noise(1, step=2, total=256)
    normal, uniform, integers = (
        noise.normal("a", 3),
        noise.uniform("a", 3),
        noise.integers("a", 9),
    )
    assert torch.equal(normal, torch.randn((256, 3), generator=noise._seeded("a")))
    assert torch.equal(uniform, torch.rand((256, 3), generator=noise._seeded("a")))
    assert torch.equal(integers, torch.randint(9, (256,), generator=noise._seeded("a")))


def test_blocks_differ_and_a_longer_batch_begins_like_one_of_whole_blocks():
    short, long = (Noise(1, total=n, block=16).normal("eps", 2) for n in (32, 100))
    assert torch.equal(long[:32], short)
    assert len({tuple(row) for row in long.tolist()}) == 100
    assert torch.equal(Noise(1, total=50, block=16).of_length(100).normal("eps", 2), long)


def test_only_blocks_that_the_slice_touches_are_drawn(monkeypatch):
    blocks, seeded = [], Noise._seeded
    monkeypatch.setattr(
        Noise, "_seeded", lambda self, name, block=0: blocks.append(block) or seeded(self, name)
    )
    Noise(0, total=4096, start=500, stop=564).normal("eps", 2)
    assert blocks == [1, 2]


def test_a_draw_has_no_state():
    noise = Noise(1, step=4, total=3)
    first = noise.normal("a", 2)
    noise.uniform("b", 9)
    assert torch.equal(noise.normal("a", 2), first)
    before = torch.random.get_rng_state()
    noise.integers("c", 4)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's own generator is untouched"


def test_seed_step_and_name_each_give_other_numbers():
    ways = itertools.product([0, 1, 2**62], [0, 1, 2, 1000], ["eps", "mask", "eps2"])
    draws = [Noise(s, step=t, total=4).normal(n, 4) for s, t, n in ways]
    firsts = {tuple(draw.flatten().tolist()) for draw in draws}
    assert len(firsts) == len(draws)


def test_shared_noise_is_the_same_on_every_row_and_worker():
    whole = Noise(3, step=1, total=8).shared("code", 4)
    part = Noise(3, step=1, total=8, start=2, stop=5).shared("code", 4)
    assert torch.equal(whole, part)
    assert whole.shape == (4,)


def test_an_empty_slice_has_no_rows():
    noise = Noise(0, total=1, start=1, stop=1)
    assert noise.normal("eps", 3).shape == (0, 3)
    assert len(noise) == 0


def test_rows_outside_the_batch_are_refused():
    for start, stop in ((-1, 2), (3, 2), (0, 9)):
        with pytest.raises(ValueError, match="do not lie in a batch of 8"):
            Noise(0, total=8, start=start, stop=stop)


def test_noise_has_the_distribution_it_says():
    noise = Noise(9, step=3, total=20_000, dtype=torch.float64)
    eps, u = noise.normal("eps"), noise.uniform("u")
    assert eps.dtype == torch.float64
    assert abs(eps.mean().item()) < 4 / 20_000**0.5
    assert abs(eps.var().item() - 1) < 0.05
    assert 0 <= u.min().item() <= u.max().item() < 1
    assert abs(u.mean().item() - 0.5) < 4 * (1 / 12 / 20_000) ** 0.5
    counts = noise.integers("i", 4).bincount(minlength=4)
    assert counts.min() > 4_700
    assert abs(torch.corrcoef(torch.stack([eps, u]))[0, 1].item()) < 0.03


# --- seeds, slices, hashes ----------------------------------------------------------------------


def test_streams_are_named_and_do_not_collide():
    names = [(), ("a",), ("b",), ("a", "b"), ("a/b",), ("a", 1), ("a", "1"), (1, "a"), ("ab",)]
    seeds = [stream_seed(seed, *name) for seed in (0, 1, 2) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(7, "replay") == stream_seed(7, "replay")


def test_seeds_do_not_change_between_versions():
    """Runs of old versions are repeated by their seed: these numbers are kept for ever."""
    assert stream_seed(0, "train") == PINNED[0]
    assert stream_seed(3, "group", 5) == PINNED[1]
    assert Noise(1, step=2, total=3).integers("x", 10**9).tolist() == PINNED[2]


def test_numpy_streams_repeat():
    one, two = numpy_stream(3, "replay").integers(0, 2**60, 9), numpy_stream(3, "replay")
    assert np.array_equal(one, two.integers(0, 2**60, 9))
    assert not np.array_equal(one, numpy_stream(4, "replay").integers(0, 2**60, 9))


@given(st.integers(0, 500), st.integers(1, 40))
def test_slices_cover_a_batch_without_overlap_and_evenly(total, world):
    slices = [slice_of(total, rank, world) for rank in range(world)]
    assert slices[0][0] == 0
    assert slices[-1][1] == total
    assert all(a[1] == b[0] for a, b in itertools.pairwise(slices))
    sizes = [b - a for a, b in slices]
    assert max(sizes) - min(sizes) <= 1


def test_the_hash_of_parameters_sees_names_types_shapes_and_bits():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.ones(2)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.nextafter(torch.ones(2), torch.tensor(2.0))},
    ]
    hashes = {parameters_sha256(tensors) for tensors in (base, *others)}
    assert len(hashes) == 6
    turned = {"b": torch.ones(2), "a": torch.zeros(3, 2).t()}
    assert parameters_sha256(turned) == parameters_sha256(base), "order and layout do not count"


def test_a_world_of_one_is_the_identity():
    tensor = torch.arange(3.0)
    solo = Solo()
    assert solo.all_reduce(tensor) is tensor
    assert solo.broadcast(tensor) is tensor
    assert solo.broadcast_json({"a": 1}) == {"a": 1}


# --- catalogue, errors, metric table ------------------------------------------------------------


def test_every_catalogue_target_exists_in_the_tree():
    """Checked without importing: the module's file has a class or function of that name."""
    for kind in catalogue.KINDS:
        for entry in catalogue.entries(kind).values():
            if entry.source != "rayloom":
                continue
            module, _, attribute = entry.target.partition(":")
            spec = find_spec(module)
            assert spec is not None, entry
            assert spec.origin is not None, entry
            body = ast.parse(Path(spec.origin).read_text()).body
            defined = {getattr(node, "name", "") for node in body}
            assert attribute in defined, f"{entry.name}: no {attribute} in {module}"
            assert entry.summary, entry


def test_an_unknown_name_gets_the_nearest_one_and_all():
    with pytest.raises(errors.UserError) as caught:
        catalogue.lookup("models", "beta-vea")
    assert "did you mean 'beta-vae'?" in str(caught.value)
    assert "vae" in str(caught.value)
    with pytest.raises(errors.UserError, match="Known: "):
        catalogue.lookup("datasets", "qqqqqqqq")


def test_a_taken_name_is_refused():
    with pytest.raises(errors.UserError, match="rayloom has that name already"):
        catalogue.register("models", "vae", object, source="plugin x")
    with pytest.raises(errors.UserError, match="is none of models"):
        catalogue.register("model", "x", object, source="plugin x")


def test_exit_codes():
    assert errors.RayloomError.exit_code == 1
    for kind in (errors.UserError, errors.ConfigError, errors.RunLockedError):
        assert kind.exit_code == 2
    assert errors.CheckpointError.exit_code == errors.NonFiniteError.exit_code == 1


def test_a_config_error_lists_its_problems():
    problem = errors.Problem("a.b", "is wrong", "x.yaml:3", "a.c")
    assert str(problem) == "x.yaml:3: a.b: is wrong (did you mean 'a.c'?)"
    text = str(errors.ConfigError([problem, errors.Problem("", "is empty", "y.yaml")]))
    assert text.splitlines()[0] == "2 problems in the config:"
    assert text.splitlines()[2] == "  y.yaml: is empty"


def test_the_metric_table_is_whole():
    for key, metric in metric_table.METRICS.items():
        area, _, name = key.partition("/")
        assert metric.key == key
        assert area
        assert name
        assert name == name.lower()
        assert metric.unit
        assert metric.meaning
        assert metric.direction in ("min", "max", "none")
        assert metric_table.direction(key) == metric.direction
    assert metric_table.direction("loss/anything") == "min"
    assert metric_table.direction("eval/unheard_of") == "none"


def test_what_may_differ_between_equal_runs_is_apart():
    for key in metric_table.METRICS:
        timed = key.startswith(("time/", "system/"))
        assert metric_table.is_deterministic(key) != timed
        assert timed or not key.endswith(("_per_s", "_s", "_bytes"))


# --- kill points --------------------------------------------------------------------------------

LOOP = """
import sys
from rayloom.core import failpoints
side = sys.argv[1] if len(sys.argv) > 1 else ""
if side:
    failpoints.set_side(side)
for i in range(5):
    print(i, flush=True)
    failpoints.hit("train.step")
    failpoints.hit("checkpoint.after")
print("done", flush=True)
"""


def run(armed, *words, process=""):
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAYLOOM_")}
    environ |= {"RAYLOOM_FAILPOINT": armed} if armed else {}
    environ |= {"RAYLOOM_FAILPOINT_PROCESS": process} if process else {}
    command = [sys.executable, "-c", LOOP, *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_an_armed_point_kills_at_its_count_and_no_other_point_does():
    dead = run("train.step:3")
    assert dead.returncode == -signal.SIGKILL
    assert dead.stdout.split() == ["0", "1", "2"]
    assert run("train.step").stdout.split() == ["0"]
    alive = run("tracking.batch_sent:1")
    assert (alive.returncode, alive.stdout.split()[-1]) == (0, "done")
    assert run("").stdout.split()[-1] == "done"


def test_a_point_can_be_kept_to_one_side_of_a_ray_run():
    assert run("train.step:1", "worker", process="driver").stdout.split()[-1] == "done"
    assert run("train.step:1", "worker", process="worker").returncode == -signal.SIGKILL
    assert run("train.step:1", process="driver").returncode == -signal.SIGKILL


def test_a_misspelt_point_is_not_passed_over():
    found = run("train.stop:1")
    assert found.returncode == 1
    assert "train.step" in found.stderr


def test_every_kill_point_is_in_the_code():
    """A label that no code reaches would make its fault test pass for nothing."""
    text = "\n".join(
        path.read_text()
        for folder in ("platform", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "failpoints.py"
    )
    missing = [name for name in failpoints.FAILPOINTS if f'hit("{name}")' not in text]
    assert missing == []


# --- imports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "light"),
    [
        ("rayloom.config.resolved", ("torch", "ray", "mlflow", "numpy", "gymnasium")),
        ("rayloom.catalogue.plugins", ("torch", "ray", "mlflow", "numpy", "pydantic")),
        ("rayloom.catalogue", ("torch", "ray", "mlflow", "numpy", "pydantic", "yaml")),
        ("rayloom.config.schema", ("torch", "ray", "mlflow", "numpy")),
        ("rayloom.core.errors", ("torch", "pydantic", "yaml")),
        ("rayloom.core.failpoints", ("torch", "pydantic", "yaml")),
        ("rayloom.core.metric_table", ("torch", "pydantic", "yaml")),
        ("rayloom.core.seeding", ("torch", "ray", "mlflow")),
        ("rayloom.core.protocols", ("ray", "mlflow", "gymnasium", "pandas")),
    ],
)
def test_core_imports_nothing_heavy(module, light):
    code = f"import sys, {module}; print(*[m for m in {light!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
