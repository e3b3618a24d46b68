"""What one trial of a sweep takes of a cluster, and how many fit at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayloom.config.sections import ResourcesConfig
from rayloom.core.errors import UserError
from rayloom.core.tasks import Trainable
from rayloom.distributed.cluster import Cluster


@dataclass(frozen=True)
class Demand:
    """What one trial takes of the cluster.

    Attributes:
        bundles: What Tune books for it, the trial's own process first.
        cpus: CPUs in all, workers that Tune does not book included.
        gpus: GPUs in all.
        pieces: What must lie on one node each, workers that Tune does not book included.
    """

    bundles: Sequence[Mapping[str, float]]
    cpus: float
    gpus: float = 0.0
    pieces: Sequence[Mapping[str, float]] = ()


def demand_of(resources: ResourcesConfig, trainable: Trainable) -> Demand:
    """What a trial with these resources takes.

    In process a trial is one process. With N workers the own process of a model's trial takes
    nothing that counts (its workers have a placement group of their own, which Tune does not know
    of); the actors of an agent's trial are booked with it.
    """
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    if resources.workers == 0:
        return Demand([_bundle(cpus, gpus)], cpus, gpus, [_bundle(cpus, gpus)])
    total_cpus, total_gpus = resources.workers * cpus, resources.workers * gpus
    idle = {"memory": 1.0}  # Tune refuses a bundle of nothing
    if trainable == "engine":
        pieces = [_bundle(cpus, gpus)] * resources.workers
        return Demand([idle], total_cpus, total_gpus, pieces)
    runners = [_bundle(cpus, 0.0) for _ in range(resources.workers)]
    learner = _bundle(0.0, gpus) if gpus else idle
    pieces = [*runners, *([learner] if gpus else [])]
    return Demand([idle, *runners, learner], total_cpus, gpus, pieces)


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {key: value for key, value in (("CPU", cpus), ("GPU", gpus)) if value}


def concurrency(cluster: Cluster, demand: Demand, cap: int | None = None) -> int:
    """How many trials fit at a time.

    Raises:
        UserError: Not even one.
    """
    fits = []
    if demand.cpus:
        fits.append(int(cluster.cpus / demand.cpus + 1e-9))
    if demand.gpus:
        fits.append(int(cluster.gpus / demand.gpus + 1e-9))
    count = min(fits) if fits else 1
    if count < 1:
        raise UserError(
            f"one trial needs {demand.cpus:g} CPUs and {demand.gpus:g} GPUs; the cluster has"
            f" {cluster.cpus:g} and {cluster.gpus:g}. Lower resources.workers or"
            " resources.cpus_per_worker"
        )
    return min(count, cap) if cap else count
