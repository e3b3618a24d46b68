"""What an MLflow server answers beside its words: the status, and when to ask again.

MLflow's client turns an answer such as 503 into an exception without its status and `Retry-After`,
after retries of its own. Here its HTTP session is told to hand on every answer, and is heard.
"""

import contextlib
import datetime
import email.utils
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from requests import Response

LONGEST_WAIT_S = 3600.0  # of a `Retry-After`; a server may well mean it
_ASKS_TO_WAIT = (429, 503)
_here = threading.local()
_not_before: dict[str, float] = {}  # host: monotonic time


def listen() -> None:
    """Hear the answers that MLflow's client gets in this process; saying it again is harmless."""
    from mlflow import environment_variables as settings
    from mlflow.utils import request_utils

    session = request_utils._get_request_session(
        settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(),
        settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get(),
        settings.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get(),
        request_utils._TRANSIENT_FAILURE_RESPONSE_CODES,
        True,
        settings.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get(),
    )
    hooks = session.hooks["response"]
    if _hear not in hooks:
        hooks.append(_hear)
        for adapter in session.adapters.values():
            adapter.max_retries = adapter.max_retries.new(raise_on_status=False)


def _hear(response: "Response", *args: Any, **settings: Any) -> None:  # requests' own signature
    _here.status = response.status_code
    host = urlsplit(response.url).netloc
    wait_s = _seconds(response.headers.get("Retry-After", ""))
    if response.status_code in _ASKS_TO_WAIT and wait_s > 0:
        _not_before[host] = time.monotonic() + min(wait_s, LONGEST_WAIT_S)
    elif response.status_code < 400:
        _not_before.pop(host, None)


def _seconds(header: str) -> float:
    """A `Retry-After`, which is a number of seconds or a date."""
    with contextlib.suppress(ValueError):
        return float(header)
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(header)
        return (when - datetime.datetime.now(datetime.UTC)).total_seconds()
    return 0.0


def forget() -> None:
    """Begin something new in this thread: what was answered before says nothing about it."""
    _here.status = None


def last_status() -> int | None:
    """HTTP status of the last answer in this thread; None if there was none."""
    return getattr(_here, "status", None)


def wait_asked_s(uri: str) -> float:
    """Seconds for which the server of a tracking URI asked not to be asked again."""
    host = urlsplit(uri).netloc.rpartition("@")[2]
    return max(0.0, _not_before.get(host, 0.0) - time.monotonic())
