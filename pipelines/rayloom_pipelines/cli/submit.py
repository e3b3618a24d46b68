"""`rayloom submit -- train|sweep|resume ...`: the same command as a job on a Ray cluster."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.core.errors import UserError, or_rather
from rayloom.core.secrets import mask_command
from rayloom.records.record import plain
from rayloom_pipelines.cli.options import Parser

SUBMITTABLE = ("train", "sweep", "resume")
Files = dict[str, str | bytes | Path]


def run(argv: Sequence[str]) -> int:
    """Send it; with `--follow` the exit code is the job's."""
    parser = Parser("submit", "Send train, sweep or resume to a Ray cluster: submit [...] -- train")
    parser.address_option()
    parser.add_argument(
        "--follow", action="store_true", help="stream the log, return its exit code"
    )
    parser.add_argument(
        "--shared-paths",
        action="store_true",
        help="the storage and tracking paths are the same disks on the cluster",
    )
    parser.add_argument(
        "--send",
        action="append",
        default=[],
        metavar="FILE",
        help="a file of a plugin's folder that git does not track or that looks like a key",
    )
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    given, inner = parser.read(words[:cut]), words[cut + 1 :]
    if not inner or inner[0] not in SUBMITTABLE:
        hint = or_rather(inner[0], SUBMITTABLE) if inner else ""
        raise UserError(f"submit: after -- comes one of {', '.join(SUBMITTABLE)}{hint}")
    given.typed = ["rayloom", "submit", *argv]
    make = _resume_job if inner[0] == "resume" else _config_job
    return make(inner[0], inner[1:], given)


def _config_job(verb: str, words: Sequence[str], given: argparse.Namespace) -> int:
    """Train or sweep: the resolved config travels."""
    from rayloom.records.run_folder import new_run_id
    from rayloom_pipelines import known
    from rayloom_pipelines.cli import sweep, train
    from rayloom_pipelines.config import resolve_config
    from rayloom_pipelines.run import own

    inner = (train if verb == "train" else sweep).parser().read(words)
    flags = train.resource_flags(inner.workers, None)
    words = [*inner.overrides, *flags]
    resolved = resolve_config(
        inner.config, words, search=verb == "sweep", pinned_runs=True, known=known.everywhere
    )
    tree = resolved.to_dict()
    address = given.address or inner.address or tree["resources"].get("address")
    tree["resources"]["address"] = None  # inside the job, Ray's own variable says where it is
    name = (resolved.name or "config").rpartition("/")[2]
    files: Files = {f"{name}.yaml": _yaml(tree)}
    command = [verb, f"{name}.yaml", *_plugin_flags(own.loaded_plugins(resolved), files)]
    if inner.seeds > 1:
        command += ["--seeds", str(inner.seeds)]
    for option in ("smoke", "overfit_batch", "profile", "json"):
        if getattr(inner, option, False):
            command.append(f"--{option.replace('_', '-')}")
    if getattr(inner, "init", None):
        from rayloom_pipelines import api

        command += ["--init", str(api.load(inner.init).path)]
    storage, uri = tree.get("storage"), tree["tracking"].get("uri")
    return _send(given, command, files, new_run_id(name), address, storage, uri)


def _resume_job(verb: str, words: Sequence[str], given: argparse.Namespace) -> int:
    """Resume: the run's absolute path travels."""
    from rayloom.catalogue.plugins import require_plugins
    from rayloom.config.yaml_text import flag
    from rayloom_pipelines import api
    from rayloom_pipelines.cli import resume

    inner = resume.parser().read(words)
    found = api.load(inner.run)
    record = found.record
    plugins = require_plugins(plain(record.plugins), inner.plugin)
    files: Files = {}
    flags = _plugin_flags([plugin.to_dict() for plugin in plugins], files)
    command = [verb, str(found.path), *inner.overrides, *flags]
    told = [word.partition("=")[2] for word in inner.overrides if word.startswith("tracking.uri=")]
    uri = told[-1] if told else _mlflow_that_is_named(found)
    if (
        uri and not told and "@" not in uri
    ):  # the job carries the trust of who submits it, and no password
        command.append(flag("tracking.uri", uri))
    address = given.address or _address(found)
    return _send(
        given, command, files, _free_id(found.id, address), address, found.path.parent, uri
    )


def _mlflow_that_is_named(found: Any) -> str | None:
    """The run's MLflow, if the user names it."""
    from rayloom_pipelines.run.server import mlflow_of

    try:
        return mlflow_of(found.record, found.config)
    except UserError as error:
        _say(f"MLflow will be told nothing: {error}")
        return None


def _address(found: Any) -> str | None:
    address = found.config.resources.address
    return str(address) if address else None


def _free_id(run_id: str, address: str | None) -> str:
    """The run's id, with a number where an earlier job has it."""
    from rayloom.distributed import jobs

    taken = {job.job_id for job in jobs.listing(address=address)}
    number, name = 2, run_id
    while name in taken:
        name, number = f"{run_id}-{number}", number + 1
    return name


def _send(
    given: argparse.Namespace,
    command: list[str],
    files: Files,
    job_id: str,
    address: str | None,
    storage: str | Path | None,
    uri: str | None,
) -> int:
    from rayloom.config.resolved import site_settings
    from rayloom.distributed import jobs
    from rayloom.records import origin
    from rayloom.tracking import name_server

    refuse_secrets(command)
    files[origin.JOB_FILE] = json.dumps(origin.travelling(given.typed), indent=1)
    address = address or site_settings().get("resources.address")
    jobs.check_durable(
        storage=str(storage) if storage else None,
        tracking_uri=uri,
        address=address,
        trust=given.shared_paths,
    )
    name_server(uri)  # so that a resume from here finds it again, as after a `train`
    run_id = Path(command[1]).name if command[0] == "resume" else job_id
    code = jobs.submit(
        command,
        files=files,
        job_id=job_id,
        address=address,
        named=_named(given.send, files),
        follow=given.follow,
        run_id=run_id,
        folder=str(Path(storage) / run_id) if storage else "",
        say=_say,
        write=_write,
    )
    if not given.follow:
        _say(f"follow it with: rayloom jobs logs {job_id} --follow")
    return code


def refuse_secrets(command: Sequence[str]) -> None:
    """A job's command stands on Ray's dashboard and in its log: no secret may be in it.

    Raises:
        UserError: One is; names the word, with the secret hidden.
    """
    shown = mask_command(command)
    for word, hidden in zip(command, shown, strict=True):
        if word != hidden:
            raise UserError(
                f"{hidden} holds a secret, and everybody who may use the cluster sees a job's"
                " command: put it into the environment of the cluster's nodes"
            )


def _named(words: Sequence[str], files: Files) -> list[Path]:
    """The files of `--send`, each of which lies in a folder that travels."""
    folders = [
        path.resolve() for path in files.values() if isinstance(path, Path) and path.is_dir()
    ]
    named = [Path(word) for word in words]
    for path in named:
        if not any(path.parent.resolve().is_relative_to(folder) for folder in folders):
            places = ", ".join(map(str, folders)) or "none is sent: plugins here are single files"
            raise UserError(f"--send {path} lies in no folder of a plugin ({places})")
    return named


def _plugin_flags(plugins: Sequence[Mapping[str, Any]], files: Files) -> list[str]:
    """`--plugin` flags of the job; the plugins' sources join its files."""
    flags: list[str] = []
    for plugin in plugins:
        path = Path(str(plugin["path"]))
        if path.is_dir():
            files[path.name] = path
            flags += ["--plugin", str(plugin["name"])]
        else:
            files[f"plugins/{path.name}"] = path
            flags += ["--plugin", f"plugins/{path.name}"]
    return flags


def _yaml(tree: Mapping[str, Any]) -> str:
    from rayloom.config.yaml_text import dump

    return str(dump(dict(tree)))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
