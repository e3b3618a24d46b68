"""What MLflow's pages show: names, a description, columns; the journal keeps its keys."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image
from tracking_help import make_run, mlflow_client, only_run, sent, written

from rayloom.records import RunFolder
from rayloom.records.record import record_of
from rayloom.tracking import MlflowFollower, sync_run
from rayloom.tracking.client import ensure_experiment
from rayloom.tracking.page import NAMES_TAG, newest_key, run_name, shown_key
from rayloom_pipelines.console import Silent
from rayloom_pipelines.groups.sweep_plan import Board

STAYS = ("eval/elbo_nats", "eval/return_mean", "loss/total", "time/elapsed_s", "sweep/best")


def close(folder, uri):
    follower = MlflowFollower(folder.path, uri, "e", params={"a": 1}, tags={}, poll_s=0.02)
    assert follower.start().close("FINISHED")
    return only_run(uri, folder)


def with_evaluation(tmp_path):
    folder = make_run(tmp_path, points=3, pictures=())
    folder.journal().scalars(3, {"eval/elbo_nats_se": 0.5, "eval/return_low": 1.0})
    folder.journal().image(3, "pictures/samples", np.zeros((8, 8), np.uint8))
    folder.journal().close()
    best = {"metric": "eval/elbo_nats", "value": -1.25, "step": 2}
    folder.update(status="finished", reason="3 steps are done", summary={"best": best})
    return folder


def test_names_order_the_page_and_no_two_become_one():
    keys = [*STAYS, "eval/elbo_nats_se", "eval/return_low", "eval/return_std", "train/episodes"]
    keys += ["eval/episodes", "eval/length_mean", "train/length_mean", "pictures/samples"]
    assert len({shown_key(key) for key in keys}) == len(keys)
    assert [shown_key(key) for key in STAYS] == list(STAYS)
    sent = [*map(shown_key, keys), newest_key("pictures/samples")]
    sections = sorted({name.rpartition("/")[0] for name in sent})
    assert sections[:2] == ["eval", "eval pictures"], "what a person wants comes first"
    assert newest_key("own/deep/key") == "eval pictures/own deep key", "one section for all"


def test_a_page_has_a_description_columns_and_a_picture(tmp_path, uri):
    folder = with_evaluation(tmp_path)
    run = close(folder, uri)
    assert {"spread/elbo_nats_se", "spread/return_low", "eval/elbo_nats"} <= set(run.data.metrics)
    assert "eval/elbo_nats_se" not in run.data.metrics
    assert run.info.run_name.startswith(folder.run_id.rpartition("-")[2] + " vae-digits ")
    note = run.data.tags["mlflow.note.content"]
    assert "eval/elbo_nats -1.25 at step 2" in note.splitlines()[0]
    client = mlflow_client(uri)
    names = {a.path for a in client.list_artifacts(run.info.run_id, "images")}
    assert any(name.startswith("images/pictures~samples+step+3+") for name in names)
    assert len(names) == 4, "each picture and its small form, of its step and as the newest"
    assert "](get-artifact?path=images%2Feval+pictures~samples%2Bstep%2B0%2B" in note
    tags = client.get_experiment_by_name("e").tags
    view = json.loads(tags["mlflow.sharedViewState.rayloom"])
    assert "metrics.`eval/elbo_nats`" in view["selectedColumns"]
    assert set(view["columnOrder"]) == set(view["columnWidths"]), "MLflow takes both or neither"
    (tile,) = view["compareRunCharts"]
    assert tile["imageKeys"] == ["eval pictures/samples"], "of what there is, no empty ones"
    assert tile["showRunParams"] is False
    assert {tile["metricSectionId"]} == {one["uuid"] for one in view["compareRunSections"]}
    close(make_run(tmp_path / "other", pictures=()), uri)
    again = client.get_experiment_by_name("e").tags
    assert again == tags, "a run without pictures takes no tile away"
    assert len(tags["mlflow.sharedViewState.rayloom"]) < 5000, "MLflow's limit"


def test_the_newest_picture_stands_where_mlflow_s_tiles_open(tmp_path, uri):
    folder = make_run(tmp_path, points=1, pictures=())
    journal = folder.journal()
    follower = MlflowFollower(folder.path, uri, "e", params={}, tags={}, poll_s=0.02).start()
    for step in (7, 200, 1000):
        journal.image(step, "pictures/samples", np.full((8, 8), step % 251, np.uint8))
        journal.sync()
        assert follower.flush()
    journal.close()
    assert follower.close("FINISHED")
    client, run = mlflow_client(uri), only_run(uri, folder)
    names = [a.path for a in client.list_artifacts(run.info.run_id, "images")]
    own = [name for name in names if name.startswith("images/eval pictures~samples+step+0+")]
    assert len(own) == 2, "one picture and its small form, at the step that tiles open at"
    assert len(names) == 8, "and each of its own step"
    full = client.download_artifacts(run.info.run_id, min(own, key=len), str(tmp_path))
    with Image.open(full) as picture:
        assert picture.getpixel((0, 0)) == 1000 % 251, "an older one"
    note = run.data.tags["mlflow.note.content"]
    assert sync_run(folder.path)
    assert only_run(uri, folder).data.tags["mlflow.note.content"] == note, "its picture is gone"


def test_a_tile_s_picture_is_large_and_lies_at_its_top(tmp_path):
    from rayloom.tracking.media import thumbnail

    wide = Image.fromarray(np.full((10, 40), 200, np.uint8))
    wide.save(tmp_path / "wide.png")
    thumbnail(tmp_path / "wide.png", tmp_path / "small.webp")
    with Image.open(tmp_path / "small.webp") as small:
        assert small.size == (512, 512), "the tile does not enlarge"
        assert small.getpixel((5, 5))[3] == 255
        assert small.getpixel((5, 200))[3] == 0, "nothing below it"


def test_a_description_that_somebody_wrote_stays(tmp_path, uri):
    folder = with_evaluation(tmp_path)
    run_id = close(folder, uri).info.run_id
    mlflow_client(uri).set_tag(run_id, "mlflow.note.content", "my own words")
    assert close(folder, uri).data.tags["mlflow.note.content"] == "my own words"


def test_a_run_begun_under_the_old_names_goes_on_under_them(tmp_path, uri):
    """As an earlier rayloom left it: half sent, and no tag that says which names."""
    folder = with_evaluation(tmp_path)
    client = mlflow_client(uri)
    experiment = ensure_experiment(client, uri, "e")
    tags = {"rayloom.run_id": folder.run_id, "rayloom.path": str(folder.path)}
    old = client.create_run(experiment, tags=tags, run_name=folder.run_id)
    client.log_metric(old.info.run_id, "eval/elbo_nats_se", 0.5, 1, 3)
    run = close(folder, uri)
    assert run.info.run_id == old.info.run_id
    assert run.info.run_name == folder.run_id
    assert NAMES_TAG not in run.data.tags
    keys = {key for key, *_ in sent(uri, folder)}
    assert keys == {key for key, *_ in written(folder)}


def test_names_of_runs_differ_early():
    about = {"name": "autoencoders/vae-digits", "created": "2026-11-25T04:13:59+00:00", "seed": 3}
    run = "vae-digits-20261125-041359-zp299"

    def named(**more):
        return run_name(record_of(about | {"run_id": run, "status": "running"} | more, "x"), run)

    assert named() == "zp299 vae-digits 11-25 04:13"
    assert named(kind="sweep") == "zp299 sweep vae-digits 11-25 04:13"
    assert named(trial="7", parent="x").startswith("trial 7 zp299 ")
    assert named(parent="x").startswith("seed 3 zp299 ")
    assert run_name(None, "odd") == "odd odd"


def test_a_sweep_s_page_has_the_score_of_each_trial_as_a_curve(tmp_path, uri):
    """As the board of a sweep writes it while Tune's events come in, in whatever order."""
    spec = SimpleNamespace(metric="eval/elbo_nats", trials=4)
    about = {"kind": "sweep", "seed": 0}
    folder = RunFolder.create(tmp_path, "autoencoders/vae-digits", config={"a": 1}, info=about)
    board = Board(Silent(), spec, folder.journal())
    follower = MlflowFollower(folder.path, uri, "e", params={}, tags={}, poll_s=0.02).start()
    rows = [("0001", "stopped", -42.5), ("0000", "running", -50.0), ("0002", "done", -25.5)]
    rows += [("0003", "failed", None), ("0000", "done", -28.0)]
    for trial, status, score in rows:
        row = {"trial": trial, "status": status, "score": score, "values": {}}
        board.hear({"event": "trial", "row": row})
    assert follower.flush(), "while the sweep goes on, not at its end alone"
    points = [point[:3] for point in sent(uri, folder) if point[0] == "sweep/score"]
    assert points == [
        ("sweep/score", 0, -28.0),
        ("sweep/score", 1, -42.5),
        ("sweep/score", 2, -25.5),
    ]
    assert follower.close("FINISHED")
    assert " sweep vae-digits" in only_run(uri, folder).info.run_name
