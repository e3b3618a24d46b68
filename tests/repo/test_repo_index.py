"""The lines of the indexes say what the classes are, though nothing of them is imported for it."""

import ast
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from rayloom import catalogue
from rayloom.models.autoencoders.vae import VAE

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("sample", "log_prob", "elbo", "encode", "reconstruct")  # capabilities that are methods
INDEXES = sorted((ROOT / "platform" / "rayloom").rglob("index.py"))
OURS = [
    (kind, entry)
    for kind in catalogue.KINDS
    for entry in catalogue.entries(kind).values()
    if entry.source == "rayloom"
]


def offered(model):
    """The capabilities that a class has."""
    return {word for word in WORDS if callable(getattr(model, word, None))}


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


@pytest.mark.parametrize("name", sorted(catalogue.names("models")))
def test_the_capabilities_of_a_model_are_its_own(name):
    assert set(catalogue.lookup("models", name).capabilities) == offered(
        catalogue.load("models", name)
    )


def test_a_wrong_capability_is_seen():
    class Dumb(VAE):
        encode = None

    assert offered(Dumb) == offered(VAE) - {"encode"} != offered(VAE)
