"""Journal lines to MLflow, such that sending a line twice is the same as sending it once.

MLflow drops a metric point whose key, time stamp, step and value are all stored already, so points
carry the journal's time stamps. Pictures go under MLflow's stepped-image file name (the pattern of
`MlflowClient.log_image`, which puts a random id there) with an id made of run, key and step: a
repeat overwrites.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayloom.core.config import leaves
from rayloom.core.errors import RayloomError
from rayloom.records.hiding import outgoing
from rayloom.records.journal_reader import decode_line, lines

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
PARAM_LIMIT = 6000
TAG_LIMIT = 8000
KEY_LIMIT = 250
_NAMESPACE = uuid.UUID("6f1a2c1e-52f1-4a8e-9a53-3f0c7b0b6f10")
_THUMBNAIL = 256  # pixels of the longer side, as MLflow's own client


def flatten(tree: Mapping[str, Any]) -> dict[str, str]:
    """A nested config as dotted keys with text values; a list stays one value."""
    plain = {True: "true", False: "false", None: "null"}
    return {
        path: plain[value] if isinstance(value, bool) or value is None else str(value)
        for path, value in leaves(tree).items()
    }


def image_name(run_id: str, key: str, step: int, time_ms: int) -> str:
    """MLflow's file name of a stepped picture, without suffix, the same for each repeat."""
    label = key.replace("/", "~")
    ident = uuid.uuid5(_NAMESPACE, f"{run_id}\n{key}\n{step}")
    return f"{label}+step+{step}+timestamp+{time_ms}+{ident}"


class Sender:
    """Sends one run's journal lines; knows nothing of threads and retries.

    Args:
        client: MLflow client.
        mlflow_run: MLflow's run id.
        folder: Our run folder.
    """

    def __init__(self, client: "MlflowClient", mlflow_run: str, folder: Path) -> None:
        self._client, self._run, self._folder = client, mlflow_run, folder
        self._pictures_tagged = False

    def send(self, offset: int) -> int:
        """Send the next stretch of the journal, at most one batch of metrics and one medium.

        Returns:
            The offset after what was sent; the same one if there was nothing.

        Raises:
            Exception: Whatever MLflow raises; the stretch may be sent again.
        """
        metrics: list[tuple[str, float, int, int]] = []
        end = offset
        for text, after in lines(self._folder / "journal.jsonl", offset):
            line = decode_line(text)
            if line is None:
                end = after
                continue
            kind = line["type"]
            if kind == "scalars":
                points = self._points(line)
                if metrics and len(metrics) + len(points) > MAX_METRICS:
                    break
                metrics += points
            elif kind in ("image", "file", "tags") and metrics:
                break  # first the points before it
            elif kind in ("image", "file", "tags"):
                self._other(kind, line)
                return after
            end = after
        self._metrics(metrics)
        return end

    @staticmethod
    def _points(line: Mapping[str, Any]) -> list[tuple[str, float, int, int]]:
        at, step = line["time_ms"], line["step"]
        return [(key, float(value), at, step) for key, value in line["values"].items()]

    def _metrics(self, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), MAX_METRICS):
            part = [Metric(*point) for point in points[start : start + MAX_METRICS]]
            self._client.log_batch(self._run, metrics=part)

    def _other(self, kind: str, line: Mapping[str, Any]) -> None:
        if kind == "tags":
            self.tags(line["values"])
        elif (
            self._folder / line["path"]
        ).exists():  # a user may have deleted it: no reason to stop
            (self._image if kind == "image" else self._file)(line)

    def _image(self, line: Mapping[str, Any]) -> None:
        from PIL import Image

        name = image_name(self._folder.name, line["key"], line["step"], line["time_ms"])
        with tempfile.TemporaryDirectory(prefix="rayloom-") as scratch:
            full = Path(scratch) / f"{name}.png"
            shutil.copyfile(self._folder / line["path"], full)
            self._client.log_artifact(self._run, str(full), "images")
            small = Path(scratch) / f"{name}+compressed.webp"
            with Image.open(full) as picture:
                scale = _THUMBNAIL / max(picture.size)
                size = [max(1, round(side * scale)) for side in picture.size]
                picture.resize((size[0], size[1])).save(small)
            self._client.log_artifact(self._run, str(small), "images")
        if not self._pictures_tagged:
            self._client.set_tag(self._run, "mlflow.loggedImages", "True")
            self._pictures_tagged = True

    def _file(self, line: Mapping[str, Any]) -> None:
        path = self._folder / line["path"]
        with tempfile.TemporaryDirectory(prefix="rayloom-") as scratch:
            named = Path(scratch) / f"step-{line['step']:09d}{path.suffix}"
            shutil.copyfile(path, named)
            self._client.log_artifact(self._run, str(named), f"files/{line['key']}")

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags, cut to MLflow's limit."""
        from mlflow.entities import RunTag

        tags = [RunTag(key[:KEY_LIMIT], str(value)[:TAG_LIMIT]) for key, value in values.items()]
        for part in _parts(tags, MAX_TAGS):
            self._client.log_batch(self._run, tags=part)

    def params(self, values: Mapping[str, str]) -> None:
        """Write params that are new; one that changed since becomes the tag `changed.<key>`.

        MLflow's params never change, but a resume may be longer or use other resources.
        """
        from mlflow.entities import Param

        stored = self._client.get_run(self._run).data.params
        cut = {key[:KEY_LIMIT]: _fit(value) for key, value in values.items()}
        new = [Param(key, value) for key, value in cut.items() if key not in stored]
        for part in _parts(new, MAX_PARAMS):
            self._client.log_batch(self._run, params=part)
        changed = {k: v for k, v in cut.items() if k in stored and stored[k] != v}
        if changed:
            self.tags({f"changed.{key}": value for key, value in changed.items()})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file of the run folder beside the run, if it exists, without secrets."""
        if not path.exists():
            return
        with tempfile.TemporaryDirectory(prefix="rayloom-") as scratch:
            shown = Path(scratch) / path.name
            shown.write_bytes(outgoing(path))
            self._client.log_artifact(self._run, str(shown), folder)


def _fit(value: str) -> str:
    """A value within MLflow's limit; the whole one stands in config.yaml."""
    return value if len(value) <= PARAM_LIMIT else value[: PARAM_LIMIT - 1] + "…"


def _parts(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


class NotSentError(RayloomError):
    """MLflow did not get everything in time; the journal still has it."""
