"""What is looked up by name on a model, a trainable or an updater stands in one list each."""

import ast
import re
from pathlib import Path

import pytest

from rayloom.core.protocols import model, rl, trainable

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("platform/rayloom/training", "platform/rayloom/rl", "platform/rayloom/testing")
WIRING = ("run", "load", "groups")
LISTS = {"model": model.OPTIONAL, "trainable": trainable.OPTIONAL, "updater": rl.OPTIONAL}
CONTRACT = {"config_class", "players", "loss"}


def asked_of(text, who):
    """Names that `getattr` and `hasattr` look up on `who` or `self.who`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            owner, name = node.args[:2]
            called = getattr(owner, "id", None) or getattr(owner, "attr", None)
            if called == who and isinstance(name, ast.Constant):
                yield name.value


def names(listed):
    return {re.match(r"[\w]+", line).group() for line in listed} | {"sample"}


@pytest.mark.parametrize("who", list(LISTS))
def test_every_optional_member_is_listed_with_what_stands_for_it(who):
    folders = [ROOT / room for room in ROOMS]
    folders += [ROOT / "pipelines" / "rayloom_pipelines" / part for part in WIRING]
    asked = {
        name
        for folder in folders
        for path in folder.rglob("*.py")
        for name in asked_of(path.read_text(), who)
    }
    assert asked, "the scan finds nothing any more"
    assert asked - names(LISTS[who]) - CONTRACT == set()
    assert all(default.strip() for default in LISTS[who].values())


def test_a_member_that_is_not_listed_is_seen():
    text = (
        "def f(self, model):\n    return getattr(self.model, 'secret', None), hasattr(model, 'b')"
    )
    assert set(asked_of(text, "model")) == {"secret", "b"}
