"""What a run waits for on a busy cluster, in words.

Ray itself waits in silence, for ever. What is pending and what is taken is read from the GCS's
tables of placement groups, actors and jobs: no dashboard is needed.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rayloom.core.secrets import mask
from rayloom.core.text import one_line

Say = Callable[[str], None]
Amount = Mapping[str, float]  # of "CPU" and "GPU"

AFTER_S = (10.0, 30.0, 60.0, 120.0, 300.0)  # then every ten minutes
LOOK_S = 2.0
_PENDING_ACTOR = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")


@dataclass(frozen=True)
class Shortage:
    """What waits, and what there is.

    Attributes:
        pieces: What each waiting piece needs.
        nodes: What each node of the cluster has in all.
        used: What is in use, of all nodes together.
        users: (who, what of it) of the other jobs, as far as it can be told.
    """

    pieces: Sequence[Amount]
    nodes: Sequence[Amount]
    used: Amount
    users: Sequence[tuple[str, Amount]]

    def text(self, part: str) -> str:
        """One sentence; `part` says what a piece is, such as `worker`."""
        counts = Counter(tuple(sorted(piece.items())) for piece in self.pieces)
        wanted = " and ".join(
            f"{count} {part}{'s' * (count > 1)} of {amount_text(dict(piece))}"
            f"{' each' * (count > 1)}"
            for piece, count in counts.items()
        )
        total = {name: sum(node.get(name, 0.0) for node in self.nodes) for name in ("CPU", "GPU")}
        if not holds(self.nodes, self.pieces):
            return (
                f"waiting for {wanted}, which never will fit: {nodes_text(self.nodes)}. Add nodes,"
                " or stop (Ctrl-C) and resume with smaller resources.*"
            )
        named = [f"{amount_text(amount)} by {who}" for who, amount in self.users]
        used = {name: self.used.get(name, 0.0) for name in total if total[name]}
        by = f" ({', '.join(named)})" if named else ""
        have = ", ".join(
            f"{_number(total[name])} {name}s of which {_number(used[name])} are in use"
            for name in used
        )
        return f"waiting for {wanted}; the cluster has {have}{by}"


def holds(nodes: Sequence[Amount], pieces: Sequence[Amount]) -> bool:
    """Whether the pieces fit onto the nodes: exact for equal pieces, largest first for others."""
    room = [dict(node) for node in nodes]
    for piece in sorted(pieces, key=lambda p: (-p.get("GPU", 0.0), -p.get("CPU", 0.0))):
        for node in room:
            if all(node.get(name, 0.0) >= value - 1e-6 for name, value in piece.items()):
                for name, value in piece.items():
                    node[name] = node.get(name, 0.0) - value
                break
        else:
            return False
    return True


def amount_text(amount: Amount) -> str:
    """`2 CPUs and 1 GPU`."""
    parts = [
        f"{_number(value)} {name}{'s' * (value != 1)}"
        for name, value in sorted(amount.items())
        if value
    ]
    return " and ".join(parts) or "nothing"


def nodes_text(nodes: Sequence[Amount]) -> str:
    """`the cluster's 2 nodes have 4 CPUs; 2 CPUs and 1 GPU`."""
    listed = sorted((amount_text(node) for node in nodes), reverse=True)
    if len(listed) == 1:
        return f"the cluster's one node has {listed[0]}"
    shown = "; ".join(listed[:8]) + ("; ..." if len(listed) > 8 else "")
    return f"the cluster's {len(listed)} nodes have {shown}" if listed else "it has no nodes"


def _number(value: float) -> str:
    return f"{round(value, 3):g}"


class Waiting:
    """Says what is waited for: after ten seconds, then at growing intervals.

    Args:
        part: What a waiting piece is called, such as `worker` or `trial`.
        say: Told a sentence.
        look: Gives the shortage, or None.
        clock: Seconds.
    """

    def __init__(
        self,
        part: str,
        say: Say,
        look: Callable[[], Shortage | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part, self.say, self.look, self.clock = part, say, look or shortage, clock
        self._since: float | None = None
        self._next, self._last_look = 0, -math.inf

    @property
    def lacking(self) -> bool:
        """Whether something was waited for at the last look."""
        return self._since is not None

    def tick(self) -> None:
        """Call often; looks every two seconds."""
        now = self.clock()
        if now - self._last_look < LOOK_S:
            return
        self._last_look = now
        lacking = self.look()
        if lacking is None:
            self.over()
            return
        self._since = now if self._since is None else self._since
        if now - self._since >= self._due():
            self._next += 1
            self.say(lacking.text(self.part))

    def over(self) -> None:
        """Nothing is waited for."""
        if self._next and self._since is not None:
            self.say(f"there is room now, after {self.clock() - self._since:.0f} s")
        self._since, self._next = None, 0

    def _due(self) -> float:
        late = self._next - len(AFTER_S)
        return AFTER_S[self._next] if late < 0 else AFTER_S[-1] + 600.0 * (late + 1)


@contextmanager
def watched(waiting: Waiting) -> Iterator[None]:
    """Tick from a thread for the length of the block, which itself is blocked."""
    done = threading.Event()

    def body() -> None:
        while not done.wait(0.5):
            waiting.tick()

    thread = threading.Thread(target=body, name="rayloom-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


# ------------------------------------------------------------------------------------ Ray's tables


def shortage() -> Shortage | None:
    """What of this job waits for room; None if nothing does.

    A job with a placement group that has CPUs or GPUs is at work: what else of it waits is its own
    affair (the trials of a sweep take turns).
    """
    import ray
    from ray.core.generated import gcs_pb2 as pb

    found = tables()
    own = ray.get_runtime_context().get_job_id()
    nodes = [_amount(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    free = [_amount(row.resources_available) for row in found.available]
    group_state = pb.PlacementGroupTableData.PlacementGroupState.Name
    pieces: list[Amount] = []
    for group in found.groups:
        if group.creator_job_id.hex() != own:
            continue
        bundles = [amount for b in group.bundles if (amount := _amount(b.unit_resources))]
        state = group_state(group.state)
        if state == "CREATED" and bundles:
            return None
        if state in ("PENDING", "RESCHEDULING"):
            pieces += bundles
    queued = _queued()
    actor_state = pb.ActorTableData.ActorState.Name
    for actor in found.actors:
        needs = _amount(actor.required_resources)
        lone = not actor.placement_group_id.strip(b"\xff")
        waits = actor_state(actor.state) in _PENDING_ACTOR and actor.job_id.hex() == own
        if needs and lone and waits and needs in queued:
            pieces.append(needs)
    if not pieces:
        return None
    used = {
        name: sum(node.get(name, 0.0) for node in nodes) - sum(node.get(name, 0.0) for node in free)
        for name in ("CPU", "GPU")
    }
    return Shortage(pieces, nodes, used, _users(found, own))


def _amount(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: float(resources[name]) for name in ("CPU", "GPU") if resources.get(name)}


@dataclass(frozen=True)
class Tables:
    """Rows of the GCS's tables."""

    groups: list[Any]
    actors: list[Any]
    jobs: list[Any]
    available: list[Any]


def tables() -> Tables:
    """What the GCS knows now."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2 as pb

    reader = state._connect_and_get_accessor()
    return Tables(
        [pb.PlacementGroupTableData.FromString(g) for g in reader.get_placement_group_table()],
        [pb.ActorTableData.FromString(a) for a in reader.get_actor_table(None, None)],
        [pb.JobTableData.FromString(j) for j in reader.get_job_table()],
        [pb.AvailableResources.FromString(r) for r in reader.get_all_available_resources()],
    )


def _queued() -> list[Amount]:
    """What Ray's schedulers have no room for now (not: what is placed and still starting)."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
    return [_amount(row.request.resources_bundle) for row in state.pending_resource_requests]


def _users(found: Tables, own: str) -> list[tuple[str, Amount]]:
    """(name, what it holds) of each job, by its placement groups and its lone actors."""
    from ray.core.generated import gcs_pb2 as pb

    held: dict[str, Counter[str]] = {}
    for group in found.groups:
        if pb.PlacementGroupTableData.PlacementGroupState.Name(group.state) == "CREATED":
            for bundle in group.bundles:
                taken = held.setdefault(group.creator_job_id.hex(), Counter())
                taken.update(_amount(bundle.unit_resources))
    for actor in found.actors:
        lone = not actor.placement_group_id.strip(b"\xff")
        if lone and pb.ActorTableData.ActorState.Name(actor.state) == "ALIVE":
            held.setdefault(actor.job_id.hex(), Counter()).update(_amount(actor.required_resources))
    names = {job.job_id.hex(): _job_name(job) for job in found.jobs}
    return [
        ("this run" if job == own else names.get(job, f"job {job}"), dict(amount))
        for job, amount in held.items()
        if amount
    ]


def _job_name(job: Any) -> str:
    """The id that `rayloom jobs` lists, else the command and its process."""
    submitted = job.config.metadata.get("job_submission_id")
    if submitted:
        return f"job {submitted}"
    words = mask(one_line(job.entrypoint)).split()
    short = " ".join([words[0].rpartition("/")[2], *words[1:]]) if words else "a program"
    short = short if len(short) <= 60 else f"{short[:57]}..."
    return f"`{short}`, process {job.driver_pid} on {job.driver_ip_address}"
