"""No library noise on the console: warnings and log records go to the run's log."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayloom.core.secrets import mask
from rayloom.records.inside import LogFile


class _Masked(logging.Formatter):
    """Records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return mask(super().format(record))


@contextmanager
def quiet(log_path: Path | None) -> Iterator[None]:
    """Send the log records and warnings of libraries to a file, or nowhere.

    Args:
        log_path: The run's log; None drops them.
    """
    handler: logging.Handler = logging.NullHandler() if log_path is None else LogFile(log_path)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    for name in ("GIT_PYTHON_REFRESH",):
        os.environ.setdefault(name, "quiet")
    loud = bool(sys.warnoptions)  # python -W ...: the user wants to see them
    with warnings.catch_warnings():
        if not loud:
            logging.captureWarnings(True)
        try:
            yield
        finally:
            if not loud:
                logging.captureWarnings(False)
            root.removeHandler(handler)
            handler.close()
