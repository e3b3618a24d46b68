"""A Ray that this process starts for one training run, without what nobody there needs.

Ray Train starts an actor, a process of its own with all imports, for each of: cleaning up after a
controller that dies (by asking the dashboard server), handing out Ray data sets, and watching for
nodes that a cloud takes away. On a Ray that lives and dies with the run, on one machine, there is
nothing for them to do, nor for the dashboard server. On a cluster all of them stay.
"""

import contextlib
from typing import Any

# Read by Ray Train; a value that the user set wins.
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
_NOT_NEEDED = ("PlacementGroupCleanerCallback", "DatasetsCallback")


def trainer_class(*, local: bool) -> Any:
    """The class of the trainer.

    Args:
        local: Whether the Ray is this process's own.
    """
    from ray.train.torch import TorchTrainer

    if not local or not hasattr(TorchTrainer, "_create_default_callbacks"):
        return TorchTrainer

    class LeanTrainer(TorchTrainer):
        """A TorchTrainer without the callbacks that have nothing to do."""

        def _create_default_callbacks(self) -> list[Any]:
            made: list[Any] = super()._create_default_callbacks()
            return [one for one in made if type(one).__name__ not in _NOT_NEEDED]

    return LeanTrainer


def ask_ahead() -> None:
    """Start the actor that Ray Train's controller asks first, while the controller itself starts.

    Only on a Ray of our own, where its node is the controller's. Else the controller starts it.
    """
    with contextlib.suppress(ImportError):  # another Ray
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        get_or_create_autoscaling_coordinator()


def dismiss() -> None:
    """Tell Ray's helpers of a local Ray to end, all at once, just before `ray.shutdown`.

    Which would ask one after the other, and wait up to a second for each. The monitor, which has
    nothing to save, answers SIGTERM by telling every driver that "the autoscaler failed".
    """
    from ray._private import worker

    node = getattr(worker, "_global_node", None)
    for kind, infos in getattr(node, "all_processes", {}).items():
        if kind not in ("raylet", "gcs_server"):
            for info in infos:
                (info.process.kill if kind == "monitor" else info.process.terminate)()
