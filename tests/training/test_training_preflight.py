"""The metrics of an evaluation are found out without leaving a trace in the model."""

import copy

import pytest
import torch

from rayloom.training import Engine
from rayloom.training.preflight import evaluation_names
from training.toys import CASES, build


@pytest.mark.parametrize("name", list(CASES))
def test_asked_names_are_those_of_the_evaluation_and_the_model_stays(name):
    model, config, source, held_out = build(name, batch_size=7)
    model.train()
    part = next(iter(model.modules()))
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    batch = {key: value[:2] for key, value in held_out.batch(0).fields.items()}
    found = evaluation_names(model, config, batch)
    assert part.training
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    given = Engine(model, config, source, held_out).evaluate()
    assert set(found) == {key for key in given if not key.endswith("_se")}
