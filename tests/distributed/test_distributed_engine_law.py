"""The law of data parallelism on Ray Train's workers: seven toy models, batches of 64, 7 and 1."""

import pytest

from rayloom.distributed.train import run_workers
from training import law
from training.toys import CASES


@pytest.fixture(scope="module")
def found(ray_cluster):
    """What rank 0 of two Ray workers found, all cases in one run."""
    return run_workers("toy_entries:engine_law", {}, workers=2)


@pytest.mark.parametrize("name", CASES)
def test_ray_workers_equal_one_process(found, name):
    for batch_size in law.BATCH_SIZES:
        assert found["law"][f"{name}/{batch_size}"] < law.TOLERANCE
    assert found["resume"][name]
