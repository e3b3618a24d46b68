"""Weights that belong elsewhere are refused with names and shapes."""

import pytest
import torch
from torch import nn

from rayloom.core.errors import UserError
from rayloom_pipelines.load.shapes import fit_weights
from rayloom_pipelines.load.weights import copy_parameters

GOOD = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
BAD = {
    "shape": GOOD | {"weight": torch.ones(2, 4)},
    "missing": {"weight": torch.ones(2, 3)},
    "unknown": GOOD | {"more": torch.ones(1)},
}
SAID = {
    "shape": r"weight is \(2, 3\) here and \(2, 4\) there",
    "missing": r"bias is \(2,\) here and not there",
    "unknown": r"more is not here and \(1,\) there",
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named_and_changes_nothing(case):
    layer = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(UserError, match=SAID[case]):
        fit_weights(layer, BAD[case])
    with pytest.raises(UserError, match=SAID[case]):
        copy_parameters(dict(layer.named_parameters()), BAD[case])
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_what_fits_is_copied():
    layer = nn.Linear(3, 2)
    fit_weights(layer, GOOD)
    assert torch.equal(layer.weight, GOOD["weight"])
