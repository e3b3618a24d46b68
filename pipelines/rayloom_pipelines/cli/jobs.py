"""`rayloom jobs`: what was submitted to a cluster."""

import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rayloom.core.errors import UserError
from rayloom.core.text import one_line
from rayloom_pipelines.cli.options import Parser, action

ACTIONS = {
    "list": "the cluster's jobs, newest first",
    "status": "one job",
    "logs": "a job's log",
    "stop": "stop a job; it writes a checkpoint first",
}


def run(argv: Sequence[str]) -> int:
    """One of the actions."""
    name, words = action(argv, "jobs", ACTIONS)
    if name == "help":
        return 0
    parser = Parser(f"jobs {name}", ACTIONS[name].capitalize() + ".")
    if name != "list":
        parser.add_argument("job", metavar="ID", help="the id of its run")
    parser.address_option()
    if name == "logs":
        parser.add_argument("--follow", action="store_true", help="until it ends; its exit code")
    else:
        parser.json_option()
    given = parser.read(words)
    from rayloom.config.resolved import site_settings
    from rayloom.distributed import jobs

    address = given.address or site_settings().get("resources.address")
    if name == "logs":
        with _or_in_its_folder(given.job):
            return jobs.logs(
                given.job, address=address, follow=given.follow, say=_say, write=_write
            )
    if name == "list":
        found = jobs.listing(address=address)
    elif name == "status":
        with _or_in_its_folder(given.job):
            found = [jobs.status(given.job, address=address)]
    else:
        found = [jobs.stop(given.job, address=address)]
    if given.json:
        rows = [asdict(job) for job in found]
        print(json.dumps(rows if name == "list" else rows[0], indent=1))
        return 0
    for job in found:
        print(one_line(_line(job)))
    if not found:
        print("no jobs")
    return 0


@contextmanager
def _or_in_its_folder(job_id: str) -> Iterator[None]:
    """A cluster that is gone, or forgot the job, is not the end: its run folder knows."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{error}\nWhat the job printed, and how its run ended, stays in its run folder: "
            f"`rayloom runs show {job_id}` (--storage FOLDER if that is not ./runs)"
        ) from error


def _line(job: Any) -> str:
    began = datetime.datetime.fromtimestamp(job.started).astimezone() if job.started else None
    when = began.isoformat(sep=" ", timespec="seconds") if began else "-"
    code = "" if job.exit_code is None else f"  exit {job.exit_code}"
    return f"{job.job_id}  {job.status:<9}  {when}{code}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
