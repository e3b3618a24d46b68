"""One local Ray for the tests of this folder, started by the first test that needs it."""

import contextlib
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RAY = contextlib.ExitStack()  # what the tests of this folder share, until the last of them
STARTED = []


@contextlib.contextmanager
def own_ray():
    """A local Ray of 4 CPUs; its workers find the toy entries of this folder."""
    from rayloom.distributed.cluster import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        with start_ray("local", cpus=4) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray, shared by all tests of this folder and gone when others begin."""
    if not STARTED:
        STARTED.append(RAY.enter_context(own_ray()))
        RAY.callback(STARTED.clear)
    return STARTED[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """A fixture's scope cannot be a folder without `__init__.py`."""
    if nextitem is None or HERE not in nextitem.path.parents:
        RAY.close()


def pytest_collection_modifyitems(items):
    """Jobs come first: their head has a token of its own, which this process then sends.

    A driver that is connected to the session's Ray at that time would lose its GCS.
    """
    ours = [i for i, item in enumerate(items) if HERE in item.path.parents]
    ordered = sorted((items[i] for i in ours), key=lambda item: "jobs" not in item.path.name)
    for place, item in zip(ours, ordered, strict=True):
        items[place] = item
