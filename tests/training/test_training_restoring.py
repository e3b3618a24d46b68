"""Resuming: the newest checkpoint that verifies and fits; where none fits, all of them stay."""

import pytest
import torch

from rayloom.core.collective import Solo
from rayloom.core.errors import CheckpointError, UserError
from rayloom.records import Checkpoints
from rayloom.training.restoring import restore


@pytest.fixture
def store(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        made.save(step, {"w": torch.full((2,), float(step))}, metrics={})
    return made


def names(store):
    return sorted(path.name for path in store.folder.glob("step-*"))


@pytest.mark.parametrize(
    "error",
    [KeyError("w"), TypeError("no"), ValueError("no"), RuntimeError("size mismatch"), IndexError()],
)
def test_one_that_does_not_fit_gives_way_and_is_put_aside(store, error):
    said, taken = [], []

    def take(state):
        if float(state["w"][0]) > 1.5:
            raise error
        taken.append(float(state["w"][0]))

    assert restore(store, take, collective=Solo(), say=said.append) == 1
    assert taken == [1.0]
    assert names(store) == ["step-000000000001"]
    assert len(said) == 2
    assert "step-000000000003 is not used" in said[0]


def test_where_none_fits_all_stay_and_the_newest_one_s_reason_is_told(store):
    def take(state):
        raise KeyError(f"step {float(state['w'][0]):.0f}")

    with pytest.raises(
        CheckpointError, match=r"the checkpoint at 3 does not fit: KeyError: 'step 3'"
    ):
        restore(store, take, collective=Solo(), say=print)
    assert len(names(store)) == 3

    def refuse(state):
        raise UserError("other data")

    with pytest.raises(UserError, match="other data"):
        restore(store, refuse, collective=Solo(), say=print)


def test_too_little_memory_is_no_fault_of_the_checkpoint(store):
    def take(state):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        restore(store, take, collective=Solo(), say=print)
    assert len(names(store)) == 3


def test_no_checkpoint_is_no_error(tmp_path):
    empty = Checkpoints(tmp_path / "none")
    assert restore(empty, print, collective=Solo(), say=print) is None
