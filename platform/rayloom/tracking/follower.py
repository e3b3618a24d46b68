"""The one writer of a run's MLflow: a thread that follows the journal and never stops training.

Its memory is `tracking.json` in the run folder: MLflow's run id and the journal offset that is
sent. It is written after each batch; a kill in between sends that batch again, which changes
nothing (see `sender`). Whatever MLflow raises is said once and tried again with growing pauses.
"""

import contextlib
import datetime
import getpass
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rayloom.core.errors import UserError
from rayloom.core.failpoints import hit
from rayloom.core.secrets import mask, mask_tree, mask_urls
from rayloom.records.files import Say, is_disk_error, silent, to_json, write_atomic
from rayloom.records.hiding import first_files
from rayloom.tracking.sender import Sender, flatten

Status = Literal["FINISHED", "KILLED", "FAILED"]
TRACKING_JSON = "tracking.json"
_PAUSE_S = (0.5, 30.0)  # first and longest pause after a failure
CLOSE_S = 30.0
_STATUS: dict[str, Status] = {"finished": "FINISHED", "failed": "FAILED"}  # else KILLED


class MlflowFollower:
    """Sends a run folder's journal to MLflow, in the background.

    Args:
        run_path: The run folder.
        uri: Tracking URI (`resolve_uri`).
        experiment: Experiment name; made if missing.
        params: Settings to show, nested or flat; never changed afterwards.
        tags: Tags of the run.
        parent: Our id of a parent run (a sweep); made if missing.
        say: Hears, once each, that MLflow cannot be reached, that it is back, what is unsent.
        poll_s: Seconds between looks at the journal.
    """

    def __init__(
        self,
        run_path: str | Path,
        uri: str,
        experiment: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        say: Say | None = None,
        poll_s: float = 0.5,
    ) -> None:
        self.folder = Path(run_path).absolute()
        self.uri, self.experiment = uri, experiment
        self._params, self._tags = mask_tree(flatten(params)), mask_tree(dict(tags))
        self._parent = parent
        self._say: Say = say or silent
        self._poll_s = poll_s
        self._memory = _read_memory(self.folder)
        if self._memory.get("uri") not in (None, mask_urls(uri)):
            self._memory = {}  # another MLflow: it gets the whole journal
        self._state = threading.Condition()
        self._file = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._client: Any = None
        self._closing: Status | None = None
        self._done = False
        self._hurry = False
        self._trouble = ""

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of this run, once it is known."""
        return self._memory.get("mlflow_run_id")

    @property
    def offset(self) -> int:
        """Bytes of the journal that MLflow has."""
        return int(self._memory.get("offset", 0))

    @property
    def unsent(self) -> int:
        """Bytes of the journal that MLflow does not have."""
        return max(0, self._size() - self.offset)

    def _size(self) -> int:
        try:
            return (self.folder / "journal.jsonl").stat().st_size
        except OSError:
            return 0

    # ---- the caller's side ----

    def start(self) -> "MlflowFollower":
        """Begin to follow; `mlflow` is imported in the thread once the journal has a line."""
        self._memory |= {
            "schema_version": 1,
            "uri": mask_urls(self.uri),
            "experiment": self.experiment,
            "params": self._params,
            "tags": self._tags,
            "parent": self._parent,
            "status": "RUNNING",
            "ended_ms": None,
        }
        self._remember()
        self._thread = threading.Thread(target=self._run, name="rayloom-mlflow", daemon=True)
        self._thread.start()
        return self

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until MLflow has what the journal file holds now.

        Args:
            timeout_s: Give up after so long without progress.

        Returns:
            Whether it has.
        """
        target = self._size()
        patience = _Patience(self, timeout_s)
        with self._state:
            while self.offset < target or (target and self._sender is None):
                self._hurry = True
                self._state.notify_all()
                if patience.is_over() or self._thread is None or self._done:
                    return False
                self._state.wait(0.2)
        return True

    def close(
        self,
        status: Status,
        timeout_s: float = CLOSE_S,
        *,
        ended_ms: int | None = None,
        in_a_hurry: bool = False,
    ) -> bool:
        """Send the rest, set the run's status and end the thread.

        Args:
            status: How the run ended.
            timeout_s: Give up after so long without progress, and say what is unsent and how to
                send it.
            ended_ms: When it ended, ms since the epoch; None: now.
            in_a_hurry: Give up after `timeout_s` with progress, too.

        Returns:
            Whether MLflow has everything.
        """
        if self._thread is None:
            return self._done
        with self._state:
            self._closing, self._hurry = status, True
            ended_ms = ended_ms or time.time_ns() // 1_000_000
            self._memory |= {"status": status, "ended_ms": ended_ms}
            self._state.notify_all()
        patience = _Patience(None if in_a_hurry else self, timeout_s)
        while self._thread.is_alive() and not patience.is_over():
            self._thread.join(0.2)
        if self._thread.is_alive():
            with self._state:
                self._done = True  # the thread, wherever it hangs, does nothing more
            self._remember()
        left = self.unsent
        if left or self._trouble or self._thread.is_alive():
            why = f" ({self._trouble})" if self._trouble else ""
            self._say(
                f"MLflow at {mask_urls(self.uri)} has not got everything{why}: {left} bytes of "
                f"the journal are unsent. Nothing is lost: `rayloom runs sync {self.folder.name}` "
                f"or `rayloom resume {self.folder.name}` sends them"
            )
            return False
        self._thread = None
        return True

    # ---- the thread ----

    def _run(self) -> None:
        pause = _PAUSE_S[0]
        while not self._done:
            with self._state:
                if not self._hurry:
                    self._state.wait(self._poll_s)
                self._hurry = False
            closing = self._closing
            try:
                self._work()
                if closing is not None:
                    self._finish(closing)
            except Exception as error:  # said and tried again: MLflow must not stop training
                self._failed(error)
                with self._state:
                    self._state.notify_all()
                    self._state.wait(pause if self._closing is None else _PAUSE_S[0])
                pause = min(pause * 2, _PAUSE_S[1])
                continue
            pause = _PAUSE_S[0]
            if self._trouble and not self.unsent:
                self._trouble = ""
                self._say("MLflow is back and has everything")

    def _failed(self, error: Exception) -> None:
        text = mask(str(error).strip()).partition("\n")[0][:200] or type(error).__name__
        if not self._trouble and not self._done:
            self._say(
                f"MLflow at {mask_urls(self.uri)} cannot be written: {text}; training goes on, "
                f"the journal keeps everything until it can be sent"
            )
        self._trouble = text
        self._sender = None  # look for the run again: the server may be another one

    def _work(self) -> None:
        if self._size() <= self.offset and self._sender is not None:
            return
        if self._size() == 0 and self._closing is None:
            return
        if self._sender is None:
            self._sender = self._connect()
        while not self._done:
            before = self.offset
            after = self._sender.send(before)
            if after == before:
                return
            hit("tracking.batch_sent")
            with self._state:
                self._memory["offset"] = after
                self._state.notify_all()
            self._remember()

    def _connect(self) -> Sender:
        """Find or make the MLflow run, and give it what it lacks of params, tags and files."""
        from rayloom.tracking.client import ensure_experiment, make_client

        self._client = make_client(self.uri)
        experiment_id = ensure_experiment(self._client, self.uri, self.experiment)
        run_id = self._known_run() or self._find_or_create(experiment_id)
        if run_id != self._memory.get("mlflow_run_id"):
            self._memory |= {"mlflow_run_id": run_id, "offset": 0}
        self._remember()
        if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
            self._client.restore_run(run_id)
        self._client.update_run(run_id, status="RUNNING")
        sender = Sender(self._client, run_id, self.folder)
        sender.params(self._params)
        sender.tags(self._all_tags())
        for name in first_files(self.about()):
            sender.artifact(self.folder / name)
        return sender

    def _known_run(self) -> str | None:
        """The run that tracking.json names, if MLflow still has it and it is this folder's."""
        from mlflow.exceptions import MlflowException

        from rayloom.tracking.client import belongs

        run_id = self._memory.get("mlflow_run_id")
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run.info.run_id if belongs(run, self.folder) else None

    def _find_or_create(self, experiment_id: str) -> str:
        from rayloom.tracking.client import PATH_TAG, RUN_ID_TAG, find_run

        found = find_run(self._client, experiment_id, self.folder.name, self.folder)
        if found is not None:
            return found.info.run_id
        made = self._client.create_run(
            experiment_id,
            start_time=self._created_ms(),
            tags={RUN_ID_TAG: self.folder.name, PATH_TAG: str(self.folder)},
            run_name=self.folder.name,
        )
        hit("tracking.run_created")
        return made.info.run_id

    def _all_tags(self) -> dict[str, str]:
        from rayloom.tracking.client import PARENT_TAG, PATH_TAG, RUN_ID_TAG, ensure_parent

        tags = {
            RUN_ID_TAG: self.folder.name,
            PATH_TAG: str(self.folder),
            "mlflow.source.name": "rayloom",
            "mlflow.source.type": "LOCAL",
        }
        about = self.about()
        git = about.get("git") or about.get("library_git")
        if isinstance(git, Mapping) and git.get("commit"):
            tags["mlflow.source.git.commit"] = str(git["commit"])
        with contextlib.suppress(OSError, KeyError, ImportError):
            tags["mlflow.user"] = getpass.getuser()
        if self._parent is not None:
            tags[PARENT_TAG] = ensure_parent(self.uri, self.experiment, self._parent)
        return tags | {str(key): str(value) for key, value in self._tags.items()}

    def about(self) -> dict[str, Any]:
        """The run's `run.json`; empty if it cannot be read."""
        try:
            value = json.loads((self.folder / "run.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _created_ms(self) -> int:
        with contextlib.suppress(KeyError, ValueError, TypeError):
            created = datetime.datetime.fromisoformat(self.about()["created"])
            return int(created.timestamp() * 1000)
        return time.time_ns() // 1_000_000

    def _finish(self, status: Status) -> None:
        if self._sender is None:
            self._sender = self._connect()
        self._sender.artifact(self.folder / "run.json")
        ended = self._memory.get("ended_ms")
        self._client.set_terminated(self.mlflow_run_id, status=status, end_time=ended)
        self._remember()
        with self._state:
            self._done = True
            self._trouble = ""
            self._state.notify_all()

    def _remember(self) -> None:
        try:
            with self._file:
                data = to_json(self._memory, indent=1)
                write_atomic(self.folder / TRACKING_JSON, data, durable=False)
        except OSError as error:  # the next batch tries again; a repeat changes nothing
            if not is_disk_error(error):
                raise


class _Patience:
    """Runs out after some seconds in which a follower, if there is one, sent nothing."""

    def __init__(self, follower: MlflowFollower | None, seconds: float) -> None:
        self._follower, self._seconds = follower, seconds
        self._seen = follower.offset if follower else 0
        self._end = time.monotonic() + seconds

    def is_over(self) -> bool:
        """Whether it ran out."""
        if self._follower is not None and self._follower.offset != self._seen:
            self._seen = self._follower.offset
            self._end = time.monotonic() + self._seconds
        return time.monotonic() >= self._end


def _read_memory(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / TRACKING_JSON).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def sync_run(
    run_path: str | Path,
    uri: str | None = None,
    *,
    say: Say | None = None,
    timeout_s: float = CLOSE_S,
) -> bool:
    """Send what a run's MLflow lacks (`rayloom runs sync`).

    Args:
        run_path: The run folder.
        uri: Another MLflow than the run's own; needed where the stored one hid a password.
        say: Hears about trouble.
        timeout_s: Give up after so long without progress.

    Returns:
        Whether MLflow has everything.

    Raises:
        UserError: The run was never tracked and no URI is given.
    """
    folder = Path(run_path).absolute()
    memory = _read_memory(folder)
    target = uri or memory.get("uri")
    if not target or "***@" in target:
        raise UserError(f"{folder.name}: say which MLflow (its address is not on record)")
    follower = MlflowFollower(
        folder,
        target,
        memory.get("experiment", "rayloom"),
        params=memory.get("params", {}),
        tags=memory.get("tags", {}),
        parent=memory.get("parent"),
        say=say,
    )
    status = memory.get("status")
    if status not in ("FINISHED", "FAILED"):  # a kill may have come before it was noted
        status = _STATUS.get(str(follower.about().get("status")), "KILLED")
    follower.start()
    return follower.close(status, timeout_s, ended_ms=memory.get("ended_ms"))
