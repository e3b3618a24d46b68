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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

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


def run_name(about: Mapping[str, Any], run_id: str) -> str:
    """A name for MLflow's list, which cuts names: what differs comes first.

    Args:
        about: `run.json`.
        run_id: Our id, which ends in letters of its own.
    """
    letters = run_id.rpartition("-")[2]
    config = str(about.get("name", "")).rpartition("/")[2] or run_id
    kind, trial = str(about.get("kind", "run")), about.get("trial")
    if trial is not None:
        first = f"trial {trial} {letters}"
    elif about.get("parent"):
        first = f"seed {about.get('seed')} {letters}"
    elif kind != "run":
        first = f"{letters} {kind}"
    else:
        first = letters
    try:
        made = datetime.datetime.fromisoformat(str(about.get("created"))).strftime(" %m-%d %H:%M")
    except ValueError:
        made = ""
    return f"{first} {config}{made}"


def description(about: Mapping[str, Any], folder: Path, mlflow_run: str, picture: str = "") -> str:
    """Markdown for the top of a run's page: how it ended, its best result, a picture, what next.

    Args:
        about: `run.json`.
        folder: The run folder.
        mlflow_run: MLflow's id of the run.
        picture: Artifact path of its newest picture; "" for none.
    """
    best = (about.get("summary") or {}).get("best") or {}
    value = best.get("value")
    found = ""
    if best.get("metric") and isinstance(value, int | float):
        place = "in trial" if about.get("kind") == "sweep" else "at step"
        found = f"{best['metric']} {value:.5g} {place} {best.get('step')}"
    status = str(about.get("status", ""))
    lines = [found or status, ""]
    lines += [f"{about.get('name')}, seed {about.get('seed')}: {status}"]
    if about.get("reason"):
        lines[-1] += f" ({str(about['reason']).splitlines()[0][:200]})"
    if picture:
        query = urlencode({"path": picture, "run_uuid": mlflow_run})
        lines += ["", f"![its newest pictures](get-artifact?{query})"]
    if isinstance(about.get("best_values"), Mapping):
        lines += ["", *(f"- `{key}` = {value}" for key, value in about["best_values"].items())]
    if about.get("best_run"):
        lines += ["", f"Best run: `{about['best_run']}`"]
    if (about.get("model") or {}).get("uri"):
        lines += ["", f"Model: `{about['model']['uri']}`"]
    lines += ["", f"{_OURS}{folder.name}`"]
    return "\n".join(lines)


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
