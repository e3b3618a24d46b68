"""Why a process of Ray's died, in words, and who tells the driver that a worker did."""

from typing import Any

from rayloom.core.errors import RayloomError
from rayloom.distributed.quiet import first_line


class WorkerError(RayloomError):
    """A worker failed for a reason that a restart does not cure.

    Attributes:
        details: The worker's traceback, for the log.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def used_up(failures: int, restarts: int, last: str) -> str:
    """What to say when no restart is left."""
    times = "once" if failures == 1 else f"{failures} times"
    return (
        f"the workers failed {times} ({restarts} restarts allowed), last: {last}. Nothing before"
        " the newest checkpoint is lost"
    )


def death_of(error: BaseException) -> str:
    """Why a worker died, in words; "" if this is not about a death."""
    import ray

    error = getattr(error, "health_check_failure", error)  # Ray Train wraps it
    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in text:
        return "Ray killed it, because its node ran low on memory"
    if isinstance(error, ray.exceptions.NodeDiedError):
        return "its node died"
    if not isinstance(error, ray.exceptions.RayActorError | ray.exceptions.WorkerCrashedError):
        return ""
    if "node" in text.lower() and "died" in text.lower() and "marked dead" in text:
        return "its node died"
    return "its process was killed, or ran out of memory"


def failure_of(error: BaseException) -> str:
    """Which of Ray Train's workers died and why; "" if none did.

    A worker's own error is told by itself, and the others' errors are echoes of a death.

    Args:
        error: What Ray Train's controller goes on from: the errors of workers by rank, or one of
            its own, from starting them.
    """
    for rank, one in sorted(getattr(error, "worker_failures", {}).items()):
        if words := death_of(one):
            return f"worker {rank} died: {words}"
    own = getattr(error, "controller_failure", None)
    while own is not None:
        if words := death_of(own):
            return f"a worker died while it was starting: {words}"
        if type(own).__name__ == "WorkerGroupStartupFailedError" and own.__cause__ is None:
            return f"the workers could not be started: {first_line(own)}"
        own = own.__cause__
    return ""


def deaths_callback(mailbox: Any) -> Any:
    """What Ray Train's controller calls when it goes on from a failure, or ends by it."""
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class Deaths(ControllerCallback):
        """Posts into the mailbox, once for each failure."""

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            """Ray Train restarts the workers, or is about to end."""
            ends = hasattr(current_state, "next_state")
            state = current_state.next_state if ends else current_state
            error = getattr(state, "training_failed_error", None)
            if error is None or hasattr(previous_state, "next_state"):  # told before
                return
            if text := failure_of(error):
                mailbox.died.remote(text, not ends)

    return Deaths()
