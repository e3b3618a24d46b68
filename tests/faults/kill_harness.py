"""Kill a real run at a labelled point, resume it, compare it with an unbroken one."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rayloom_pipelines.benchmarks.methods_cells import AGENT

VAE = [
    "autoencoders/vae-digits",
    "train.epochs=3",
    "train.log_every=5",
    "evaluation.every=1",
    "checkpoint.every=0.5",
    "data.batch_size=128",
    "train.clip_norm=5.0",
    "train.ema={decay: 0.99}",
]
DQN = ["rl/dqn-cartpole", *AGENT, "algorithm.learning_starts=512"]
IMAGE = (  # MLflow's name of a stepped picture
    r"images/(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+\d+\+[0-9a-f-]+"
    r"(?P<small>\+compressed)?\.(png|webp)"
)
CONFIGS = {"vae": VAE, "dqn": DQN}


@dataclass
class Site:
    """One private place to run in: storage, MLflow database and data root."""

    root: Path
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RAYLOOM_", "MLFLOW_"))}
        env |= {"RAYLOOM_DATA_ROOT": str(self.data), "OMP_NUM_THREADS": "1"}
        return env

    def command(
        self, *words: str, failpoint: str | None = None, side: str = ""
    ) -> subprocess.CompletedProcess:
        env = self.environment
        if failpoint:
            env |= {"RAYLOOM_FAILPOINT": failpoint, "RAYLOOM_FAILPOINT_PROCESS": side}
        return subprocess.run(
            [sys.executable, "-m", "rayloom_pipelines.cli", *words],
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            timeout=500,
        )

    def train(self, half: str, *extra: str, failpoint: str | None = None, side: str = ""):
        places = [
            f"storage={self.root / 'runs'}",
            f"tracking.uri=sqlite:///{self.root / 'mlflow.db'}",
            "resources.threads=1",
        ]
        words = ("train", *CONFIGS[half], *places, *extra)
        return self.command(*words, failpoint=failpoint, side=side)

    @property
    def run(self) -> Path:
        folders = [p.parent for p in (self.root / "runs").glob("*/run.json")]
        assert len(folders) == 1, f"expected one run folder, found {folders}"
        return folders[0]


def new_site(root: Path, database: Path | None, data: Path) -> Site:
    root.mkdir(parents=True)
    if database is not None:
        shutil.copy(database, root / "mlflow.db")
    return Site(root, data)


def journal_points(run: Path) -> tuple[dict, dict]:
    """Deterministic metric points {(key, step): value} and pictures {(key, step): sha256}."""
    points, pictures = {}, {}
    for line in (run / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["type"] == "scalars":
            for key, value in entry["values"].items():
                if not key.startswith(("time/", "system/")):
                    assert (key, entry["step"]) not in points, f"{key} twice at {entry['step']}"
                    points[key, entry["step"]] = value
        elif entry["type"] in ("image", "file"):
            assert (entry["key"], entry["step"]) not in pictures
            pictures[entry["key"], entry["step"]] = entry["sha256"]
            assert (run / entry["path"]).exists()
    return points, pictures


def mlflow_points(site: Site, uri: str | None = None) -> tuple[dict, dict]:
    """What MLflow holds of the only run with our tag: metric points, and pictures and films.

    Returns:
        {(key, step): value} and {(key, step): sha256}, as `journal_points`: under the journal's
        keys, whatever they are called in MLflow.
    """
    from mlflow.tracking import MlflowClient

    from rayloom.tracking.page import shown_key

    client = MlflowClient(uri or f"sqlite:///{site.root / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`rayloom.run_id` = '{site.run.name}'")
    assert len(runs) == 1, f"MLflow has {len(runs)} runs of {site.run.name}"
    assert runs[0].info.status == "FINISHED"
    keys = {key for found in journal_points(site.run) for key, _ in found}
    names = {shown_key(key): key for key in keys}
    assert len(names) == len(keys), "two keys share a name in MLflow"
    points = {}
    for name in runs[0].data.metrics:
        if name.startswith(("time/", "system/")):
            continue
        key = names.get(name, name)
        for m in client.get_metric_history(runs[0].info.run_id, name):
            assert (key, m.step) not in points, f"MLflow has {key} twice at {m.step}"
            points[key, m.step] = m.value
    media = _mlflow_media(client, runs[0].info.run_id)
    return points, {(names.get(name, name), step): sha for (name, step), sha in media.items()}


def _mlflow_media(client, run_id: str) -> dict:
    from rayloom.tracking.page import newest_key

    pictures, thumbnails, newest = {}, set(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for artifact in client.list_artifacts(run_id, "images"):
            name = re.fullmatch(IMAGE, artifact.path)
            key = name["key"].replace("~", "/")
            if key.startswith(newest_key("")):  # copies of those below, each overwritten
                if not name["small"]:
                    newest[key] = _sha256(client, run_id, artifact.path, scratch)
                continue
            where = key, int(name["step"])
            if name["small"]:
                assert where not in thumbnails, f"MLflow has a thumbnail twice: {artifact.path}"
                thumbnails.add(where)
            else:
                assert where not in pictures, f"MLflow has a picture twice: {artifact.path}"
                pictures[where] = _sha256(client, run_id, artifact.path, scratch)
        assert thumbnails == pictures.keys()
        assert newest == {newest_key(key): sha for (key, _), sha in sorted(pictures.items())}
        for path in _files(client, run_id, "files"):
            key, _, step = path.removeprefix("files/").rpartition("/step-")
            pictures[key, int(step.partition(".")[0])] = _sha256(client, run_id, path, scratch)
    return pictures


def _sha256(client, run_id: str, path: str, scratch: str) -> str:
    copy = client.download_artifacts(run_id, path, scratch)
    return hashlib.sha256(Path(copy).read_bytes()).hexdigest()


def _files(client, run_id: str, folder: str) -> list[str]:
    found = []
    for artifact in client.list_artifacts(run_id, folder):
        found += _files(client, run_id, artifact.path) if artifact.is_dir else [artifact.path]
    return found


def summary(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def killed(result: subprocess.CompletedProcess) -> bool:
    return result.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
