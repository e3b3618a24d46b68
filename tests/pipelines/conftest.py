"""What the tests of the Python API share."""

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder for the whole module: storage, MLflow database."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("work")
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder
