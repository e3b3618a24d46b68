"""Sending what a run's MLflow lacks, after the run."""

from pathlib import Path

from rayloom.core.errors import UserError
from rayloom.records.files import Say, silent
from rayloom.records.lock import holder
from rayloom.tracking.connection import read_about
from rayloom.tracking.follower import CLOSE_S, MlflowFollower, Status, read_memory

_STATUS: dict[str, Status] = {"finished": "FINISHED", "failed": "FAILED"}  # else KILLED


def sync_run(
    run_path: str | Path,
    uri: str | None = None,
    *,
    say: Say | None = None,
    timeout_s: float = CLOSE_S,
) -> bool:
    """Send what a run's MLflow lacks (`rayloom runs sync`). It ends, whatever MLflow does.

    What was refused before is tried once more.

    Args:
        run_path: The run folder.
        uri: Another MLflow than the run's own; needed where the stored one hid a password.
        say: Hears about trouble.
        timeout_s: Give up after so long without progress; sooner where MLflow fails.

    Returns:
        Whether MLflow has everything that it takes.

    Raises:
        UserError: The run was never tracked and no URI is given, or it is being written.
    """
    folder = Path(run_path).absolute()
    memory = read_memory(folder)
    target = uri or memory.get("uri")
    if not target or "***@" in target:
        raise UserError(f"{folder.name}: say which MLflow (its address is not on record)")
    writer = holder(folder)
    if writer is not None and writer.alive:
        raise UserError(
            f"{folder.name} is being written by {writer}, which sends it; sync it afterwards"
        )
    follower = MlflowFollower(
        folder,
        target,
        memory.get("experiment", "rayloom"),
        params=memory.get("params", {}),
        tags=memory.get("tags", {}),
        parent=memory.get("parent"),
        say=say or silent,
        training=False,
    )
    status = memory.get("status")
    if status not in ("FINISHED", "FAILED"):  # a kill may have come before it was noted
        status = _STATUS.get(str(read_about(folder).get("status")), "KILLED")
    follower.start(again=bool(follower.refused))
    return follower.close(status, timeout_s, ended_ms=memory.get("ended_ms"))
