"""Whether the Ray that this process is connected to still lives.

Ray's own clients try a dead head for a minute and then end the process, or raise whatever call was
under way. Two things tell sooner: the port of the head's GCS, and the raylet's process here.
"""

import math
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress

from rayloom.core.errors import RayloomError
from rayloom.distributed.place import processes_with
from rayloom.distributed.waiting import tables
from rayloom.records.lock import start_ticks

GRACE_S = 10.0  # how long a head may be silent: a hiccup of the network
EVERY_S = 1.0


class ClusterLostError(RayloomError):
    """The Ray that a run is on has died under it."""


class Pulse:
    """Feels it once a second.

    Args:
        address: `host:port` of the GCS; "" where there is none to ask.
        raylet: Process id of the raylet of this node; 0 where it is not known.
        local: Whether this process started that Ray.
        grace_s: Seconds that the head may be silent; None: ten, one where it is ours.
        clock: Seconds.
    """

    def __init__(
        self,
        address: str,
        raylet: int = 0,
        *,
        local: bool = False,
        grace_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address, self.raylet, self.local = address, raylet, local
        self._raylet_born = start_ticks(raylet) if raylet else 0
        self.grace_s = (1.0 if local else GRACE_S) if grace_s is None else grace_s
        self.clock = clock
        self._silent_since: float | None = None
        self._last = -math.inf

    @classmethod
    def of_this_process(cls, *, local: bool = False) -> "Pulse":
        """Of the Ray that this process is connected to."""
        import ray

        node = ray._private.worker.global_worker.node
        path = str(getattr(node, "raylet_socket_name", "") or "") if node else ""
        return cls(ray.get_runtime_context().gcs_address, listener_of(path), local=local)

    def check(self) -> None:
        """Raises once the Ray is gone.

        Raises:
            ClusterLostError: The raylet of this node is gone, or the head was silent too long.
        """
        now = self.clock()
        if now - self._last < EVERY_S:
            return
        self._last = now
        if self._raylet_is_gone():
            raise ClusterLostError(self._text(head=self._head_is_silent()))
        if not self._head_is_silent():
            self._silent_since = None
            return
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since >= self.grace_s:
            raise ClusterLostError(self._text(head=True))

    def is_lost(self) -> bool:
        """Whether it looks dead at this moment; nothing is forgiven."""
        return self._raylet_is_gone() or self._head_is_silent()

    def _raylet_is_gone(self) -> bool:
        return self._raylet_born > 0 and start_ticks(self.raylet) != self._raylet_born

    def _head_is_silent(self) -> bool:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            return False
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
        except OSError:
            return True
        return False

    def _text(self, *, head: bool) -> str:
        if self.local:
            what = "the local Ray of this run died (killed, or out of memory)"
        elif head:
            what = f"the head of the cluster at {self.address} died or cannot be reached any more"
        else:
            what = (
                f"the Ray of this node died (its raylet); the head at {self.address} still answers"
            )
        return f"{what}. Nothing before the newest checkpoint is lost"

    def explain(self, error: BaseException) -> ClusterLostError | None:
        """What an error of Ray's is if the Ray is gone; None if it lives."""
        for tries_left in (2, 1, 0):  # a killed raylet's socket may take a moment to close
            self._last, self._silent_since = -math.inf, -math.inf
            try:
                self.check()
            except ClusterLostError as lost:
                lost.__cause__ = error
                return lost
            if tries_left:
                time.sleep(0.3)
        return None


def listener_of(path: str) -> int:
    """Process id of who listens on a Unix socket; 0 where the system does not tell (not Linux)."""
    if not path or not hasattr(socket, "SO_PEERCRED"):
        return 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
            who = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
    return int(struct.unpack("3i", who)[0])


def end_own_job(raylet: int) -> None:
    """Kill this job's processes on this node: what waits for one of them hears of it at once.

    After a head has died Ray itself takes a minute over it, and then ends the driver too.
    """
    import ray

    if not raylet:
        return
    job = ray.get_runtime_context().get_job_id()
    for pid in processes_with({f"RAY_RAYLET_PID={raylet}", f"RAY_JOB_ID={job}"}):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def is_worker() -> bool:
    """Whether this process is itself one of a Ray's workers: then its job is not its own."""
    from ray._private import worker

    return bool(worker.global_worker.mode == worker.WORKER_MODE)


def own_actors() -> set[bytes]:
    """Ids of the actors that this process made and that are not dead."""
    from ray._private.worker import global_worker
    from ray.core.generated import gcs_pb2 as pb

    return {
        row.actor_id
        for row in tables().actors
        if row.state != pb.ActorTableData.ActorState.DEAD
        and row.owner_address.worker_id == global_worker.worker_id
    }


def end_own_actors(spared: Set[bytes] = frozenset()) -> None:
    """Kill the actors that this process made, and with them theirs; those `spared` stay."""
    import ray
    from ray._private.worker import global_worker

    for actor in own_actors() - spared:
        global_worker.core_worker.kill_actor(ray.ActorID(actor), True)


def end_orphaned_groups() -> None:
    """Free the room of this job's placement groups whose maker, an actor, is dead.

    Ray keeps them for as long as the job lives, which may be a notebook that goes on.
    """
    import ray
    from ray.core.generated import gcs_pb2 as pb
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    own = ray.get_runtime_context().get_job_id()
    for row in tables().groups:
        removed = row.state == pb.PlacementGroupTableData.PlacementGroupState.REMOVED
        orphaned = row.creator_actor_dead and row.creator_actor_id.strip(b"\xff")  # not a driver's
        if row.creator_job_id.hex() == own and orphaned and not removed:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(row.placement_group_id)))


@contextmanager
def explained(pulse: Pulse) -> Iterator[None]:
    """An error of Ray's in this block is a lost cluster's, if it is lost."""
    import ray

    try:
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        lost = pulse.explain(error)
        if lost is not None:
            raise lost from error
        raise
