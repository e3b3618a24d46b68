"""Where the code of a run comes from: this process's folder, or the machine that submitted the job.

A job runs in a temporary folder without git, under a command that nobody typed; a trial of a sweep
in a worker process of Ray. What identifies the code (`CODE`) is found out where the user stood and
travels: with a job as the file `JOB_FILE` in its working folder, with a trial in its payload.
"""

import datetime
import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.records.environment import describe_environment

JOB_FILE = "rayloom-job.json"
JOB_VARIABLE = "RAYLOOM_JOB"  # the job's id, set by `submit`
CODE = ("command", "cwd", "git", "library_git")
_OF_GIT = ("root", "commit", "branch", "dirty", "untracked")
_VERSIONS = ("python", "packages")


def travelling(command: Sequence[str]) -> dict[str, Any]:
    """The identity of the code here, as it goes along with a job.

    Args:
        command: What the user typed.
    """
    about = describe_environment(command=list(command))
    return {
        **{key: about[key] for key in (*CODE, *_VERSIONS) if key in about},
        "host": socket.gethostname(),
        "submitted": _now(),
    }


def submitted() -> dict[str, Any] | None:
    """What `travelling` said where this process's job was submitted; None outside of a job."""
    if not os.environ.get(JOB_VARIABLE):
        return None
    try:
        told = json.loads(Path(JOB_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def describe_run(carried: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Facts about this process and about where its code comes from, for `run.json`.

    Args:
        carried: Of `carry`, where another process of the user's stands behind this one.

    Returns:
        As `describe_environment`, but what identifies the code is the submitter's or the carried
        one. In a job also `job`: its id, host, Ray, what the process itself was called with, and
        `submitted`: time, host and versions there. `python` and `packages` are always those that
        compute; rayloom's own version is that of the code that was sent.
    """
    here = describe_environment()
    told = submitted()
    if carried is not None:
        return _without(here, CODE) | dict(carried)
    if told is None:
        return here
    packages = dict(here["packages"])
    sent = told.get("packages")
    if isinstance(sent, Mapping) and sent.get("rayloom"):
        packages["rayloom"] = sent["rayloom"]
    job = {
        "id": os.environ[JOB_VARIABLE],
        "host": socket.gethostname(),
        "ray": here["packages"].get("ray"),
        "command": here["command"],
        "cwd": here["cwd"],
    }
    return {
        **_without(here, CODE),
        **{key: told[key] for key in CODE if key in told},
        "packages": packages,
        "job": job,
        "submitted": {
            "time": told.get("submitted"),
            **{key: told.get(key) for key in ("host", *_VERSIONS)},
        },
    }


def carry() -> dict[str, Any]:
    """What the processes that this one starts write into their runs of where the code is from."""
    about = describe_run()
    return {key: about[key] for key in (*CODE, "job", "submitted") if key in about}


def brief(facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What an attempt notes of its origin, and its diffs by file name.

    Args:
        facts: Of `describe_run`.
    """
    told = ("command", "cwd", "job", "submitted")
    kept: dict[str, Any] = {key: facts[key] for key in told if facts.get(key)}
    diffs: dict[str, str] = {}
    for key, name in (("git", "git"), ("library_git", "library")):
        git = facts.get(key)
        if not isinstance(git, Mapping) or not git:
            continue
        kept[key] = {k: git[k] for k in _OF_GIT if k in git}
        diff = git.get("diff") or ""
        if diff:
            kept[key]["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest()
            diffs[name] = diff
    if isinstance(facts.get("packages"), Mapping):
        kept["rayloom"] = facts["packages"].get("rayloom")
    return kept, diffs


def _without(facts: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in keys}


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
