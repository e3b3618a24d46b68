"""A registered version loads in a fresh process, holds no pickle and is made once."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from tracking_help import make_run, mlflow_client

from rayloom.core.errors import RayloomError, UserError
from rayloom.records.checkpoints import Checkpoints
from rayloom.tracking import MlflowFollower, fetch_version, register_model, resolve_uri
from rayloom.tracking.registry import _deserves, registered_name
from rayloom.tracking.tracing import save
from rayloom.tracking.uri import artifact_root
from rayloom.tracking.versions import run_of_mlflow_id, run_of_model

_OWN = re.compile(r"model_uuid|utc_time_created|model_size_bytes")  # of each save


class Encoder(nn.Module):
    """Bytes to means, with dropout, which a registered model must not apply."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(16, 3, generator=g))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        h = x.flatten(1).to(self.w.dtype) / 255
        return self.dropout(h) @ self.w


@pytest.fixture
def tracked(tmp_path, uri):
    folder = make_run(tmp_path / "runs", points=2, pictures=())
    follower = MlflowFollower(folder.path, uri, "rayloom", params={}, tags={}, poll_s=0.05).start()
    assert follower.close("FINISHED", 60)
    return folder


LOAD = """
import sys, numpy, torch, mlflow.pytorch
model = mlflow.pytorch.load_model(sys.argv[1])
x = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], model(x).detach().numpy())
"""


def test_a_version_loads_in_a_fresh_process(tmp_path, uri, tracked):
    import numpy as np

    module = Encoder().train()
    weights = Checkpoints(tmp_path / "weights")
    weights.save(7, {"model": module.state_dict()}, metrics={})
    made = register_model(
        tracked.path,
        module,
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
        name="autoencoders/vae-digits",
        files={"config.yaml": tracked.path / "config.yaml", "checkpoints": weights.folder},
        sha256="ab" * 32,
        score=1.0,
        metadata={"run_id": tracked.run_id},
    )
    assert module.training, "the module is left as it was"
    assert made.uri == "models:/vae-digits@champion"
    x = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, made.uri, tmp_path / "x.npy", tmp_path / "y.npy"],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)
    folder = fetch_version(made.uri, uri)
    assert (folder / "rayloom" / "config.yaml").read_text() == tracked.config_text
    stored = Checkpoints(folder / "rayloom" / "checkpoints", read_only=True)
    assert torch.equal(stored.load(stored.latest())["model"]["w"], module.w)
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pth", ".pt", ".pickle")]
    assert run_of_model(made.uri, uri) == str(tracked.path)
    memory = json.loads((tracked.path / "tracking.json").read_text())
    assert run_of_mlflow_id(memory["mlflow_run_id"], uri) == str(tracked.path)


def small(tracked, **settings):
    settings = {"name": "m", "files": {}, "sha256": "1" * 64} | settings
    return register_model(tracked.path, nn.Linear(2, 1), torch.zeros(2, 2), **settings)


def test_a_version_is_made_once_and_the_alias_goes_to_the_better_one(tracked, uri):
    heard = []
    first = small(tracked, score=1.0)
    assert small(tracked, score=1.0) == first
    worse = small(tracked, sha256="2" * 64, score=0.5, say=heard.append)
    assert (worse.version, worse.alias) == ("2", None)
    assert worse.uri == "models:/m/2"
    assert len(heard) == 1
    better = small(tracked, sha256="3" * 64, score=2.0)
    assert (better.version, better.alias) == ("3", "champion")
    lower = small(tracked, sha256="4" * 64, score=1.0, direction="min")
    assert lower.alias == "champion"
    assert len(mlflow_client(uri).search_model_versions("name = 'm'")) == 4
    paths = {fetch_version(f"models:/m/{n}", uri) for n in (1, 2, 3, 4)}
    assert len(paths) == 4, "a later version does not overwrite an earlier one's files"
    assert fetch_version("models:/m/latest", uri) == fetch_version("models:/m/4", uri)


def test_a_score_that_is_not_finite_neither_takes_the_alias_nor_keeps_it(tracked, uri):
    heard, client = [], mlflow_client(uri)
    small(tracked, score=1.0)
    client.delete_registered_model_alias("m", "champion")
    source = client.get_model_version("m", "1").source

    def holder_after(score, direction="max"):
        """Who is champion once a version with this score came."""
        tags = {} if score is None else {"rayloom.score": repr(score)}
        version = client.create_model_version("m", source, tags=tags)
        if _deserves(client, version, "m", "champion", score, direction, heard.append):
            client.set_registered_model_alias("m", "champion", version.version)
        return client.get_registered_model("m").aliases.get("champion")

    nan, inf = float("nan"), float("inf")
    assert holder_after(nan) is None, "not even where nobody has it"
    assert holder_after(None) == 3
    assert holder_after(nan) == 3
    assert holder_after(-100.0) == 5, "a finite one takes it from one without a score"
    assert [holder_after(bad) for bad in (nan, None, inf, -inf)] == [5] * 4
    assert holder_after(-inf, "min") == 5
    assert len(heard) == 7, heard
    client.set_model_version_tag("m", "5", "rayloom.score", "nan")  # an older rayloom's
    assert holder_after(-200.0) == 11


def test_scores_of_two_measures_do_not_compare(tracked):
    heard = []
    first = small(tracked, score=-100.0, measure="eval/elbo_nats, logistic")
    other = small(
        tracked, sha256="2" * 64, score=-20.0, measure="eval/elbo_nats, bernoulli", say=heard.append
    )
    assert (first.alias, other.alias) == ("champion", None)
    assert all(word in heard[0] for word in ("logistic", "bernoulli", "register_as"))
    better = small(tracked, sha256="3" * 64, score=-90.0, measure="eval/elbo_nats, logistic")
    assert better.alias == "champion"


def test_a_version_from_a_server_is_downloaded(tmp_path, uri, tracked, monkeypatch):
    from rayloom.tracking import versions

    small(tracked)
    monkeypatch.setattr(versions, "_local_path", lambda source: None)
    folder = fetch_version("models:/m@champion", uri, target=tmp_path / "here")
    assert (folder / "MLmodel").exists()
    assert folder.is_relative_to(tmp_path / "here")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/m@nobody", "aliases of m: @champion"),
        ("models:/m/9", "aliases of m"),
        ("models:/mm@champion", "did you mean 'm'"),
        ("models:/m", "models:/name@alias"),
        ("runs:/x", "models:/name@alias"),
    ],
)
def test_what_does_not_exist_is_a_message(tracked, uri, reference, message):
    small(tracked)
    with pytest.raises(UserError, match=message):
        fetch_version(reference, uri)


def test_mistakes_of_the_caller(tmp_path, uri, tracked):
    untracked = make_run(tmp_path / "others", points=1, pictures=())
    with pytest.raises(UserError, match="not in MLflow yet"):
        small(untracked)
    with pytest.raises(UserError, match="leaves"):
        small(tracked, files={"../x": tracked.path / "config.yaml"})
    with pytest.raises(UserError, match="no run"):
        run_of_mlflow_id("0" * 32, uri)
    for name in ("", "a:b", "x/"):
        with pytest.raises(UserError, match="registered model"):
            registered_name(name)

    class Untraceable(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(RayloomError, match="cannot be exported"):
        register_model(tracked.path, Untraceable(), torch.ones(2, 2), name="u", files={}, sha256="")


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, None, "sqlite:////w/mlflow.db"),
        (None, "http://h:5000/", "http://h:5000"),
        ("sqlite:///a/b.db", "http://h:5000", "sqlite:////w/a/b.db"),
        ("sqlite:///../b.db", None, "sqlite:////b.db"),
        ("sqlite:////abs/x.db", None, "sqlite:////abs/x.db"),
        ("https://h/x", None, "https://h/x"),
        ("postgresql://u:p@h/db", None, "postgresql://u:p@h/db"),
        ("databricks", None, "databricks"),
    ],
)
def test_addresses_become_absolute(monkeypatch, given, variable, expected):
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert resolve_uri(given, "/w") == expected


@pytest.mark.parametrize("bad", ["./mlruns", "file:///x/mlruns", "sqlite://", "sqlite:///:memory:"])
def test_addresses_that_keep_nothing_are_refused(bad):
    with pytest.raises(UserError, match=r"tracking\.uri"):
        resolve_uri(bad, "/w")


def test_files_go_beside_the_database_and_passwords_nowhere():
    assert artifact_root("sqlite:////w/x.db", "my exp/1") == "file:///w/mlruns/my-exp-1"
    assert artifact_root("http://h", "e") is None


def test_the_short_cut_writes_what_mlflow_writes(tmp_path, monkeypatch):
    """Requirements that were just read from what is installed are not compared with it again."""
    import mlflow.pytorch
    from mlflow.utils import requirements_utils

    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    example = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    texts = {}
    for way in ("short", "mlflow"):
        if way == "short":
            monkeypatch.setattr(requirements_utils.importlib_metadata, "packages_distributions", 0)
        else:
            monkeypatch.undo()
            monkeypatch.setattr(
                "rayloom.tracking.tracing._installed", lambda packages: nullcontext()
            )
        save(Encoder(), example, tmp_path / way, {"a": 1})
        assert requirements_utils._PACKAGES_TO_MODULES is None or way == "mlflow"
        files = {f.name: f for f in (tmp_path / way).iterdir() if f.is_file()}
        texts[way] = {
            name: [line for line in file.read_text().splitlines() if not _OWN.match(line)]
            for name, file in files.items()
        }
    assert texts["short"] == texts["mlflow"]
    assert set(texts["short"]) >= {"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"}
    loaded = [mlflow.pytorch.load_model(str(tmp_path / way))(example) for way in texts]
    torch.testing.assert_close(loaded[0], loaded[1], rtol=0, atol=0)
