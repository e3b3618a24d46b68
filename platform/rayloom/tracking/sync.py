"""Sending what a run's MLflow lacks, after the run."""

from pathlib import Path

from rayloom.core.errors import UserError
from rayloom.records.files import Say, silent
from rayloom.records.lock import holder
from rayloom.tracking.dead import ended_ms, status_of
from rayloom.tracking.follower import CLOSE_S, MlflowFollower
from rayloom.tracking.memory import read_memory


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
        status = status_of(folder)
    ended = memory.get("ended_ms") or ended_ms(folder)
    follower.start(again=bool(follower.refused))
    return follower.close(status, timeout_s, ended_ms=ended)


def refused_of(run_path: str | Path) -> dict[str, str]:
    """What MLflow refused of a run, by name, and why."""
    refused = read_memory(Path(run_path)).get("refused")
    return dict(refused) if isinstance(refused, dict) else {}
