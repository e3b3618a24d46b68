"""What MLflow's pages show of a run, by MLflow's own means: names, a description, columns.

MLflow orders charts by name, a section for each first part of a name, and shows a picture tile for
each picture key. So what is seldom wanted is *sent* under a name that comes last; the journal, and
all that reads it, keeps its keys. Which names a run is sent under is noted as its MLflow tag
`rayloom.names`: a run that was begun under the keys themselves goes on with those.

A picture tile opens at step 0, whatever steps there are, and shows the pictures of several runs at
one step only. So the newest picture of each key is sent once more, as step 0 of a key of its own.
"""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rayloom.records.record import Record

NAMES_TAG, NAMES = "rayloom.names", "2"
NOTE_TAG = "mlflow.note.content"
VIEW = "rayloom"  # the key of the list's shared view
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_NAME = "attributes.`Run Name`"
COLUMNS = (
    "metrics.`eval/elbo_nats`",
    "metrics.`eval/bpd`",
    "metrics.`eval/loss`",
    "metrics.`eval/return_mean`",
    "metrics.`sweep/best`",
    "metrics.`seeds/best_mean`",
    "attributes.`Description`",
    "params.`optimizer.lr`",
    "params.`seed`",
)
_WIDTHS = {_NAME: 270, "attributes.`Description`": 300}
_SPREAD = ("eval/return_low", "eval/return_high", "eval/return_std")
_COUNTS = ("eval/episodes", "eval/length_mean")
_PICTURES = "pictures/"
_TILES = 8  # of several runs; MLflow's limit of the view is 5000 characters
_OURS = "`rayloom runs show "  # how our own descriptions end: one that somebody wrote is left alone


def shown_key(key: str) -> str:
    """The name under which a metric or picture of the journal is sent to MLflow.

    Standard errors and intervals go to `spread/`, and counts of the evaluation to `train/`.
    """
    if key.endswith("_se") or key in _SPREAD:
        return f"spread/{key.removeprefix('eval/')}"
    if key in _COUNTS:
        return f"train/{key.replace('/', '_')}"
    return key


def newest_key(key: str) -> str:
    """The name of a picture key's newest picture, in a section right after the evaluation's."""
    return f"eval pictures/{key.removeprefix(_PICTURES).replace('/', ' ')}"


def run_name(record: Record | None, run_id: str) -> str:
    """A name for MLflow's list, which cuts names: what differs comes first.

    Args:
        record: `run.json`, if it can be read.
        run_id: Our id, which ends in letters of its own.
    """
    letters = run_id.rpartition("-")[2]
    if record is None:
        return f"{letters} {run_id}"
    if record.trial is not None:
        first = f"trial {record.trial} {letters}"
    elif record.parent:
        first = f"seed {record.seed} {letters}"
    elif record.kind != "run":
        first = f"{letters} {record.kind}"
    else:
        first = letters
    made = datetime.datetime.fromisoformat(record.created)
    return f"{first} {record.name.rpartition('/')[2] or run_id} {made:%m-%d %H:%M}"


def description(record: Record | None, folder: Path, mlflow_run: str, picture: str = "") -> str:
    """Markdown for the top of a run's page: how it ended, its best result, a picture, what next.

    Args:
        record: `run.json`, if it can be read.
        folder: The run folder.
        mlflow_run: MLflow's id of the run.
        picture: Artifact path of its newest picture; "" for none.
    """
    lines = _told(record) if record else ["its run.json cannot be read"]
    if picture:
        query = urlencode({"path": picture, "run_uuid": mlflow_run})
        lines += ["", f"![its newest pictures](get-artifact?{query})"]
    if record and record.best_values:
        lines += ["", *(f"- `{key}` = {value}" for key, value in record.best_values.items())]
    if record and record.best_run:
        lines += ["", f"Best run: `{record.best_run}`"]
    if record and record.model:
        lines += ["", f"Model: `{record.model.uri}`"]
    lines += ["", f"{_OURS}{folder.name}`"]
    return "\n".join(lines)


def _told(record: Record) -> list[str]:
    """The best result, and how the run ended."""
    best, found = record.best, ""
    if best and isinstance(best.value, int | float):
        place = "in trial" if record.kind == "sweep" else "at step"
        found = f"{best.metric} {best.value:.5g} {place} {best.step}"
    why = f" ({record.reason.splitlines()[0][:200]})" if record.reason else ""
    return [
        found or record.status,
        "",
        f"{record.name}, seed {record.seed}: {record.status}{why}",
    ]


def may_describe(present: str | None) -> bool:
    """Whether a run's description is ours to write."""
    return not present or present.rpartition("\n")[2].startswith(_OURS)


def view_state(pictures: Iterable[str] = ()) -> str:
    """The shared view of the list of runs, and of the charts of several.

    Columns with the usual results, wide enough; and tiles of pictures, which MLflow by itself would
    show below all params of each run. It adds what other charts there are.

    Args:
        pictures: Keys in MLflow (`newest_key`) that some run has; a tile without any is not hidden.
    """
    columns = (_NAME, *COLUMNS)
    view: dict[str, Any] = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(columns),
        "columnWidths": {column: _WIDTHS.get(column, 110) for column in columns},
    }
    ours = {"isGenerated": True, "deleted": False}
    tiles = [
        {"type": "IMAGE", "uuid": f"rayloom-{key}", "metricSectionId": "rayloom-pictures"}
        | {"imageKeys": [key], "step": 0, "showRunParams": False}
        | ours
        for key in sorted(set(pictures), key=lambda key: (not key.endswith("samples"), key))
    ][:_TILES]
    if tiles:
        section = {"uuid": "rayloom-pictures", "name": "eval pictures", "display": True}
        view["compareRunSections"] = [section | {"isReordered": False} | ours]
        view["compareRunCharts"] = tiles
    return json.dumps(view)


def pictures_of(view: str | None) -> list[str]:
    """The picture keys of an experiment's shared view, as it is stored."""
    try:
        tiles = json.loads(view or "{}")["compareRunCharts"]
        keys = [key for tile in tiles for key in tile["imageKeys"]]
    except (ValueError, LookupError, TypeError):
        return []
    return [key for key in keys if isinstance(key, str) and len(key) < 100]
