"""A Ray of one's own for one training run starts nothing that has nothing to do there."""

import os

import pytest

from rayloom.distributed.cluster import _environment
from rayloom.distributed.lean import ENVIRONMENT, trainer_class


def callbacks(local):
    from ray.train import ScalingConfig

    trainer = trainer_class(local=local)(print, scaling_config=ScalingConfig(num_workers=2))
    return {type(one).__name__ for one in trainer._create_default_callbacks()}


def test_a_local_trainer_lacks_the_two_idle_actors_and_nothing_else():
    on_cluster, local = callbacks(False), callbacks(True)
    assert on_cluster - local == {"PlacementGroupCleanerCallback", "DatasetsCallback"}
    assert local < on_cluster
    assert "BackendSetupCallback" in local


@pytest.mark.parametrize(
    ("local", "lean", "expected"), [(True, True, "0"), (True, False, None), (False, True, None)]
)
def test_variables_are_for_that_block_and_that_ray(monkeypatch, local, lean, expected):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("rayloom.distributed.cluster.connected", lambda: False)
    with _environment(local=local, lean=lean):
        assert {os.environ.get(name) for name in ENVIRONMENT} == {expected}
    assert not ENVIRONMENT.keys() & os.environ.keys()
    monkeypatch.setenv("RAY_TRAIN_METRICS_ENABLED", "1")
    with _environment(local=local, lean=lean):
        assert os.environ["RAY_TRAIN_METRICS_ENABLED"] == "1"
