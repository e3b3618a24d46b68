"""What a run waits for is said: after ten seconds, at growing intervals, and once it is over."""

import pytest

from rayloom.distributed import waiting
from rayloom.distributed.train import wait_until
from rayloom.distributed.waiting import Shortage, Waiting, holds

ONE = {"CPU": 1.0}
BUSY = Shortage([ONE, ONE], [{"CPU": 4.0}], {"CPU": 3.0}, [("job other-run", {"CPU": 3.0})])


def told(lacking, seconds):
    """(second, sentence) of what is said while `lacking(second)` gives the shortage."""
    now, said = [0.0], []
    watcher = Waiting(
        "worker", lambda text: said.append((now[0], text)), lambda: lacking(now[0]), lambda: now[0]
    )
    for second in range(seconds):
        now[0] = float(second)
        watcher.tick()
    return said


def test_waiting_is_said_after_ten_seconds_then_at_growing_intervals():
    said = told(lambda second: BUSY if second < 700 else None, 720)
    assert [second for second, _ in said] == [10, 30, 60, 120, 300, 700]
    assert said[0][1] == (
        "waiting for 2 workers of 1 CPU each; the cluster has 4 CPUs of which 3 are in use (3 CPUs"
        " by job other-run)"
    )
    assert said[-1][1] == "there is room now, after 700 s"


def test_nothing_is_said_of_a_short_wait():
    assert told(lambda second: BUSY if second < 9 else None, 30) == []


def test_what_never_will_fit_is_said_so():
    wide = Shortage([{"CPU": 3.0, "GPU": 1.0}], [{"CPU": 2.0}, {"CPU": 4.0}], {}, [])
    words = wide.text("worker")
    assert "1 worker of 3 CPUs and 1 GPU, which never will fit" in words
    assert "2 nodes have 4 CPUs; 2 CPUs" in words
    assert "Ctrl-C" in words


@pytest.mark.parametrize(
    ("nodes", "pieces", "fits"),
    [
        ([4], [1, 1, 1, 1], True),
        ([4], [1, 1, 1, 1, 1], False),
        ([2, 2], [3], False),  # enough in all, on no node
        ([3, 3], [2, 2, 2], False),
        ([2, 3], [1, 1, 3], True),
        ([1], [0.1] * 10, True),
        ([], [1], False),
        ([], [], True),
    ],
)
def test_pieces_must_lie_on_one_node_each(nodes, pieces, fits):
    assert holds([{"CPU": n} for n in nodes], [{"CPU": p} for p in pieces]) == fits


def test_a_shortage_is_read_from_rays_own_tables(ray_cluster):
    """A placement group and a lone actor that wait, on a Ray whose four CPUs are taken."""
    import ray

    class Hog:
        def here(self):
            return True

    assert waiting.shortage() is None
    hog = ray.remote(num_cpus=3)(Hog).remote()
    ray.get(hog.here.remote())
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    lone = ray.remote(num_cpus=2)(Hog).remote()
    try:
        found = []

        def seen():
            found[:] = [waiting.shortage()]
            return found[0] is not None and len(found[0].pieces) == 3

        assert wait_until(seen, timeout_s=20), found
        assert sorted(piece["CPU"] for piece in found[0].pieces) == [1.0, 1.0, 2.0]
        assert found[0].used["CPU"] == 3.0
        assert found[0].users == [("this run", {"CPU": 3.0})]
        assert list(found[0].nodes) == [{"CPU": 4.0}]
    finally:
        ray.util.remove_placement_group(group)
        ray.kill(lone)
        ray.kill(hog)
