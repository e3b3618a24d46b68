"""Sending a command to a running Ray cluster as a job, and looking after it there.

What travels: the three package folders as `py_modules` (Python files and data, nothing else of the
world around them), and a working folder with the resolved config and the plugins. What does not:
data sets, runs, `.git`. A job's working folder is thrown away with the job, so run folders and
MLflow must lie elsewhere: `check_durable` refuses what would be lost.

The Jobs API never retries a job, forgets logs when the head restarts, and refuses uploads over
100 MiB. Runs outlive all three, since run folders lie on the storage: `submit -- resume RUN`.
"""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.core.errors import RayloomError, UserError
from rayloom.distributed.following import Following, answering
from rayloom.distributed.joining import has_token, token_mode
from rayloom.distributed.quiet import QUIET_ENV, first_line
from rayloom.distributed.uploads import LIMIT_BYTES, check_durable, dashboard_url, staged
from rayloom.records.console import VARIABLE as CONSOLE
from rayloom.records.origin import JOB_VARIABLE

__all__ = [
    "LIMIT_BYTES",
    "Job",
    "check_durable",
    "dashboard_url",
    "exit_code_of",
    "listing",
    "logs",
    "staged",
    "status",
    "stop",
    "submit",
]

Write = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it.

    Attributes:
        job_id: Submission id: the id of its run, or of the parent of its runs.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: Ray's words.
        started: Unix time in s, 0 if unknown.
        ended: Unix time in s, 0 while it runs.
        exit_code: Of its process; None while it runs or if it never started.
        entrypoint: The command.
    """

    job_id: str
    status: str
    message: str
    started: float
    ended: float
    exit_code: int | None
    entrypoint: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


def submit(
    argv: Sequence[str],
    *,
    files: Mapping[str, str | bytes | Path],
    job_id: str,
    address: str | None = None,
    env: Mapping[str, str] | None = None,
    packages: Sequence[Path] | None = None,
    named: Sequence[Path] = (),
    follow: bool = True,
    run_id: str = "",
    folder: str = "",
    say: Write,
    write: Write,
) -> int:
    """Run `rayloom ARGV` on a cluster.

    Args:
        argv: The command line there, such as `["train", "config.yaml"]`; paths in it name `files`.
        files: Relative path to text, bytes, a file or a folder: what the job finds in its
            working folder.
        job_id: Submission id.
        address: Dashboard URL, or GCS `host:port`; None: Ray's own variables, then this machine.
        env: Variables for the job. No secrets: Ray shows them on its dashboard.
        packages: Package folders; None: the ones that this process runs.
        named: Files of the folders in `files` that go whatever they are called.
        follow: Stream the logs and wait for the end.
        run_id: Of the run that it works on; "": as the job.
        folder: That run's folder, for what is said if the cluster dies.
        say: Told in lines what is sent and what to do next.
        write: Receives the job's log as it comes.

    Returns:
        The job's exit code; 0 at once if it is not followed. 130 if Ctrl-C ended the following
        (the job goes on).

    Raises:
        UserError: The upload is too large, the id is taken, nobody answers, the token is refused.
        JobLostError: The head died while the job was followed.
    """
    with staged(files, packages, named) as uploads:
        total = sum(upload.size for upload in uploads)
        for upload in uploads:
            say(f"sending {upload}")
            for remark in upload.remarks:
                say(remark)
        if total > LIMIT_BYTES:
            raise UserError(
                f"{total / 2**20:.0f} MB to send, at most {LIMIT_BYTES >> 20} are allowed; the"
                f" largest is {max(uploads, key=lambda upload: upload.size)}. Data belongs on"
                " storage that the cluster shares, not in a plugin's folder"
            )
        with _client(address) as client:
            variables = {
                **{name: os.environ.get(name, value) for name, value in QUIET_ENV.items()},
                "RAY_JOB_STOP_WAIT_TIME_S": "120",  # a SIGTERM writes a checkpoint; 3 s is little
                JOB_VARIABLE: job_id,
                **(env or {}),
            }
            runtime_env = {
                "working_dir": str(uploads[-1].path),
                "py_modules": [str(upload.path) for upload in uploads[:-1]],
                "env_vars": variables,
            }
            with _told(client, job_id):
                _send(client, argv, job_id, runtime_env)
            say(f"job {job_id} is submitted to {client._address}")
            what = Following(job_id, client._address, run_id or job_id, folder, say)
            return _follow(client, what, write) if follow else 0


def _send(
    client: Any, argv: Sequence[str], job_id: str, runtime_env: dict[str, Any], tries: int = 20
) -> None:
    """Submit; a head that has just started has no agent for some seconds."""
    for left in reversed(range(tries)):
        try:
            client.submit_job(
                entrypoint=_entrypoint(argv),
                submission_id=job_id,
                runtime_env=dict(runtime_env),
                metadata={"rayloom": " ".join(argv)[:200]},
            )
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or not left:
                raise
            time.sleep(1)


# A job's shell has the PATH of whoever called `ray start`, which need not hold Ray's own Python.
# Its parent's parent is the raylet, whose arguments name the Python of Ray's workers.
_FIND_PYTHON = (
    "RAYLET=$(sed 's/.*) [A-Z] \\([0-9]*\\).*/\\1/' /proc/$PPID/stat 2>/dev/null);"
    " PY=$(tr '\\0' '\\n' < /proc/$RAYLET/cmdline 2>/dev/null"
    " | sed -n 's/^--python_worker_command=\\([^ ]*\\) .*/\\1/p');"
)


def _entrypoint(argv: Sequence[str]) -> str:
    """The command line of the job, run by the Python that Ray's own workers there run."""
    command = f'exec env {CONSOLE}=1 "${{PY:-python}}" -m rayloom_pipelines.cli {shlex.join(argv)}'
    return f"{_FIND_PYTHON} {command}"


def listing(*, address: str | None = None) -> list[Job]:
    """All jobs that were submitted, newest first."""
    with _client(address) as client:
        found = [_job(details) for details in client.list_jobs() if details.submission_id]
    return sorted(found, key=lambda job: -job.started)


def status(job_id: str, *, address: str | None = None) -> Job:
    """One job.

    Raises:
        UserError: There is none of this id.
    """
    with _client(address) as client, _told(client, job_id):
        return _job(client.get_job_info(job_id))


def logs(
    job_id: str, *, address: str | None = None, follow: bool = False, say: Write, write: Write
) -> int:
    """Write a job's log; with `follow` go on until it ends and return its exit code."""
    with _client(address) as client, _told(client, job_id):
        if follow:
            return _follow(client, Following(job_id, client._address, job_id, "", say), write)
        write(_without_preamble(client.get_job_logs(job_id)))
        return 0


def stop(job_id: str, *, address: str | None = None, wait_s: float = 150.0) -> Job:
    """Ask a job to stop (SIGTERM: it writes a checkpoint) and wait until it has.

    Raises:
        UserError: There is none of this id.
        RayloomError: It has not stopped within `wait_s` seconds.
    """
    with _client(address) as client, _told(client, job_id):
        client.stop_job(job_id)
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            job = _job(client.get_job_info(job_id))
            if job.over:
                return job
            time.sleep(0.3)
    raise RayloomError(f"job {job_id} is told to stop and still {job.status} after {wait_s:g} s")


def _follow(client: Any, what: Following, write: Write) -> int:
    """Write the log as it grows; the job's exit code at its end."""
    job_id, say, sent, begun = what.job_id, what.say, 0, False
    try:
        while True:
            job = _job(what.ask(lambda: client.get_job_info(job_id)))
            text = what.ask(lambda: client.get_job_logs(job_id))
            if not begun:  # the job manager's lines may come in pieces
                sent = len(text) - len(_without_preamble(text))
                begun = len(text) > sent
            if len(text) > sent:
                write(text[sent:])
                sent = len(text)
            if job.over:
                break
            time.sleep(0.4)
    except KeyboardInterrupt:
        say(
            f"not following any more; the job goes on. `rayloom jobs logs {job_id} --follow`,"
            f" `rayloom jobs stop {job_id}`"
        )
        return 130
    if job.exit_code is None and job.status != "SUCCEEDED":
        say(f"job {job_id} {job.status.lower()}: {' '.join(job.message.split())[:400]}")
        if job.status == "FAILED":
            say(f"go on with: {what.next()}")
    return exit_code_of(job)


def _without_preamble(text: str) -> str:
    """A log without the job manager's own first lines."""
    lines = text.splitlines(keepends=True)
    while lines and ("job_manager.py" in lines[0] or lines[0].startswith("Running entrypoint")):
        lines.pop(0)
    return "".join(lines)


def exit_code_of(job: Job) -> int:
    """The exit code of a job that is over; 128 + signal where one ended it."""
    if job.exit_code is None:
        return 0 if job.status == "SUCCEEDED" else 143 if job.status == "STOPPED" else 1
    return 128 - job.exit_code if job.exit_code < 0 else job.exit_code


def _job(details: Any) -> Job:
    return Job(
        job_id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
        exit_code=details.driver_exit_code,
        entrypoint=details.entrypoint,
    )


# ----------------------------------------------------------------------------------------- client


@contextmanager
def _client(address: str | None) -> Iterator[Any]:
    """A Jobs client, with our words for what may go wrong."""
    import logging

    with token_mode():
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient

        for name in ("", ".dashboard.modules.dashboard_sdk", ".dashboard.modules.job.sdk"):
            logging.getLogger(f"ray{name}").setLevel(logging.ERROR)  # its import sets INFO

        url = dashboard_url(address)
        # Ray's own variables would overrule the address
        hidden = {name: os.environ.pop(name, None) for name in _OVERRULING}
        try:
            client = JobSubmissionClient(url)
        except (ConnectionError, RuntimeError, OSError, ValueError, RayError) as error:
            raise UserError(_why_not(url, error)) from error
        finally:
            os.environ.update({name: value for name, value in hidden.items() if value is not None})
        yield client


_OVERRULING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def _why_not(url: str, error: Exception) -> str:
    text = str(error)
    if "401" in text or "403" in text or "uthenti" in text or "token" in text.lower():
        have = "has a token that the cluster refuses" if has_token() else "has no token"
        return (
            f"{url} wants a token, and this machine {have}. Copy ~/.ray/auth_token from the head"
            " (or set RAY_AUTH_TOKEN_PATH), and set RAY_AUTH_MODE=token; see docs/cluster.md"
        )
    return (
        f"no Ray dashboard answers at {url}: {first_line(error)}. On the head node:"
        " `RAY_AUTH_MODE=token ray start --head`; from elsewhere forward the port:"
        " `ssh -L 8265:127.0.0.1:8265 HEAD`"
    )


@contextmanager
def _told(client: Any, job_id: str) -> Iterator[None]:
    """Ray's errors about one job, in our words."""
    try:
        with answering(client._address):
            yield
    except RuntimeError as error:
        text = str(error)
        if "404" in text or "does not exist" in text:
            known = [job.submission_id for job in client.list_jobs() if job.submission_id]
            listed = ", ".join(sorted(known)[-5:]) or "there are none"
            raise UserError(f"no job {job_id} at {client._address}; known: {listed}") from error
        if "already" in text:
            raise UserError(
                f"a job {job_id} exists at {client._address}; `rayloom jobs status {job_id}`"
            ) from error
        if "401" in text or "403" in text or "uthenti" in text:
            raise UserError(_why_not(client._address, error)) from error
        raise RayloomError(f"the cluster refused: {first_line(error)}") from error
