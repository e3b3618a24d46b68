"""Labelled kill points, so that fault tests need no luck.

`RAYLOOM_FAILPOINT=name:count` sends SIGKILL to this process the count-th time that `hit(name)` is
reached. `RAYLOOM_FAILPOINT_PROCESS=driver|worker` restricts it to one side of a Ray run. Unset
(always, outside tests), `hit` costs one global lookup.
"""

import os
import signal

FAILPOINTS: dict[str, str] = {
    "checkpoint.before": "a checkpoint is due, nothing is written yet",
    "checkpoint.during": "its temporary folder is half written",
    "checkpoint.before_rename": "complete, still under its temporary name",
    "checkpoint.before_marker": "renamed, the marker is not written",
    "checkpoint.after": "the marker stands, old checkpoints are not pruned",
    "journal.appended": "lines are in the journal, MLflow has not seen them",
    "tracking.run_created": "the MLflow run exists, the folder does not know its id",
    "tracking.batch_sent": "MLflow has a batch, the folder's offset does not say so",
    "train.step": "after an optimizer step, in the middle of an epoch",
    "evaluation.middle": "in the middle of an evaluation",
    "rl.round_collected": "a round is collected, the learner has not used it",
    "rl.group_collected": "one group of a round is collected, the others are not",
    "data.before_rename": "a store is complete, still under its temporary name",
    "sweep.trial_done": "a trial ended, the ledger does not say so",
}

_armed = os.environ.get("RAYLOOM_FAILPOINT", "")
_name, _, _text = _armed.partition(":")
_left = int(_text or 1) if _name else 0
_only = os.environ.get("RAYLOOM_FAILPOINT_PROCESS", "")  # "", "driver" or "worker"
_side = "driver"
if _name and _name not in FAILPOINTS:
    raise ValueError(f"RAYLOOM_FAILPOINT names {_name!r}; known: {', '.join(FAILPOINTS)}")


def hit(name: str) -> None:
    """Die here by SIGKILL if this is the armed point and its count has come."""
    if name != _name or (_only and _only != _side):
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def set_side(side: str) -> None:
    """Say that this process is a `worker` of a Ray run; a process is a `driver` unless told."""
    global _side
    _side = side


def disarm() -> None:
    """Forget the armed point: a restarted worker must not die of it again."""
    global _name
    _name = ""
