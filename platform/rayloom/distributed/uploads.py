"""What travels to a cluster with a job, what must not be left in the job's temporary folder."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlparse

from rayloom.core.errors import UserError
from rayloom.distributed.cargo import copy, pack
from rayloom.distributed.joining import package_folders
from rayloom.distributed.quiet import first_line

LIMIT_BYTES = 50 * 2**20  # the job server refuses 100 MiB; nothing of ours comes near
DEFAULT_DASHBOARD = "http://127.0.0.1:8265"
_SHARED_TYPES = (
    *("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "beegfs", "gluster", "fuse", "9p"),
    *("virtiofs", "afs", "wekafs", "orangefs", "ocfs2", "gfs2", "davfs"),
)


@dataclass(frozen=True)
class Upload:
    """One folder that travels.

    Attributes:
        name: `rayloom`, ..., or `working folder`.
        path: Where it was staged.
        files: How many files.
        size: Bytes, before compression.
        remarks: What was left out, in lines for a person.
    """

    name: str
    path: Path
    files: int
    size: int
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.files} files, {self.size / 2**20:.2f} MB"


@contextmanager
def staged(
    files: Mapping[str, str | bytes | Path],
    packages: Sequence[Path] | None = None,
    named: Sequence[Path] = (),
) -> Iterator[list[Upload]]:
    """Copies of exactly what travels: the packages first, the working folder last.

    Args:
        files: Relative path to text, bytes, a file or a folder (see `cargo` for what of it goes).
        packages: Package folders; None: the ones that this process runs.
        named: Files inside those folders that go whatever they are called.

    Raises:
        UserError: Something cannot be sent as it is.
    """
    root = Path(tempfile.mkdtemp(prefix="rayloom-submit-"))
    try:
        uploads = []
        for folder in packages if packages is not None else package_folders():
            target = root / "modules" / folder.name
            cargo = pack(folder, everything=True)
            for name in cargo.files:
                copy(folder / name, target / name)
            uploads.append(_upload(folder.name, target, cargo.remarks()))
        work = root / "work"
        work.mkdir()
        remarks: list[str] = []
        for place, content in files.items():
            path = work / place
            if work not in path.resolve().parents:
                raise ValueError(f"{place!r} leads out of the working folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path) and content.is_dir():
                cargo = pack(content, named=named)
                remarks += cargo.remarks()
                for name in cargo.files:
                    copy(content / name, path / name)
            elif isinstance(content, Path):
                copy(content, path)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content, encoding="utf-8")
        uploads.append(_upload("working folder", work, remarks))
        yield uploads
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _upload(name: str, path: Path, remarks: Sequence[str]) -> Upload:
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return Upload(name, path, len(sizes), sum(sizes), tuple(remarks))


def check_durable(
    *, storage: str | None, tracking_uri: str | None, address: str | None, trust: bool = False
) -> None:
    """Refuse run folders or tracking that would die with the job.

    Args:
        storage: Where run folders go, as the job will see it; None: ./runs.
        tracking_uri: MLflow's; None: ./mlflow.db.
        address: Where the job goes.
        trust: The user says that local-looking paths are shared with the cluster.

    Raises:
        UserError: All reasons at once, each with what would be right.
    """
    remote = not is_this_machine(address)
    wrong = []
    if storage is None or not Path(storage).is_absolute():
        wrong.append(
            f"storage: {storage or './runs'} is relative: it would lie in the job's temporary"
            " folder. Give an absolute path that the cluster's nodes share, such as"
            " storage=/shared/runs"
        )
    elif _in_session(storage):
        wrong.append(
            f"storage: {storage} lies in Ray's session folder, which goes with the cluster"
        )
    elif remote and not trust and not on_shared_mount(storage):
        wrong.append(
            f"storage: {storage} is a local disk here, and the job runs elsewhere. Use a mounted"
            " network folder, or say that this path is shared there (--shared-paths)"
        )
    scheme = urlparse(tracking_uri or "").scheme
    if tracking_uri is None:
        wrong.append(
            "tracking.uri: null is ./mlflow.db in the job's temporary folder. Give the address of"
            " an MLflow server (tracking.uri=http://host:5000), or an absolute sqlite:////path"
        )
    elif scheme in ("sqlite", "file", ""):
        path = _local_path(tracking_uri)
        if not path.startswith("/"):
            wrong.append(
                f"tracking.uri: {tracking_uri} is relative: it would lie in the job's temporary"
                " folder. An absolute one has four slashes: sqlite:////shared/mlflow.db"
            )
        elif _in_session(path):
            wrong.append(f"tracking.uri: {tracking_uri} lies in Ray's session folder")
        elif remote and not trust:
            wrong.append(
                f"tracking.uri: {tracking_uri} is a file on one machine, and the job runs"
                " elsewhere; use an MLflow server that both reach: tracking.uri=http://host:5000"
            )
    elif remote and (urlparse(tracking_uri).hostname or "") in ("localhost", "127.0.0.1", "::1"):
        wrong.append(
            f"tracking.uri: {tracking_uri} would be the cluster's own loopback; give the name"
            " under which the nodes reach the server"
        )
    if wrong:
        raise UserError("this would be lost with the job:\n  " + "\n  ".join(wrong))


def _local_path(uri: str) -> str:
    for prefix in ("sqlite:///", "file://"):
        if uri.startswith(prefix):
            return uri.removeprefix(prefix)
    return uri


def _in_session(path: str) -> bool:
    return any(pair == ("tmp", "ray") for pair in pairwise(Path(path).parts))


def on_shared_mount(path: str | Path) -> bool:
    """Whether a path lies on a network file system, by the type of its mount."""
    import psutil

    best, kind = -1, ""
    target = str(Path(path).resolve())
    for part in psutil.disk_partitions(all=True):
        mount = part.mountpoint.rstrip("/") or "/"
        inside = target == mount or target.startswith(mount if mount == "/" else mount + "/")
        if inside and len(mount) > best:
            best, kind = len(mount), part.fstype
    return kind.startswith(_SHARED_TYPES)


def is_this_machine(address: str | None) -> bool:
    """Whether an address names this machine."""
    text = dashboard_url(address, ask=False)
    host = urlparse(text).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()):
        return True
    import psutil

    own = {item.address for items in psutil.net_if_addrs().values() for item in items}
    return host in own


def dashboard_url(address: str | None, *, ask: bool = True) -> str:
    """The dashboard's URL of an address.

    Args:
        address: A URL (kept), GCS `host:port` (asked, or port 8265 of that host), or None:
            `RAY_API_SERVER_ADDRESS`, `RAY_ADDRESS`, then this machine.
        ask: Whether the cluster may be asked.

    Raises:
        UserError: A Ray Client address, or the cluster does not answer.
    """
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not given or given in ("auto", "local"):
        return DEFAULT_DASHBOARD
    if given.startswith(("http://", "https://")):
        return given
    if "://" in given:
        raise UserError(f"address {given!r}: give the dashboard's URL, such as {DEFAULT_DASHBOARD}")
    host, _, port = given.rpartition(":")
    if port == "8265" or not host:
        return f"http://{given}" if host else f"http://{given}:8265"
    if not ask:
        return f"http://{host}:8265"
    from ray.dashboard.utils import ray_address_to_api_server_url

    try:
        return str(ray_address_to_api_server_url(given))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray answers at {given}: {first_line(error)}. Give the dashboard's URL, such as"
            f" http://{host}:8265"
        ) from error
