"""The JSON schema for editors accepts what the loader accepts and marks what it refuses."""

from pathlib import Path

import pytest

from rayloom import catalogue
from rayloom.config.resolved import config_from_dict
from rayloom.config.schema import json_schema
from rayloom.config.yaml_marks import parse

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parents[2]
MODEL = {"model": {"name": "toy"}, "data": {"name": "digits"}}


@pytest.fixture
def schema(monkeypatch):
    """The schema over the toys only: no heavy import."""
    toys = {
        kind: {n: e for n, e in table.items() if e.source == "tests"}
        for kind, table in catalogue.CATALOGUE.items()
    }
    monkeypatch.setattr(catalogue, "CATALOGUE", toys)
    return json_schema()


def errors(schema, tree):
    jsonschema.Draft7Validator.check_schema(schema)
    return list(jsonschema.Draft7Validator(schema).iter_errors(tree))


SPACE = {"search": "int", "low": 1, "high": 4}


@pytest.mark.parametrize(
    "tree",
    [
        MODEL,
        {"extends": "base.yaml"},
        {"extends": ["a", "b"], "model": {"latent_dim": 3}},
        {"model": {"name": "other", "depth": 3}},
        {"model": {"name": "toy", "latent_dim": SPACE}},
        {"optimizer": {"lr": {"search": "loguniform", "low": 1, "high": 2}}},
        {"optimizer": {"name": "sgd", "momentum": 0.5}},
        {"optimizer": {"g": {"lr": 1}, "d": {"name": "sgd", "momentum": 0.5}}},
        {"train": {"ema": {"decay": {"search": "uniform", "low": 0.1, "high": 0.2}}}},
        {"train": {"schedule": {"name": "cosine"}, "ema": None, "stop": {"eval/loss": 1}}},
        {"seed": SPACE},
        {"algorithm": {"name": "toy-q", "double": {"search": "choice", "values": [True]}}},
        {"env": {"name": "A-v0", "kwargs": {"a": [1]}, "wrappers": ["x", {"name": "y", "z": 1}]}},
    ],
)
def test_good_trees_pass(tree, schema):
    assert errors(schema, tree) == []


@pytest.mark.parametrize(
    "tree",
    [
        {"modle": {}},
        {"model": {"name": "toy", "latent_dim": 0}},
        {"model": {"name": "toy", "latent_dim": "x"}},
        {"model": {"name": "toy", "depth": 3}},
        {"model": {"name": "nothing"}},
        {"model": {"name": "toy", "latent_dim": {"search": "int", "low": 1}}},
        {"model": {"name": "toy", "latent_dim": {"search": "integer", "low": 1, "high": 2}}},
        {"optimizer": {"lr": "x"}},
        {"optimizer": {"name": "sgd", "eps": 1}},
        {"optimizer": {"g": {"name": "sgd", "eps": 1}}},
        {"train": {"epoch": 3}},
        {"train": {"ema": {"decay": 2}}},
        {"seed": -1},
        {"resources": {"workers": SPACE}},
    ],
)
def test_bad_trees_are_marked(tree, schema):
    assert errors(schema, tree)


def test_hover_texts_are_there(schema):
    lr = schema["definitions"]["AdamWConfig"]["properties"]["lr"]
    assert lr["description"] == "learning rate"
    assert lr["default"] == 1e-3


def test_the_schema_of_one_config_has_its_own_model_only(schema):
    narrow = json_schema(config_from_dict(MODEL))
    assert errors(narrow, MODEL) == []
    assert errors(narrow, {"model": {"name": "other"}})
    assert errors(narrow, {"algorithm": {"name": "toy-q"}})


SHIPPED = sorted((ROOT / "configs").glob("*/*.yaml"))


def test_shipped_configs_pass():
    assert SHIPPED
    schema = json_schema()
    for path in SHIPPED:
        tree = parse(path.read_text(), path.name, [])
        assert [error.message for error in errors(schema, tree.plain())] == [], path
