"""The folder of one run.

<storage>/<run id>/{run.json, config.yaml, git.diff, journal.jsonl, checkpoints/, media/, log.txt}
"""

import contextlib
import datetime
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.core.errors import UserError
from rayloom.core.files import fsync_dir, write_atomic, write_bytes
from rayloom.core.secrets import mask, mask_urls
from rayloom.records.about import About, check_about, read_about, readable
from rayloom.records.files import Say, is_disk_error, safe_name, silent, to_json
from rayloom.records.hiding import hide
from rayloom.records.inside import MAX_TEXT, open_inside, read_inside, strangers
from rayloom.records.lock import HEARTBEAT_S, STALE_S, Holder, RunLock, holder
from rayloom.records.record import RUN_JSON, Record, plain

if TYPE_CHECKING:
    from rayloom.records.checkpoints import Checkpoints
    from rayloom.records.journal import Journal

SCHEMA_VERSION = 1
DIFFS = {"git": "git.diff", "library_git": "library.diff"}  # of run.json: the file of its diff
_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # no two look alike


def new_run_id(name: str) -> str:
    """A readable id: the config's short name, date, time and five letters."""
    now = datetime.datetime.now().astimezone()
    tail = "".join(secrets.choice(_LETTERS) for _ in range(5))
    return f"{safe_name(name.rsplit('/', 1)[-1])}-{now:%Y%m%d-%H%M%S}-{tail}"


def _as_yaml(config: Mapping[str, Any] | str) -> tuple[str, str]:
    """(YAML text, hash) of a config given as a tree or as YAML."""
    from rayloom.config.resolved import fingerprint
    from rayloom.config.yaml_text import dump

    if isinstance(config, str):
        return config, hashlib.sha256(config.encode()).hexdigest()
    return dump(dict(config)), fingerprint(config)


class RunFolder:
    """One run on disk; reading needs no lock, writing wants `lock()`.

    Attributes:
        path: Absolute path.
        run_id: Readable unique id, also the folder's name.
    """

    def __init__(self, path: Path, *, say: Say = silent) -> None:
        self.path = path
        self.run_id = path.name
        self.say = say
        self._lock: RunLock | None = None
        self._journal: Journal | None = None
        self._unwritten: dict[str, Any] = {}
        self._told = False

    # ---- making and finding ----

    @classmethod
    def create(
        cls,
        storage: str | Path,
        name: str,
        *,
        config: Mapping[str, Any] | str,
        info: Mapping[str, Any],
        run_id: str | None = None,
        fill: Callable[[Path], object] | None = None,
        say: Say = silent,
    ) -> "RunFolder":
        """A new run folder; it appears complete or not at all.

        Args:
            storage: Where run folders live; made if missing.
            name: The config's name, such as `autoencoders/vae-digits`.
            config: Resolved config, as a JSON-able tree or YAML text.
            info: Facts for `run.json` (`describe_environment`, seed, data fingerprint, ...). A
                diff under `info["git"]["diff"]` goes to `git.diff`, the library's to
                `library.diff`.
            run_id: Its id, if that is settled already (a submitted job's); None makes one.
            fill: Puts more into the folder before it appears; gets its temporary path.
            say: Hears about disks that refuse.

        Raises:
            UserError: The storage cannot be written, or has a run of this id.
            ValueError: No reader would take these facts.
        """
        storage = Path(storage).expanduser().absolute()
        run_id = run_id or new_run_id(name)
        building = storage / f".making-{run_id}"
        try:
            storage.mkdir(parents=True, exist_ok=True)
            building.mkdir()
            cls._fill(building, run_id, name, config, dict(info))
            if fill is not None:
                fill(building)
            os.rename(building, storage / run_id)
            fsync_dir(storage)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if not isinstance(error, OSError) or not is_disk_error(error):
                raise
            raise UserError(
                f"cannot make a run folder in {storage}: {error.strerror}; "
                f"choose another place with storage=PATH"
            ) from error
        return cls(storage / run_id, say=say)

    @staticmethod
    def _fill(
        folder: Path,
        run_id: str,
        name: str,
        config: Mapping[str, Any] | str,
        info: dict[str, Any],
    ) -> None:
        text, digest = _as_yaml(config)
        for key, file in DIFFS.items():
            if isinstance(info.get(key), Mapping) and "diff" in info[key]:
                git = dict(info[key])
                diff = git.pop("diff")
                git["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest() if diff else ""
                info[key] = git
                if diff:
                    write_bytes(folder / file, diff.encode(), mode=0o600)
        head = {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "name": name,
            "created": datetime.datetime.now().astimezone().isoformat(timespec="microseconds"),
            "status": "created",
            "config_sha256": digest,
        }
        (folder / "media").mkdir()
        (folder / "checkpoints").mkdir()
        write_bytes(folder / "config.yaml", mask_urls(text).encode())
        told = head | _finite(hide(plain(info)))
        readable(told)
        write_bytes(folder / RUN_JSON, to_json(told, indent=1) + b"\n")
        fsync_dir(folder)

    @classmethod
    def open(cls, path: str | Path, *, say: Say = silent) -> "RunFolder":
        """An existing run folder.

        Raises:
            UserError: It is none, its `run.json` is damaged (see `about`), or a newer version wrote
                it.
        """
        folder = cls(Path(path).expanduser().absolute(), say=say)
        version = folder.record.schema_version
        if version is None or version > SCHEMA_VERSION:
            raise UserError(
                f"{folder.path} has format {version!r}; this rayloom reads up to {SCHEMA_VERSION}"
            )
        return folder

    # ---- run.json ----

    @property
    def record(self) -> Record:
        """What `run.json` says now, with what a full disk has kept out of it so far.

        Raises:
            UserError: It is missing or damaged.
        """
        return self.read().record

    def read(self) -> About:
        """The same as a dict, with the fields that nobody here knows.

        Raises:
            UserError: It is missing or damaged, or the key that is asked for is missing.
        """
        about = read_about(self.path)
        return check_about(about | self._unwritten, about.place) if self._unwritten else about

    def update(self, **fields: Any) -> bool:
        """Replace top-level fields of `run.json`, atomically, without secrets (`hiding`).

        Floats that are not finite are stored as text. What a disk refuses is kept and written by
        the next update that succeeds. All other fields stay, also those of a newer version.

        Args:
            **fields: Fields of `Record`, as it has them or as JSON holds them.

        Returns:
            Whether it is on the disk.

        Raises:
            ValueError: No reader would take it.
        """
        told = _finite(hide(plain(fields)))
        with contextlib.suppress(UserError):  # a damaged file is told below
            readable(read_about(self.path) | self._unwritten | told)
        self._unwritten |= told
        try:
            write_atomic(self.path / RUN_JSON, to_json(self.read(), indent=1) + b"\n")
        except (OSError, UserError) as error:
            if isinstance(error, OSError) and not is_disk_error(error):
                raise
            if not self._told:
                self.say(f"run.json not written: {error}; training goes on")
            self._told = True
            return False
        self._unwritten, self._told = {}, False
        return True

    def replace(self, about: Mapping[str, Any]) -> None:
        """Write another `run.json` in the place of the old one, atomically.

        Raises:
            UserError: The disk refuses; the old one stands.
            ValueError: No reader would take it.
        """
        told = _finite(hide(plain(about)))
        readable(told)
        self.put(self.path / RUN_JSON, to_json(told, indent=1) + b"\n")
        self._unwritten, self._told = {}, False

    def put(self, path: Path, data: bytes) -> None:
        """Write a small file of the run folder, whole or not at all.

        Raises:
            UserError: The disk refuses.
        """
        try:
            write_atomic(path, data)
        except OSError as error:
            if not is_disk_error(error):
                raise
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    @property
    def config_text(self) -> str:
        """The resolved config as YAML."""
        try:
            return read_inside(self.path, "config.yaml").decode()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {self.path / 'config.yaml'}: {why}") from error

    # ---- what lives in it ----

    @property
    def media(self) -> Path:
        """Pictures and videos."""
        return self.path / "media"

    @property
    def log_path(self) -> Path:
        """The run's log file."""
        return self.path / "log.txt"

    @property
    def journal_path(self) -> Path:
        """The journal file; may not exist yet."""
        return self.path / "journal.jsonl"

    def lock(self, *, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> RunLock:
        """The exclusive right to write, as a context manager (or `acquire()` and `release()`).

        Raises:
            UserError: A link, a pipe or their like stands where a writer would write.
        """
        found = strangers(self.path)
        if found:
            raise UserError(
                f"{self.path} is not written: {'; '.join(found[:5])}. Inside a run folder no link "
                "is followed; put the real file or folder there"
            )
        self._lock = RunLock(self.path, heartbeat_s=heartbeat_s, stale_s=stale_s, say=self.say)
        return self._lock

    def holder(self) -> Holder | None:
        """Who holds the lock now; None if it is free."""
        return holder(self.path)

    def journal(self) -> "Journal":
        """The journal, opened for writing; the same object each time."""
        from rayloom.records.journal import Journal

        if self._journal is None:
            self._journal = Journal(self.path, say=self.say)
        return self._journal

    def _sync_journal(self) -> None:
        if self._journal is not None:
            self._journal.sync()

    def checkpoints(self, *, read_only: bool | None = None) -> "Checkpoints":
        """The checkpoints; each save makes this object's journal durable first.

        Args:
            read_only: Never move or delete. None: read only while another process holds the lock.
        """
        from rayloom.records.checkpoints import Checkpoints

        if read_only is None:
            ours = self._lock is not None and self._lock.held
            other = None if ours else self.holder()
            read_only = other is not None and other.alive
        return Checkpoints(
            self.path / "checkpoints",
            say=self.say,
            before_save=self._sync_journal,
            read_only=read_only,
        )

    def log(self, message: str) -> None:
        """Append a line to `log.txt`; a disk that refuses is ignored."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with contextlib.suppress(OSError):
            handle = open_inside(self.path, self.log_path.name, flags, append=True)
            with os.fdopen(handle, "a", encoding="utf-8") as file:
                file.write(f"{now} {mask(message)}\n")


def _finite(value: Any) -> Any:
    """The value as its reader takes it: non-finite floats as text, texts whole and bounded."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else repr(float(value))
    if isinstance(value, str | Path):
        return str(value).encode(errors="replace").decode()[:MAX_TEXT]
    return value
