"""One local Ray for the tests of this folder, started by the first test that needs it."""

import contextlib
import os
import threading
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


@pytest.fixture
def killed_at_birth():
    """Call it with a title: the next process below this one that takes it is killed."""
    import psutil

    over = threading.Event()
    threads = []

    def bearers(title):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    yield process

    def look_for(title, known):
        while not over.wait(0.01):
            for process in bearers(title):
                if process.pid not in known:
                    process.kill()
                    return

    def start(title):
        known = {process.pid for process in bearers(title)}
        threads.append(threading.Thread(target=look_for, args=[title, known], daemon=True))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


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
