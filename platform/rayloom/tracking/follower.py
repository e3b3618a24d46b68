"""The one writer of a run's MLflow: a thread that follows the journal and never stops training.

Its memory is `tracking.json` in the run folder: MLflow's run id and the journal offsets that are
sent. It is written after each batch; a kill in between sends that batch again, which changes
nothing (see `sender`). Whatever MLflow raises is judged (`trouble`): what passes is tried again
with growing pauses, what does not ends the tries, and both are said once.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayloom.core.failpoints import hit
from rayloom.core.files import write_atomic
from rayloom.core.secrets import mask_tree, mask_urls
from rayloom.records.files import Say, is_disk_error, silent, to_json
from rayloom.records.hiding import first_files
from rayloom.tracking.backoff import FAILING_S, LOCKED_S, SILENT_S, WHOLE_S, Patience
from rayloom.tracking.connection import Connection
from rayloom.tracking.memory import TRACKING_JSON, MlflowStatus, read_memory, read_record
from rayloom.tracking.sender import Sender, flatten
from rayloom.tracking.stream import Stream
from rayloom.tracking.trouble import Trouble, diagnose
from rayloom.tracking.uri import is_database

CLOSE_S = SILENT_S
LAST_TRY_S = 1.0  # for the last try, where nothing is waited for any more
_REFUSED_TWICE = 2  # what a whole MLflow refuses may be a race once
_SAID_AFTER = 2  # a single failure is a hiccup


class MlflowFollower:
    """Sends a run folder's journal to MLflow, in the background.

    Args:
        run_path: The run folder.
        uri: Tracking URI (`resolve_uri`).
        experiment: Experiment name; made if missing.
        params: Settings to show, nested or flat; never changed afterwards.
        tags: Tags of the run.
        parent: Our id of a parent run (a sweep); made if missing.
        say: Hears, once each, that MLflow cannot be reached, that it is back, what it refuses and
            what is unsent.
        poll_s: Seconds between looks at the journal.
        training: Whether the run goes on meanwhile, for what is said.
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
        training: bool = True,
    ) -> None:
        self.folder = Path(run_path).absolute()
        self.uri, self.experiment = uri, experiment
        self._params, self._tags = mask_tree(flatten(params)), mask_tree(dict(tags))
        self._parent = parent
        self._say: Say = say or silent
        self._poll_s, self._training = poll_s, training
        self._memory = read_memory(self.folder)
        if self._memory.get("uri") not in (None, mask_urls(uri)):
            self._memory = {}  # another MLflow: it gets the whole journal
        self._memory.setdefault("media_offset", self._memory.get("offset", 0))
        self._state = threading.Condition()
        self._file = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._points = Stream("offset", "points", uri)
        self._media = Stream("media_offset", "pictures and files", uri)
        self._closing: MlflowStatus | None = None
        self._done = False
        self._hurry = False
        self._first_files = False
        self._said = False  # that it cannot be reached
        self._waited_since: float | None = None  # of a flush in vain
        self._sign = time.monotonic()

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of this run, once it is known."""
        return self._memory.get("mlflow_run_id")

    @property
    def offset(self) -> int:
        """Bytes of the journal of which MLflow has everything."""
        return min(int(self._memory.get(stream.key, 0)) for stream in self._streams)

    @property
    def unsent(self) -> int:
        """Bytes of the journal that MLflow does not have."""
        return max(0, self._size() - self.offset)

    @property
    def refused(self) -> Mapping[str, str]:
        """What MLflow refused of this run for good, by name, and why."""
        return dict(self._memory.get("refused", {}))

    @property
    def _streams(self) -> tuple[Stream, Stream]:
        return self._points, self._media

    def _size(self) -> int:
        try:
            return (self.folder / "journal.jsonl").stat().st_size
        except OSError:
            return 0

    # ---- the caller's side ----

    def start(self, *, again: bool = False) -> "MlflowFollower":
        """Begin to follow; `mlflow` is imported in the thread once the journal has a line.

        Args:
            again: Forget what was refused and send the whole journal; repeats change nothing.
        """
        if again:
            self._memory |= {"refused": {}, "offset": 0, "media_offset": 0}
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
        self._memory.setdefault("refused", {})
        self._remember()
        self._sign = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="rayloom-mlflow", daemon=True)
        self._thread.start()
        return self

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until MLflow has what the journal file holds now.

        A pause after a failure is not cut short; the wait ends sooner while MLflow fails.

        Args:
            timeout_s: Give up after so long without progress.

        Returns:
            Whether it has.
        """
        target = self._size()
        began = time.monotonic()
        patience = Patience(timeout_s, min(self._failing_s(), timeout_s), WHOLE_S)
        with self._state:
            while self.offset < target or (target and self._sender is None):
                self._hurry = True
                self._state.notify_all()
                if self._given_up(patience) or self._thread is None or self._done:
                    self._waited_since = began
                    return False
                self._state.wait(0.2)
        self._waited_since = None
        return True

    def close(
        self,
        status: MlflowStatus,
        timeout_s: float = CLOSE_S,
        *,
        ended_ms: int | None = None,
        in_a_hurry: bool = False,
    ) -> bool:
        """Send the rest, set the run's status and end the thread.

        What `flush` has waited in vain counts: a failing MLflow is waited for once.

        Args:
            status: How the run ended.
            timeout_s: Give up after so long without progress, and say what is unsent and how to
                send it.
            ended_ms: When it ended, ms since the epoch; None: now.
            in_a_hurry: Give up after `timeout_s` with progress, too.

        Returns:
            Whether MLflow has everything that it takes.
        """
        if self._thread is None:
            return self._done
        with self._state:
            self._closing, self._hurry = status, True
            ended_ms = ended_ms or time.time_ns() // 1_000_000
            self._memory |= {"status": status, "ended_ms": ended_ms}
            for stream in self._streams:
                stream.last_chance()
            self._state.notify_all()
        whole_s = timeout_s if in_a_hurry else WHOLE_S
        failing_s = min(self._failing_s(), timeout_s)
        patience = Patience(timeout_s, failing_s, whole_s, began=self._waited_since)
        last_try = time.monotonic() + LAST_TRY_S
        while self._thread.is_alive():
            if self._given_up(patience) and (self._is_closed() or time.monotonic() > last_try):
                break
            self._thread.join(0.1)
        complete = all(stream.ended for stream in self._streams)
        with self._state:
            self._done = True  # the thread, wherever it hangs, does nothing more
            self._state.notify_all()
        if complete:
            self._thread = None
            return True
        self._remember()
        self._say(self._what_is_missing())
        return False

    def _failing_s(self) -> float:
        return LOCKED_S if is_database(self.uri) else FAILING_S

    def _is_closed(self) -> bool:
        """Whether nothing more can come of trying."""
        done = all(stream.closed or stream.ended for stream in self._streams)
        return done or self._points.closed

    def _given_up(self, patience: Patience) -> bool:
        failing = any(s.backoff.failures and not s.trying for s in self._streams)
        return self._is_closed() or patience.is_over(self._sign, failing=failing)

    def _what_is_missing(self) -> str:
        troubled = [s for s in self._streams if s.trouble is not None]
        told = dict.fromkeys("as said" if s.said else str(s.trouble) for s in troubled)
        why = "; ".join(told) or f"no answer for {time.monotonic() - self._sign:.0f} s"
        left = f"{self.unsent} bytes of the journal are" if self.unsent else "how it ended is"
        again = f"`rayloom runs sync {self.folder.name}`"
        how = f"{again} or `rayloom resume {self.folder.name}` sends" if self._training else again
        return (
            f"MLflow at {mask_urls(self.uri)} has not got everything ({why}): {left} unsent. "
            f"Nothing is lost: {how}{' them' if self._training else ' tries again'}"
        )

    # ---- the thread ----

    def _run(self) -> None:
        while not self._done:
            self._rest()
            for stream in self._streams:
                if not self._done and not stream.closed and not stream.backoff.wait_s():
                    self._try(stream)
            if self._closing and all(s.ended or s.closed for s in self._streams):
                with self._state:
                    self._done = True
                    self._state.notify_all()

    def _rest(self) -> None:
        """Until there may be something to do: hurry shortens the polling, never a pause."""
        with self._state:
            open_ = [s for s in self._streams if not (s.closed or s.ended)]
            if not open_:
                self._state.wait(self._poll_s)
                return
            pause = min(stream.backoff.wait_s() for stream in open_)
            if pause > 0:
                self._state.wait(min(pause, 0.5))
            elif not self._hurry:
                self._state.wait(self._poll_s)
            self._hurry = False

    def _try(self, stream: Stream) -> None:
        if stream is self._media and self._sender is None:
            return  # the points' stream finds the run
        stream.trying = True
        try:
            closing = self._closing
            worked = self._send_points() if stream is self._points else self._send_media()
            if closing is not None and worked is not None and not stream.ended:
                self._finish(stream, closing)
        except Exception as error:  # judged and said: MLflow must not stop training
            self._failed(stream, diagnose(error))
            with self._state:
                self._state.notify_all()
            return
        finally:
            stream.trying = False
        if worked is None:
            return
        stream.backoff.worked()
        stream.trouble = None
        if self._said and not self.unsent and not any(s.trouble for s in self._streams):
            self._said = False
            self._say("MLflow is back and has everything")

    def _failed(self, stream: Stream, trouble: Trouble) -> None:
        stream.backoff.failed()
        if trouble.kind == "refused":  # not of one item: the run or the experiment themselves
            lasting = stream.backoff.failures >= _REFUSED_TWICE
            trouble = replace(trouble, kind="closed" if lasting else "passing")
        stream.trouble = trouble
        if stream is self._points:
            self._sender = None  # look for the run again: the server may be another one
        if self._done or self._closing or not self._training:
            return  # it is said at the end
        where = f"MLflow at {mask_urls(self.uri)}"
        if trouble.kind == "closed":
            stream.said = True
            self._say(
                f"{where} takes no {stream.what} ({trouble}). Training goes on without, and the "
                f"journal keeps everything"
            )
        elif not self._said and stream.backoff.failures >= _SAID_AFTER:
            self._said = True
            self._say(
                f"{where} cannot be written: {trouble}; training goes on, the journal keeps "
                "everything until it can be sent"
            )

    def _send_points(self) -> bool | None:
        """Whether there were any; None where there is nothing to connect for yet."""
        if self._size() == 0 and self._closing is None:
            return None
        if self._sender is None:
            self._sender = self._connect()
        sender = self._sender
        return self._drain(self._points, sender.points)

    def _send_media(self) -> bool | None:
        sender = self._sender
        if sender is None:
            return None
        if not self._first_files:
            for name in first_files(read_record(self.folder)):
                sender.artifact(self.folder / name)
            self._first_files = True
        return self._drain(self._media, sender.media)

    def _drain(self, stream: Stream, send: Callable[[int], int]) -> bool:
        """Send all that a stream has; returns whether there was something."""
        some = False
        while not self._done:
            before = int(self._memory.get(stream.key, 0))
            if self._size() <= before:
                break
            after = send(before)
            if after == before:
                break
            some = True
            hit("tracking.batch_sent")
            with self._state:
                self._memory[stream.key] = after
                self._alive()
                self._state.notify_all()
            self._remember()
        return some

    def _connect(self) -> Sender:
        connection = Connection(
            self.folder,
            self.uri,
            self.experiment,
            self._params,
            self._tags,
            self._parent,
            refused=self._memory.setdefault("refused", {}),
            say=self._say,
            alive=self._alive,
        )
        known = self.mlflow_run_id
        sender = connection.open(known)
        if sender.mlflow_run != known:
            self._memory |= {"mlflow_run_id": sender.mlflow_run, "offset": 0, "media_offset": 0}
            self._first_files = False
        self._remember()
        return sender

    def _alive(self) -> None:
        self._sign = time.monotonic()

    def _finish(self, stream: Stream, status: MlflowStatus) -> None:
        sender = self._sender
        if sender is None or self._done:
            return
        if stream is self._media:
            sender.artifact(self.folder / "run.json")
            sender.describe()
        else:
            sender.terminate(status, self._memory.get("ended_ms"))
        self._alive()
        stream.ended = True
        self._remember()

    def _remember(self) -> None:
        try:
            with self._file:
                data = to_json(self._memory, indent=1)
                write_atomic(self.folder / TRACKING_JSON, data, durable=False)
        except OSError as error:  # the next batch tries again; a repeat changes nothing
            if not is_disk_error(error):
                raise
