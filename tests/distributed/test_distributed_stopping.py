"""A stop before anybody takes a step ends the waiting at once; who takes steps is waited for."""

import os
import signal
import threading
import time

import pytest

from rayloom.core.interrupt import Terminated
from rayloom.distributed import supervision
from rayloom.distributed.mailbox import Line, Mailbox
from rayloom.distributed.place import end_workers, processes_of
from rayloom.distributed.pulse import Pulse
from rayloom.distributed.quiet import own_sigterm


class Sleeper:
    """An actor that a fit waits for, as Tune and Train wait for theirs."""

    def sleep(self):
        threading.Event().wait()

    def pid(self):
        return os.getpid()


@pytest.fixture
def fit(ray_cluster):
    """Blocks for ever, unless what it waits for is killed."""
    import ray

    sleeper = ray.remote(num_cpus=0)(Sleeper).options(max_concurrency=2).remote()
    ray.get(sleeper.pid.remote())
    return lambda: ray.get(sleeper.sleep.remote())


@pytest.fixture
def mailbox(ray_cluster):
    import ray

    return ray.remote(num_cpus=0)(Mailbox).remote()


def test_a_stop_while_processes_start_ends_all_at_once(ray_cluster, fit, mailbox):
    watch, began = supervision.Watch("worker", ray_cluster), time.monotonic()
    with pytest.raises(Terminated), supervision.closing(mailbox, watch.pulse):
        supervision.supervise(fit, mailbox, print, watch, should_stop=lambda: signal.SIGTERM)
    assert time.monotonic() - began < 8
    assert not [one for one in threading.enumerate() if one.name == "ray-train"]
    assert not watch.pulse.is_lost()  # the Ray itself lives: others may use it


def test_who_takes_steps_is_waited_for_until_it_rests(ray_cluster, fit, mailbox, monkeypatch):
    """A worker is at work from its first question on; its end leaves Ray a moment to hear of it."""
    import ray

    monkeypatch.setattr(supervision, "REST_S", 0.5)
    line = Line(mailbox, "0003")
    assert line.asked() == line.asked() == 0
    line.close()
    seen, asked = [], []
    watch = supervision.Watch("trial", ray_cluster)

    def also():
        seen.append(set(watch.working))
        if len(seen) == 12:
            mailbox.post.remote([{"_ray": "rests", "who": "0003"}], "trial", 0)

    def should_stop():
        asked.append(bool(watch.working))
        return signal.SIGINT if asked[-1] else 0

    with pytest.raises(KeyboardInterrupt), supervision.closing(mailbox, watch.pulse):
        supervision.supervise(fit, mailbox, print, watch, also=also, should_stop=should_stop)
    assert {"0003"} in seen
    assert len(seen) > 12
    assert seen[-1] == set()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(mailbox.flag.remote())


def test_rays_processes_are_a_group_of_their_own_and_its_workers_can_be_ended_alone(ray_cluster):
    """A signal to the command's group, as Ctrl-C is, must leave it a Ray to stop the workers by."""
    import ray

    sleeper = ray.remote(num_cpus=0)(Sleeper).remote()
    assert os.getpgid(ray.get(sleeper.pid.remote())) != os.getpgid(0)
    pulse = Pulse.of_this_process(local=True)
    assert os.getpgid(pulse.raylet) != os.getpgid(0)
    before = set(processes_of(ray_cluster.scratch))
    end_workers(ray_cluster.scratch)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(sleeper.pid.remote())
    time.sleep(0.5)
    assert not pulse.is_lost()
    assert pulse.raylet in before & set(processes_of(ray_cluster.scratch))


def test_rays_own_handler_of_sigterm_never_stands_in_ours():
    def ours(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with own_sigterm():
            from ray._private import utils

            utils.set_sigterm_handler(lambda number, frame: None)
            assert signal.getsignal(signal.SIGTERM) is ours
        utils.set_sigterm_handler(signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # Ray's again
    finally:
        signal.signal(signal.SIGTERM, before)
