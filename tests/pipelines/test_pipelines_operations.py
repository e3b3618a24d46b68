"""Operations of models: what is given is checked; batches and workers give the same."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field
from torch import nn

import rayloom
from rayloom.config.sections import Config, PositiveInt
from rayloom.config.settings import read_settings
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, operation, operations
from rayloom.data.text import make_tokenizer
from rayloom.media import Arrays, Images, Table
from rayloom.models.diffusion.ddpm import DDPM
from rayloom.testing.operations import check_operations
from rayloom_pipelines.cli import main
from rayloom_pipelines.load import operate_workers
from rayloom_pipelines.load.fields import fit
from rayloom_pipelines.load.forms import media_of, possible, save
from rayloom_pipelines.load.given import conditions, spread, words_of
from rayloom_pipelines.load.operate import find, operate

SPINE = Path(__file__).resolve().parents[1] / "fixtures" / "spine" / "vae"


class Walk(Config):
    steps: PositiveInt = Field(3, description="of the walk")
    drift: float = Field(0.0, ge=-1, le=1)
    kind: Literal["plain", "wild"] = "plain"


class Walker(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, dtype=torch.float64))

    @operation(settings=Walk, takes=("label",), gives={"place": "vector"})
    def sample(self, batch, *, rng, settings):
        """Walk.

        And more.
        """
        place = batch.get("label", torch.zeros(len(rng), dtype=torch.int64))[:, None].double()
        for step in range(settings.steps):
            place = place + settings.drift + self.scale * rng.normal(f"step {step}", 2)
        return {"seen": place.sign(), "place": place}


SPEC = DataSpec(
    {
        "image": FieldSpec((1, 8, 8), "uint8", "image"),
        "label": FieldSpec((), "int64", "label", 10),
        "x": FieldSpec((2,), "float32"),
    },
    "toy",
)


def walked(num, *, batch_size=64, part=None, seed=0, **settings):
    label = {"label": torch.arange(num) % 3}
    made = operations(Walker)["sample"]
    return operate(
        Walker(), made, label, num, settings=Walk(**settings), seed=seed, batch_size=batch_size,
        part=part,
    )  # fmt: skip


def test_batches_and_workers_change_nothing_and_more_rows_begin_alike():
    whole = walked(300)
    assert list(whole) == ["place", "seen"], "the main field stands first"
    for batch_size in (1, 7, 64, 256, 1000):
        assert torch.equal(walked(300, batch_size=batch_size)["place"], whole["place"])
    for num in (1, 5, 17, 257):
        assert torch.equal(walked(num)["place"], whole["place"][:num])
    for world in (2, 3, 7):
        parts = [walked(300, part=(rank, world)) for rank in range(world)]
        joined = torch.cat([part["place"] for part in parts if part])
        assert torch.equal(joined, whole["place"])
    assert not torch.equal(walked(5, seed=1)["place"], whole["place"][:5])
    rows = whole["place"] - (torch.arange(300) % 3)[:, None]
    assert len(torch.unique(rows[:, 0])) == 300, "every row has noise of its own"


def test_neighbours_and_global_noise_are_found(monkeypatch):
    def noise(total, start, stop):
        return Noise(1, total=total, start=start, stop=stop, dtype=torch.float64)

    batch = {"label": torch.arange(6)}
    check_operations(Walker(), batch, noise)

    class Herd(Walker):
        @operation(gives={"place": "vector"})
        def sample(self, batch, *, rng, settings=None):
            place = rng.normal("x", 2)
            return {"place": place - place.mean(0)}

    with pytest.raises(AssertionError, match="neighbours"):
        check_operations(Herd(), batch, noise)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps=0"], ["flag steps=0: steps: 0 is out of range; allowed: >= 1 (of the walk)"]),
        (["steps=many"], ["steps: must be a whole number, >= 1, not the text 'many'"]),
        (["step=3"], ["unknown key of the settings of operation", "(did you mean 'steps'?)"]),
        (["drift=2", "kind=tame"], ["2 problems in the settings of", "choose plain, wild"]),
        (["steps"], ["an override is key=value"]),
        ({"steps": 1.5}, ["steps: must be a whole number"]),
    ],
)
def test_settings_have_the_errors_of_a_config(words, said):
    with pytest.raises(ConfigError) as failure:
        read_settings(Walk, words, of="operation 'sample' of Walker")
    for text in said:
        assert text in str(failure.value)
    assert read_settings(Walk, ["steps=5e0", "kind=wild"], of="") == Walk(steps=5, kind="wild")


def given(**words):
    return conditions(words, operations(Asker)["sample"], "Asker", SPEC, None)


def test_what_is_given_may_follow_the_data():
    """A flow on pictures or on points: the first field that is there is the main one."""

    class Either(Walker):
        @operation(gives={"image": "image", "vector": "vector"})
        def sample(self, batch, *, rng, settings=None):
            return {"extra": rng.normal("y"), "vector": rng.normal("x", 2)}

    made = find(Either, "sample")
    result = operate(Either(), made, {}, 3, settings=None, seed=0)
    assert list(result) == ["vector", "extra"]
    points = DataSpec({"vector": FieldSpec((2,), "float32")}, "points")
    assert ".csv" in possible(made, points)
    assert ".png" not in possible(made, points)
    assert ".csv" not in possible(made, SPEC)
    assert isinstance(media_of(result, made, points)[0], Table)


def test_what_no_setting_made_is_told_after_all(tmp_path):
    made = find(DDPM, "sample")
    with pytest.raises(UserError, match=r"\.gif is none of \.png.*with these settings"):
        save(tmp_path / "x.gif", media_of({"image": torch.zeros(2, 1, 8, 8)}, made, SPEC), {})
    labelled = {"image": torch.zeros(2, 1, 8, 8), "label": torch.arange(2)}
    forms = media_of(labelled, made, SPEC, columns=5)
    assert [type(form) for form in forms] == [Images, Arrays], "a grid is no table of its labels"
    assert forms[0].columns == 5


class Asker(Walker):
    @operation(takes=("label", "x", "image"), gives={"place": "vector"})
    def sample(self, batch, *, rng, settings=None):
        return {"place": rng.normal("x", 2)}


def test_conditions_are_read_by_the_kind_of_their_field(tmp_path, monkeypatch):
    named = FieldSpec((), "int64", "label", 3)
    object.__setattr__(named, "classes", ("cat", "dog, wet", "Ape"))
    monkeypatch.setitem(SPEC.fields, "label", named)
    for value, wanted in {
        "2": [2], "0,2": [0, 2], "0..2": [0, 1, 2], "cat": [0], "ape,cat": [2, 0], "dog, wet": [1],
    }.items():  # fmt: skip
        assert given(label=value)["label"].tolist() == wanted, value
    for value in (2, [2], torch.tensor(2), np.array([2]), ["Ape"]):
        assert given(label=value)["label"].tolist() == [2]
    assert given(x="0.5,-1")["x"].tolist() == [[0.5, -1.0]]
    assert given(x=[[1, 2], [3, 4]])["x"].shape == (2, 2)
    np.save(tmp_path / "rows.npy", np.zeros((3, 1, 8, 8), np.uint8))
    assert given(image=str(tmp_path / "rows.npy"))["image"].shape == (3, 1, 8, 8)
    assert spread(given(label="0,2"), 5)["label"].tolist() == [0, 2, 0, 2, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"label": "10"}, r"'10' is no class; a class is a number 0..9"),
        ({"label": "-1"}, "no class"),
        ({"label": "5..2"}, "no class"),
        ({"label": "five"}, "no class"),
        ({"label": torch.tensor([11])}, r"whole numbers 0\.\.9"),
        ({"labl": "3"}, r"no such condition; did you mean 'label'\? It takes: label, x, image"),
        ({"x": "1,2,3"}, r"shape \(1, 3\); the model wants \(n, 2\)"),
        ({"x": "nan,1"}, "not finite"),
        ({"image": "/nowhere.png"}, "there is no file"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        given(**words)


@pytest.mark.parametrize("words", [["label"], ["=3"], ["label="], ["label=1", "label=2"]])
def test_words_that_give_nothing_are_refused(words):
    with pytest.raises(UserError, match="--given"):
        words_of(words)


class Talker(nn.Module):
    @operation(takes={"prompt": "tokens"}, gives={"tokens": "tokens"})
    def sample(self, batch, *, rng, settings=None):
        return {"tokens": batch["prompt"], "tokens_length": batch["prompt_length"]}


def test_texts_go_in_and_come_out_by_the_tokenizer_of_the_data(tmp_path):
    field = FieldSpec((-1,), "uint8", "tokens", 256)
    spec = DataSpec(
        {"tokens": field}, "said", tokenizers={"tokens": make_tokenizer("bytes", [], []).plain()}
    )
    made = operations(Talker)["sample"]
    texts = ["ROMEO:", "ü?"]
    rows = conditions({"prompt": texts}, made, "Talker", spec, None)
    assert rows["prompt"].dtype == torch.uint8
    assert rows["prompt_length"].tolist() == [6, 3]
    assert rows["prompt_mask"].sum(1).tolist() == [6, 3]
    result = operate(Talker(), made, spread(rows, 3), 3, settings=None, seed=0)
    out = save(tmp_path / "said.txt", media_of(result, made, spec), {})
    assert out.read_text() == "\n\n--------\n\n".join([*texts, "ROMEO:"]) + "\n"
    assert possible(made, spec)[0] == ".txt"
    assert ".txt" not in possible(made, SPEC), "numbers without a tokenizer are no text"
    for wrong, said in (({"tokens": "x"}, "It takes: prompt"), ({"prompt": ""}, "is empty")):
        with pytest.raises(UserError, match=said):
            conditions(wrong, made, "Talker", spec, None)


def test_rows_of_another_kind_are_refused():
    image, x = SPEC.fields["image"], SPEC.fields["x"]
    assert fit(np.ones((2, 1, 8, 8)), image, "").dtype == torch.float32, "floats in [0, 1] are fine"
    for value, field, said in [
        (np.full((2, 1, 8, 8), 2.0), image, r"\[0, 1\]"),
        (np.full((2, 1, 8, 8), 300), image, "no uint8"),
        (np.ones((2, 3, 8, 8)), image, r"wants \(n, 1, 8, 8\)"),
        (["a"], x, "no array of numbers"),
        (np.full((1, 2), np.inf), x, "not finite"),
    ]:
        with pytest.raises(UserError, match=said):
            fit(value, field, "in")


def test_a_model_without_the_operation_says_what_it_has():
    class Old(nn.Module):
        def sample(self, num, *, rng):
            return torch.zeros(num)

    with pytest.raises(UserError, match=r"Old\.sample\(\) is of an old form"):
        find(Old(), "sample")
    with pytest.raises(UserError, match=r"'samples'; did you mean 'sample'\? It has: sample"):
        find(Walker(), "samples")
    for wrong in (None, {}, {"place": torch.zeros(1)}, {"seen": torch.zeros(3)}):
        bad = type("Bad", (Walker,), {"sample": operation(gives={"place": "vector"})(
            lambda self, batch, *, rng, settings, wrong=wrong: wrong)})  # fmt: skip
        with pytest.raises(UserError, match=r"Bad\.sample\(\)"):
            operate(bad(), find(bad, "sample"), {}, 3, settings=None, seed=0)


@pytest.fixture
def vae(place, tmp_path):
    about = json.loads((SPINE / "run.json").read_text())
    return rayloom.load(shutil.copytree(SPINE, tmp_path / "runs" / about["run_id"]))


def rayloom_says(capsys, *words):
    code = main([*map(str, words)])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_files_and_side_cars_are_functions_of_what_was_asked(vae, tmp_path, capsys):
    words = ["sample", vae.path, "-n", 5, "--seed", 3]
    for ending in (".png", ".npy", ".npz", ".safetensors"):
        first, second = tmp_path / f"a/x{ending}", tmp_path / f"b/x{ending}"
        assert rayloom_says(capsys, *words, "--out", first)[0] == 0
        assert rayloom_says(capsys, *words, "--out", second, "--batch-size", 64)[0] == 0
        assert first.read_bytes() == second.read_bytes()
        side = json.loads((tmp_path / f"a/x{ending}.json").read_text())
        assert side == json.loads((tmp_path / f"b/x{ending}.json").read_text())
        assert (side["run"], side["operation"], side["num"], side["seed"]) == (
            vae.id,
            "sample",
            5,
            3,
        )
    drawn = np.load(tmp_path / "a/x.npy")
    assert np.array_equal(drawn, vae.sample(5, seed=3))
    assert np.array_equal(np.load(tmp_path / "a/x.npz")["samples"], drawn)
    assert sorted(os.listdir(tmp_path / "a")) == sorted(os.listdir(tmp_path / "b")), "nothing else"
    code, told = rayloom_says(capsys, *words, "--out", tmp_path / "x.csv")
    assert code == 2
    assert "what 'sample' gives must end in .png, .npy, .npz, .safetensors" in told


def test_operations_on_rows_by_word_file_and_array(vae, tmp_path, capsys, monkeypatch):
    out = tmp_path / "codes.csv"
    code, told = rayloom_says(capsys, "apply", vae.path, "embed", "--in", "test:3..8", "--out", out)
    assert code == 0, told
    codes = vae.apply("embed", "digits:test:3..8")["code"]
    assert len(out.read_text().splitlines()) == 1 + len(codes) == 7
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = vae.apply("reconstruct", "test:3..8")["image"]
    for number, row in enumerate((rows[:, 0] * 255).round().to(torch.uint8)):
        Image.fromarray(row.numpy()).save(folder / f"{number}.png")
    for name in ("rows.npy", "rows.npz"):
        saver = np.save if name.endswith("npy") else lambda path, x: np.savez(path, image=x)
        saver(tmp_path / name, (rows.numpy() * 255).round().astype(np.uint8))
    again = vae.apply("embed", str(folder))["code"]
    monkeypatch.chdir(tmp_path)
    assert torch.equal(vae.apply("embed", "pictures")["code"], again)
    folder.rename(tmp_path / "test")
    assert torch.equal(vae.apply("embed", "test:3..8")["code"], codes), "the split, not the folder"
    assert torch.equal(vae.apply("embed", "./test")["code"], again)
    for source in (tmp_path / "rows.npy", str(tmp_path / "rows.npz")):
        assert torch.equal(vae.apply("embed", source)["code"], again)
    with pytest.raises(UserError, match=r"VAE has no operation 'predict'.*It has: sample, embed"):
        vae.predict(rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "--out", "x.csv"], "'embed' of VAE reads 'image'"),
        (["embed", "--in", "test:400", "--out", "x.csv"], "whose rows are 0..359"),
        (["embed", "--in", "test:1:2", "--out", "x.csv"], "none of SPLIT"),
        (["embed", "--in", "test:a", "--out", "x.csv"], "no range"),
        (["embed", "--in", "tset", "--out", "x.csv"], "did you mean 'test'"),
        (["embed", "--in", "no.png", "--out", "x.csv"], "there is no file no.png"),
        (["embed", "--in", "test", "--out", "x.doc"], "must end in .png"),
        (["embed", "--in", "test", "--out", "x.png"], "must end in .jsonl"),
        (["sample", "--in", "test", "--out", "x.png"], "reads no rows"),
        (["sample", "--out", "runs/../folder.png"], "is a folder"),
        (["sample", "--out", "file/x.png"], "file takes no files"),
        (["embed", "--in", "test", "k=1", "--out", "x.csv"], "has no settings"),
        (["embed", "--in", "test", "--out", "x.csv", "--given", "label=1"], "no such condition"),
        (["embed", "--in", "test", "--out", "x.csv", "--batch-size", "0"], "at least 1"),
    ],
)
def test_mistakes_end_with_2_and_write_nothing(vae, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    code, told = rayloom_says(capsys, "apply", vae.path, *words)
    assert (code, said in told) == (2, True), told
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png", "runs"]


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    made = operations(Walker)["sample"]
    forms = media_of({"place": torch.zeros(3, 2)}, made, SPEC)
    out = save(tmp_path / "x.npy", forms, {"seed": 1})
    good = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*x\.npy: No space"):
        save(out, media_of({"place": torch.ones(3, 2)}, made, SPEC), {"seed": 2})
    assert out.read_bytes() == good
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.npy.json"]


def test_workers_give_what_one_process_gives(vae, monkeypatch):
    """The entry of the workers, rank by rank in this process."""

    def run_workers(entry, payload, *, workers):
        for rank in range(workers):
            collective = SimpleNamespace(rank=rank, world=workers, barrier=lambda: None)
            operate_workers.operate_worker(payload, collective)

    monkeypatch.setattr("rayloom.distributed.train.run_workers", run_workers)
    from rayloom_pipelines.load.application import prepare

    for name, source in (("sample", {"num": 150}), ("embed", {"data": "test:0..149"})):
        made = prepare(vae, name, **source)
        alone, two = made.compute(), made.compute(workers=2)
        assert list(alone) == list(two)
        assert all(torch.equal(alone[field], two[field]) for field in alone)


def test_list_tells_the_operations(capsys):
    code, told = rayloom_says(capsys, "list", "models", "vae")
    assert code == 0
    assert "reads image (--in)" in told
    assert "beta-vae" not in told
    code, told = rayloom_says(capsys, "list", "models", "-v", "--json")
    rows = {row["name"]: row for row in json.loads(told)["models"]}
    assert rows["beta-vae"]["operations"][0]["name"] == "sample"
    for words, said in ((["models", "vea"], "did you mean 'vae'"), (["envs", "x"], "with models")):
        code, told = rayloom_says(capsys, "list", *words)
        assert (code, said in told) == (2, True), told
