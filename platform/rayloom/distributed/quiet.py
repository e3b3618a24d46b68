"""Ray without its noise: its variables, its loggers, its prints, its hold on SIGTERM."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rayloom.core.swaps import replaced

# Read by Ray at import or at start; a value that the user set always wins.
QUIET_ENV: dict[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also paces ray.train.report
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
    "RAY_DEDUP_LOGS": "0",
}


@contextlib.contextmanager
def muted_stderr() -> Iterator[Callable[[], str]]:
    """Nothing reaches file descriptor 2 in this block: Ray's C++ core writes warnings to it.

    Gives a function that returns what was written so far.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)

        def text() -> str:
            return os.pread(caught.fileno(), 100_000, 0).decode("utf-8", "replace")

        try:
            yield text
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def logged_errors() -> Iterator[None]:
    """What Ray's own processes have to say goes to the log, not to standard output.

    `log_to_driver=False` silences the workers alone: a thread of the driver still prints that a
    worker died, or that many were started, into the middle of a progress line or of JSON events.
    """
    from ray._private import worker

    told: set[str] = set()

    def noted(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:  # each often holds pages of another process's log
            first = str(line).strip().partition("\n")[0][:400]
            if first and first not in told:
                told.add(first)
                logging.getLogger("rayloom.ray").warning("%s: %s", data["pid"], first)

    with replaced(worker, "print_to_stdstream", noted):
        yield


def quiet_loggers() -> None:
    """Ray's libraries log nothing below critical: what matters is told in our words."""
    for name in ("ray", "ray.tune", "ray.train", "ray.rllib", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's own ends the process with code 1 and no checkpoint.

    Not for a moment is Ray's in its place: a start of Ray may take long. What Ray's core puts below
    it, which prints where the program stands and goes on to ours, is taken away at the end.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    if before in (None, signal.SIG_DFL):
        yield
        return
    from ray._private import utils

    try:
        with replaced(utils, "set_sigterm_handler", _install_nothing):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _install_nothing(handler: object) -> None:
    """Stands where Ray installs its handler of SIGTERM."""


def first_line(error: BaseException) -> str:
    """The line of an error's message that says most, without terminal colours.

    Ray's errors often hold a whole traceback, whose last line is the one.
    """
    import re

    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if "Traceback" in text else 0][:300]
