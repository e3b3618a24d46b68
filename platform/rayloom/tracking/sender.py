"""Journal lines to MLflow, such that sending a line twice is the same as sending it once.

MLflow drops a metric point whose key, time stamp, step and value are all stored already, so points
carry the journal's time stamps. Pictures go under MLflow's stepped-image file name (the pattern of
`MlflowClient.log_image`, which puts a random id there) with an id made of run, key and step: a
repeat overwrites. The newest picture of each key is sent once more, under a name of its own that
the next one overwrites (`page.newest_key`).

What MLflow refuses for good (a tag of a name that it does not allow, a file that is too large) is
left out by name and the rest is sent. Points and media are two streams, so that an artifact store
in trouble keeps no curve back.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.config.resolved import leaves
from rayloom.core.secrets import mask
from rayloom.records.files import Say, silent
from rayloom.records.hiding import outgoing
from rayloom.records.inside import open_inside
from rayloom.records.journal_reader import decode_line, lines
from rayloom.records.scratch import scratch
from rayloom.tracking import answers
from rayloom.tracking.media import NotSendableError, checked_copy, thumbnail
from rayloom.tracking.page import (
    NOTE_TAG,
    VIEW_TAG,
    description,
    may_describe,
    newest_key,
    pictures_of,
    shown_key,
    view_state,
)
from rayloom.tracking.trouble import RefusesAllError, RunGoneError, Trouble, diagnose

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
PARAM_LIMIT = 6000
TAG_LIMIT = 8000
KEY_LIMIT = 250
_NAMESPACE = uuid.UUID("6f1a2c1e-52f1-4a8e-9a53-3f0c7b0b6f10")
_REFUSED_IN_A_ROW = 20  # after which it is not the items
_SHARED = ("config.yaml", "run.json")  # may have a second name: a copy of runs by hard links


def flatten(tree: Mapping[str, Any]) -> dict[str, str]:
    """A nested config as dotted keys with text values; a list stays one value."""
    plain = {True: "true", False: "false", None: "null"}
    return {
        path: plain[value] if isinstance(value, bool) or value is None else str(value)
        for path, value in leaves(tree).items()
    }


def image_name(run_id: str, key: str, step: int, time_ms: int, *, shown: str | None = None) -> str:
    """MLflow's file name of a stepped picture, without suffix, the same for each repeat."""
    label = (shown or key).replace("/", "~")
    ident = uuid.uuid5(_NAMESPACE, f"{run_id}\n{key}\n{step}")
    return f"{label}+step+{step}+timestamp+{time_ms}+{ident}"


def newest_name(run_id: str, key: str) -> str:
    """MLflow's file name of the newest picture of a key, without suffix: always the same."""
    return image_name(run_id, newest_key(key), 0, 0)


class Sender:
    """Sends one run's journal lines; knows nothing of threads and retries.

    Args:
        client: MLflow client.
        mlflow_run: MLflow's run id.
        folder: Our run folder.
        refused: What MLflow refused so far, by name, and why; filled further.
        say: Hears, once each, what is refused.
        alive: Called after each success.
        renamed: Whether points and pictures go under the names of `page.shown_key`; a run that was
            begun without goes on without.
    """

    def __init__(
        self,
        client: "MlflowClient",
        mlflow_run: str,
        folder: Path,
        *,
        refused: dict[str, str] | None = None,
        say: Say = silent,
        alive: Callable[[], None] = lambda: None,
        renamed: bool = False,
    ) -> None:
        self._client, self._run, self._folder = client, mlflow_run, folder
        self.mlflow_run = mlflow_run
        self._refused = {} if refused is None else refused
        self._say, self._alive = say, alive
        self._name: Callable[[str], str] = shown_key if renamed else str
        self._renamed = renamed
        self._newest: dict[str, Mapping[str, Any]] = {}  # last line of each picture key
        self._looked_at = 0  # bytes of the journal
        self._tiles: set[str] = set()
        self._row = 0
        self._pictures_tagged = False

    # ---- the two streams of the journal ----

    def points(self, offset: int) -> int:
        """Send the next stretch of points and tags, at most one batch of points.

        Returns:
            The offset after what was sent; the same one if there was nothing.

        Raises:
            Exception: Whatever MLflow raises; the stretch may be sent again.
        """
        metrics: list[tuple[str, float, int, int]] = []
        end = offset
        for text, after in lines(self._folder / "journal.jsonl", offset):
            line = decode_line(text)
            kind = line["type"] if line is not None else ""
            if line is not None and kind == "scalars":
                points = self._points(line)
                if metrics and len(metrics) + len(points) > MAX_METRICS:
                    break
                metrics += points
            elif line is not None and kind == "tags":
                if metrics:
                    break  # first the points before it
                self.tags(line["values"])
                return after
            end = after
        self._metrics(metrics)
        return end

    def media(self, offset: int) -> int:
        """Send the next picture or file.

        Returns:
            The offset after it, or after the last line if there was none.

        Raises:
            Exception: Whatever MLflow or the artifact store raises; it may be sent again.
        """
        end = offset
        for text, after in lines(self._folder / "journal.jsonl", offset):
            end = after
            line = None if text.startswith(b'{"type":"scalars"') else decode_line(text)
            if line is None or line["type"] not in ("image", "file"):
                continue
            self._medium(line)
            return after
        return end

    def _points(self, line: Mapping[str, Any]) -> list[tuple[str, float, int, int]]:
        at, step = line["time_ms"], line["step"]
        return [(self._name(key), float(value), at, step) for key, value in line["values"].items()]

    def _metrics(self, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for part in _parts([Metric(*point) for point in points], MAX_METRICS):
            self._log("metric", part)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags, cut to MLflow's limit."""
        from mlflow.entities import RunTag

        tags = [RunTag(key[:KEY_LIMIT], str(value)[:TAG_LIMIT]) for key, value in values.items()]
        for part in _parts(tags, MAX_TAGS):
            self._log("tag", part)

    def params(self, values: Mapping[str, str]) -> None:
        """Write params that are new; one that changed since becomes the tag `changed.<key>`.

        MLflow's params never change, but a resume may be longer or use other resources.
        """
        from mlflow.entities import Param

        stored = self._client.get_run(self._run).data.params
        cut = {key[:KEY_LIMIT]: _fit(value) for key, value in values.items()}
        new = [Param(key, value) for key, value in cut.items() if key not in stored]
        for part in _parts(new, MAX_PARAMS):
            self._log("param", part)
        changed = {k: v for k, v in cut.items() if k in stored and stored[k] != v}
        if changed:
            self.tags({f"changed.{key}": value for key, value in changed.items()})

    # ---- pictures and files ----

    def _medium(self, line: Mapping[str, Any]) -> None:
        with scratch() as room:
            try:
                medium = checked_copy(self._folder, line, room)
            except FileNotFoundError:
                return  # a user may have deleted it: no reason to stop
            except NotSendableError as error:
                self._say(f"{line['path']} is not sent to MLflow: {error}; the rest is sent")
                return
            if line["type"] == "image":
                self._image(line, medium, room)
            else:
                label = f"file {line['key']!r} of step {line['step']}"
                self._put(label, medium, f"files/{line['key']}")

    def _image(self, line: Mapping[str, Any], medium: Path, room: Path) -> None:
        key, step, at = line["key"], line["step"], line["time_ms"]
        name = image_name(self._folder.name, key, step, at, shown=self._name(key))
        self._picture(f"picture {key!r} of step {step}", medium, room / name)
        self._look_ahead()
        if self._renamed and self._newest.get(key, line)["step"] == step:
            newest = room / newest_name(self._folder.name, key)
            self._picture(f"newest picture {key!r}", medium, newest, f"step {step}")
            self._show_tile(newest_key(key))
        if not self._pictures_tagged:
            self.tags({"mlflow.loggedImages": "True"})
            self._pictures_tagged = True

    def _picture(self, label: str, medium: Path, place: Path, caption: str = "") -> None:
        """Send a picture and its small form under the name of a place in the scratch folder."""
        full, small = Path(f"{place}.png"), Path(f"{place}+compressed.webp")
        thumbnail(medium, small, caption=caption)
        shutil.copyfile(medium, full)
        self._put(label, full, "images")
        self._put(label, small, "images")

    def _show_tile(self, key: str) -> None:
        """Add a tile to the experiment's shared view, for comparing runs; once for each key."""
        if key in self._tiles:
            return
        try:
            experiment = self._client.get_run(self._run).info.experiment_id
            shown = pictures_of(self._client.get_experiment(experiment).tags.get(VIEW_TAG))
            if key not in shown:
                view = view_state([*shown, key])
                self._client.set_experiment_tag(experiment, VIEW_TAG, view)
        except Exception as error:
            if diagnose(error).kind != "refused":  # else somebody's server allows no such tag
                raise
        self._tiles.add(key)

    def _look_ahead(self) -> None:
        """Find the newest picture of each key that the journal has by now."""
        for text, after in lines(self._folder / "journal.jsonl", self._looked_at):
            self._looked_at = after
            line = None if text.startswith(b'{"type":"scalars"') else decode_line(text)
            if line is not None and line["type"] == "image":
                self._newest[line["key"]] = line

    def _newest_samples(self) -> str:
        """Artifact path of the picture that says most, samples if there are any; "" for none."""
        self._look_ahead()
        keys = sorted(self._newest, key=lambda key: (not key.endswith("samples"), key))
        for line in (self._newest[key] for key in keys):
            key, step, at = line["key"], line["step"], line["time_ms"]
            if self._renamed:
                label, name = f"newest picture {key!r}", newest_name(self._folder.name, key)
            else:
                label = f"picture {key!r} of step {step}"
                name = image_name(self._folder.name, key, step, at)
            if label not in self._refused and os.path.isfile(self._folder / line["path"]):
                return f"images/{name}.png"
        return ""

    def describe(self) -> None:
        """Write the description at the top of the run's page, unless somebody wrote one."""
        from rayloom.tracking.memory import read_record

        if may_describe(self._client.get_run(self._run).data.tags.get(NOTE_TAG)):
            record = read_record(self._folder)
            text = description(record, self._folder, self._run, self._newest_samples())
            self.tags({NOTE_TAG: mask(text)})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a plain file of the run folder beside the run, if it exists, without secrets."""
        if not os.path.lexists(path):
            return
        try:
            handle = open_inside(path.parent, path.name, append=path.name not in _SHARED)
        except OSError as error:
            self._say(f"{path.name} is not sent to MLflow: it {error.strerror}")
            return
        with (
            os.fdopen(handle, "rb") as source,
            scratch() as room,
        ):
            shown = room / path.name
            with open(shown, "xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            shown.write_bytes(outgoing(shown.name, shown.read_bytes()))
            self._put(f"file {path.name!r}", shown, folder)

    def terminate(self, status: str, ended_ms: int | None) -> None:
        """Tell MLflow how the run ended, and when (ms since the epoch; None: now)."""
        answers.forget()
        self._client.set_terminated(self._run, status=status, end_time=ended_ms)

    # ---- what MLflow refuses ----

    def _put(self, name: str, path: Path, folder: str | None) -> None:
        """Send one file, unless this one was refused."""
        if name in self._refused:
            return
        answers.forget()
        try:
            self._client.log_artifact(self._run, str(path), folder)
        except Exception as error:
            trouble = diagnose(error)
            if trouble.kind != "refused":
                raise
            self._check_run(error)
            self._leave_out(name, trouble)
        else:
            self._worked()

    def _log(self, kind: str, items: list[Any]) -> None:
        """Send metrics, params or tags; of a batch that is refused, all but what is to blame."""
        items = [item for item in items if f"{kind} {item.key!r}" not in self._refused]
        if not items:
            return
        answers.forget()
        try:
            if kind == "metric":
                self._client.log_batch(self._run, metrics=items)
            elif kind == "param":
                self._client.log_batch(self._run, params=items)
            else:
                self._client.log_batch(self._run, tags=items)
        except Exception as error:
            trouble = diagnose(error)
            if trouble.kind != "refused":
                raise
            if len(items) == 1:
                self._check_run(error)
                self._leave_out(f"{kind} {items[0].key!r}", trouble)
                return
        else:
            self._worked()
            return
        for part in (items[: len(items) // 2], items[len(items) // 2 :]):
            self._log(kind, part)

    def _check_run(self, error: Exception) -> None:
        """Make sure that it is the item that is refused: a deleted run takes nothing."""
        try:
            stage = self._client.get_run(self._run).info.lifecycle_stage
        except Exception as gone:
            raise RunGoneError(str(error)) from gone
        if stage == "deleted":
            raise RunGoneError(f"the run {self._run} was deleted") from error

    def _leave_out(self, name: str, trouble: Trouble) -> None:
        self._row += 1
        if self._row > _REFUSED_IN_A_ROW:
            raise RefusesAllError(trouble.text)
        self._refused[name] = trouble.text
        self._say(f"MLflow refuses the {name}: {trouble.text}; it is left out, the rest is sent")

    def _worked(self) -> None:
        self._row = 0
        self._alive()


def _fit(value: str) -> str:
    """A value within MLflow's limit; the whole one stands in config.yaml."""
    return value if len(value) <= PARAM_LIMIT else value[: PARAM_LIMIT - 1] + "…"


def _parts(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
