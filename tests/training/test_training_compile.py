"""`train.compile`: the same numbers, and eager where a double backward is needed."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayloom.core.errors import UserError
from rayloom.training.compiled import compile_networks
from training.toys import Adversaries, Regression

PROGRAM = """
import torch
torch.set_num_threads(1)
from torch._dynamo.utils import counters
from training.law import difference, train
from rayloom.core.collective import Solo

compiled, _ = train("regression", 64, Solo(), steps=6, compile=True)
assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
compiled.evaluate()
eager, _ = train("regression", 64, Solo(), steps=6)
assert difference(compiled, eager) < 1e-4
assert list(compiled.model.state_dict()) == list(eager.model.state_dict())
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager():
    """In a process of its own: the shape-checking hook would make torch.compile fail."""
    root = Path(__file__).parents[2]
    paths = [str(root / name) for name in ("platform", "envs", "pipelines", "tests")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, timeout=240)


def test_double_backward_stays_eager(caplog):
    with caplog.at_level(logging.WARNING):
        assert compile_networks(Adversaries(), torch.device("cpu")) == []
    assert "double backward" in caplog.text


def test_a_missing_compiler_is_explained(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C"):
        compile_networks(Regression(), torch.device("cpu"))
