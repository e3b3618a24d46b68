"""How an attempt on a run folder ends, well or badly: whatever happens is written down."""

import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any

from rayloom.config.sections import RunConfig
from rayloom.core import garbage, interrupt
from rayloom.core.causes import paragraph, traceback_of
from rayloom.core.errors import RayloomError, UserError
from rayloom.records.attempts import withdraw
from rayloom.records.run_folder import RunFolder
from rayloom_pipelines.console import RunObserver
from rayloom_pipelines.run.next_step import go_on

CAUSE_TAG = "rayloom.cause"
END_TRIES = 60  # a second apart
CLOSE_S, HURRY_S = 30.0, 5.0  # how long MLflow may take at the end; after a second signal
_ENDED = {"finished": "FINISHED", "interrupted": "KILLED", "time_limit": "KILLED"}
_OTHER = {"running": "KILLED", "created": "KILLED"}  # of a refused resume: what it was before


def finish(
    folder: RunFolder,
    config: RunConfig,
    options: Any,
    outcome: dict[str, Any],
    follower: Any | None,
    observer: RunObserver,
) -> None:
    """Journal, `run.json`, MLflow and the model registry learn how it ended."""
    status = outcome["status"]
    kept = ("reason", "exit_code", "position", "progress", "parameters_sha256")
    summary = {key: outcome[key] for key in ("metrics", "best")}
    facts = {key: outcome[key] for key in kept}
    conclude(folder, status, facts | {"summary": {"step": outcome["position"]} | summary})
    if follower is None:
        return
    with garbage.paused():  # it would look through all that was imported meanwhile
        if status == "finished" and options.register and not options.smoke:
            if follower.flush(CLOSE_S):
                from rayloom_pipelines.run import foresight
                from rayloom_pipelines.run.publish import publish

                foresight.settle()
                publish(folder, config, observer)
        follower.close(mlflow_status(status), CLOSE_S)


def conclude(folder: RunFolder, status: str, facts: Mapping[str, Any]) -> None:
    """Journal and `run.json` say how a run ended, as soon as the disk takes it.

    Args:
        folder: The run folder, locked.
        status: How.
        facts: Further fields of `run.json`.
    """
    journal = folder.journal()
    journal.status(status)
    _until_written(journal.close)
    _until_written(lambda: folder.update(status=status, ended=now(), **facts))


def mlflow_status(status: str) -> str:
    """How MLflow calls a run's end."""
    return _ENDED.get(status, "FAILED")


def give_up(
    folder: RunFolder,
    error: BaseException,
    follower: Any | None,
    observer: RunObserver,
    *,
    mark: Any | None = None,
) -> None:
    """An error or a second signal ended the attempt: written down, and how to go on is said.

    Args:
        folder: The run folder, locked.
        error: What ended it.
        follower: Of MLflow.
        observer: Who watches.
        mark: Of `attempts.begin`: a resume that is refused before its first step changes nothing.
    """
    # a library may have made an error of its own out of a signal
    stopped = isinstance(error, KeyboardInterrupt) or bool(interrupt.received())
    if stopped:
        observer.on_message(f"stopped at once; go on with: {go_on(folder)}")
    refused = isinstance(error, UserError) and mark is not None and withdraw(folder, mark)
    if refused and (cause := folder.record.cause):
        folder.journal().tags({CAUSE_TAG: cause})
    status = folder.record.status
    if not refused and status not in _ENDED:
        # else training is over and only MLflow lacks something
        status = "interrupted" if stopped else "failed"
        _write_down(folder, error, status)
    folder.journal().close()
    if follower is not None:
        patience = HURRY_S if stopped else CLOSE_S
        state = (_OTHER | _ENDED).get(status, "FAILED")
        follower.close(state, patience, in_a_hurry=stopped)
    if isinstance(
        error, SystemExit
    ):  # of a plugin, say: it would end the command as if all was well
        failure = RayloomError(f"sys.exit was called while training: {paragraph(error)}")
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        raise failure from error


def _write_down(folder: RunFolder, error: BaseException, status: str) -> None:
    """The cause of an attempt's end in `run.json` and as a tag, its traceback in the log."""
    if status == "interrupted":
        code = 128 + interrupt.received() if interrupt.received() else _code(error, 130)
        reason = f"stopped at once by {interrupt.name_of(code - 128)}"
        folder.update(status=status, reason=reason, ended=now(), exit_code=code)
    else:
        cause = paragraph(error)
        folder.log(f"the attempt failed: {cause}\n{traceback_of(error)}")
        error.add_note(
            f"the run {folder.run_id} failed; its traceback is in {folder.log_path}. Go on with:"
            f" {go_on(folder)}"
        )
        about = {"status": status, "reason": cause, "cause": cause, "ended": now()}
        _until_written(lambda: folder.update(**about, exit_code=_code(error, 1)))
        folder.journal().tags({CAUSE_TAG: cause})
    folder.journal().status(status)


def now() -> str:
    """This second, as `run.json` writes it."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _code(error: BaseException, otherwise: int) -> int:
    """The exit code of what ended an attempt badly; never 0."""
    code = getattr(error, "exit_code", getattr(error, "code", None))
    return code if isinstance(code, int) and code else otherwise


def _until_written(write: Callable[[], bool]) -> bool:
    """Try once a second for a minute: a disk that is full at the very end may be made free."""
    for _ in range(END_TRIES):
        if write():
            return True
        time.sleep(1.0)
    return write()
