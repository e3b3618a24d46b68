"""What the workers of the tests run. Importable on the workers through PYTHONPATH."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from rayloom.core.errors import NonFiniteError, UserError
from rayloom.distributed.train import emit, stop_signal


def all_is_free():
    """Whether nothing of the tests' Ray is booked."""
    import ray

    return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


def total(payload, collective):
    """Sum over ranks of (rank + 1) * factor, threads, folder."""
    value = torch.tensor([float(collective.rank + 1)], dtype=torch.float64)
    collective.all_reduce(value.mul_(payload["factor"]))
    print("a line that must not reach the console")
    if collective.rank == 0:
        for number in range(3):
            emit({"event": "point", "number": number})
    return {
        "total": value.item(),
        "world": collective.world,
        "rank": collective.rank,
        "threads": torch.get_num_threads(),
        "cwd": os.getcwd(),
        "attempt": payload["attempt"],
    }


def user_mistake(payload, collective):
    """One rank finds the mistake while the other waits in a collective."""
    if collective.rank == 1:
        raise UserError("data.root: /nowhere does not exist; run `rayloom data prepare`")
    collective.barrier()
    return {}


def not_finite(payload, collective):
    raise NonFiniteError("loss part 'kl' is NaN at grad_step 7")


def bug(payload, collective):
    return {"x": {}["missing"]}


def dies_once(payload, collective):
    """Counts to 6 with a checkpoint file per step; rank 1 is killed at step 3 of attempt 0."""
    path = Path(payload["folder"]) / "checkpoint.txt"
    start = int(path.read_text()) if path.exists() else 0
    for step in range(start, 6):
        if payload["attempt"] == 0 and step == 3 and collective.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        collective.barrier()
        if collective.rank == 0:
            path.write_text(str(step + 1))
        collective.barrier()
    return {"start": start, "attempt": payload["attempt"]}


def always_dies(payload, collective):
    os.kill(os.getpid(), signal.SIGKILL)


def until_told(payload, collective):
    """Steps until the driver asks to stop; all ranks agree on the step."""
    step = 0
    while step < 12000:
        number = stop_signal()
        vote = torch.tensor([float(number), float(number > 0)])
        collective.all_reduce(vote)
        if vote[1]:  # one may see it before the others
            return {"step": step, "signal": int(vote[0] / vote[1]), "stopped": True}
        step += 1
        if collective.rank == 0 and step == 3:
            emit({"event": "running"})
        time.sleep(0.01)
    return {"step": step, "signal": 0, "stopped": False}


def engine_law(payload, collective):
    """N workers equal one, and a group resumes in bits: tests/training/law.py."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from training import law

    return {"law": law.check(collective), "resume": law.check_resume(collective)}


def bowl(payload, values, trial, report):
    """A trial: score falls to (x - 3)^2 over the evaluations; resumes from its file."""
    folder = Path(payload["folder"]) / trial
    folder.mkdir(parents=True, exist_ok=True)
    at = folder / "at.txt"
    start = int(at.read_text()) if at.exists() else 0
    (folder / "starts.txt").open("a").write(f"{start}\n")
    if values.get("x") == payload.get("bad"):
        raise UserError("x: too bad")
    floor = (values["x"] - 3.0) ** 2
    for step in range(start + 1, payload["evaluations"] + 1):
        if payload.get("die") == trial and step == 2 and start == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(payload.get("sleep", 0))
        told = report({"eval/loss": floor + 1.0 / step}, step * 10)
        at.write_text(str(step))  # after the report: a kill in between repeats the step
        if told:
            if stop_signal():
                return {"interrupted": True}
            break
    return {"run_id": f"run-{trial}", "score": floor}
