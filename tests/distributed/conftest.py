"""One local Ray for the whole test session, started by the first test that needs it."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray of 4 CPUs, shared by all tests of this process."""
    # workers find the toy entries of this folder
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *([before] if before else [])])
    from rayloom.distributed.cluster import start_ray

    with start_ray("local", cpus=4) as cluster:
        yield cluster
    if before is None:
        os.environ.pop("PYTHONPATH")
    else:
        os.environ["PYTHONPATH"] = before


def pytest_collection_modifyitems(items):
    """Jobs come first: their head has a token of its own, which this process then sends.

    A driver that is connected to the session's Ray at that time would lose its GCS.
    """
    ours = [i for i, item in enumerate(items) if HERE in item.path.parents]
    ordered = sorted((items[i] for i in ours), key=lambda item: "jobs" not in item.path.name)
    for place, item in zip(ours, ordered, strict=True):
        items[place] = item
