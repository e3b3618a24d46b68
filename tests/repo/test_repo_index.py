"""The lines of the indexes say what the classes are, though nothing of them is imported for it."""

import ast
import re
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from rayloom import catalogue
from rayloom.catalogue import described
from rayloom.core.declared import declared_metrics
from rayloom.core.errors import UserError
from rayloom.models.autoencoders.vae import VAE

ROOT = Path(__file__).resolve().parents[2]
INDEXES = sorted((ROOT / "platform" / "rayloom").rglob("index.py"))
OURS = [
    (kind, entry)
    for kind in catalogue.KINDS
    for entry in catalogue.entries(kind).values()
    if entry.source == "rayloom"
]


def test_every_index_is_in_the_catalogue():
    """A family whose index nobody named would be unknown."""
    said = Counter()
    for path in INDEXES:
        if path.parent.name == "records":  # of runs
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Entry":
                said[ast.literal_eval(node.args[0])] += 1
    assert said == Counter(entry.name for _, entry in OURS)


@pytest.mark.parametrize("entry", [entry for _, entry in OURS], ids=lambda entry: entry.name)
def test_a_line_leads_to_a_class(entry):
    module, _, name = entry.target.partition(":")
    spec = find_spec(module)
    tree = ast.parse(Path(spec.origin).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert entry.summary
    assert not entry.summary.endswith(".")


METHODS = [(kind, entry) for kind, entry in OURS if kind in described.METHODS]


@pytest.mark.parametrize(("kind", "entry"), METHODS, ids=lambda one: getattr(one, "name", one))
def test_a_line_says_what_the_class_says(kind, entry):
    """Kind of work, what its best means, what it can do, and the paper with its year."""
    owner = catalogue.load(kind, entry.name)
    said = described.described(kind, owner)
    assert {key: getattr(entry, key) for key in said} == said
    for name in ("task", "metrics", "default_metric", "example"):
        assert hasattr(owner, name), f"{owner.__name__} declares no {name}"
    assert declared_metrics(owner)
    text = " ".join(import_module(owner.__module__).__doc__.split())
    assert re.search(rf"{entry.year}[,)]? ?{re.escape(entry.paper)}", text), "year, paper"


def test_a_wrong_line_is_seen():
    class Dumb(VAE):
        encode = None
        task = "sequence"
        default_metric = None

    said = described.described("models", Dumb)
    assert said == {
        "task": "sequence",
        "default_metric": None,
        "capabilities": ("sample", "embed", "reconstruct", "elbo"),
    }


def test_a_plugin_s_class_writes_its_own_line():
    class Dumb(VAE):
        """Says nothing."""

        task = "supervised"

    entry = catalogue.register("models", "dumb", Dumb, source="tests")
    try:
        assert (entry.task, entry.default_metric) == ("supervised", "eval/elbo_nats")
        assert entry.capabilities == ("sample", "embed", "reconstruct", "elbo", "encode")
        assert catalogue.task_of("models", "dumb").noun == "a supervised model"
        Dumb.task = "superwised"
        with pytest.raises(UserError, match=r"Dumb.task: no kind of work is called 'superwised'"):
            catalogue.register("models", "dumb", Dumb, source="tests")
    finally:
        catalogue.CATALOGUE["models"].pop("dumb")
        catalogue.table.OBJECTS.pop(("models", "dumb"), None)
