"""What an error of MLflow's means: this item is refused, this MLflow is closed, or it will pass.

Told by types, error codes and HTTP statuses where there are any; databases and object stores are
told by the words of their messages. What is not known counts as passing: it is tried again, with
growing pauses, and every wait for it ends.
"""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rayloom.core.secrets import mask
from rayloom.core.text import one_line
from rayloom.tracking.answers import last_status

Kind = Literal["refused", "closed", "passing"]
_CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of an "
    "account that may write there"
)
_NOT_MLFLOW = "check that tracking.uri is the address of an MLflow server, and not too old a one"
_STORE = "give this process the right credentials of the artifact store"
_SAY_WHERE = "correct tracking.uri"
_OWNER = "change the owner or the permissions of the file and of its folder"

# MLflow's own error codes; all others are passing, or told by the HTTP status.
_CODES: dict[str, tuple[Kind, str]] = {
    **dict.fromkeys(("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"), ("closed", _CREDENTIALS)),
    **dict.fromkeys(("PERMISSION_DENIED", "FEATURE_DISABLED"), ("closed", _CREDENTIALS)),
    **dict.fromkeys(("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"), ("closed", _NOT_MLFLOW)),
    **dict.fromkeys(
        (
            "INVALID_PARAMETER_VALUE",
            "BAD_REQUEST",
            "MALFORMED_REQUEST",
            "RESOURCE_ALREADY_EXISTS",
            "ALREADY_EXISTS",
            "RESOURCE_DOES_NOT_EXIST",
            "NOT_FOUND",
            "INVALID_STATE",
            "INVALID_STATE_TRANSITION",
            "DATA_LOSS",
            "QUOTA_EXCEEDED",
            "RESOURCE_LIMIT_EXCEEDED",
            "MAX_BLOCK_SIZE_EXCEEDED",
        ),
        ("refused", ""),
    ),
}
_STATUSES: dict[int, tuple[Kind, str]] = {
    401: ("closed", _CREDENTIALS),
    403: ("closed", _CREDENTIALS),
    407: ("closed", "the proxy wants credentials: HTTP_PROXY, HTTPS_PROXY, NO_PROXY"),
    404: ("closed", _NOT_MLFLOW),
    405: ("closed", _NOT_MLFLOW),
    410: ("closed", _NOT_MLFLOW),
    501: ("closed", _NOT_MLFLOW),
    505: ("closed", _NOT_MLFLOW),
    **dict.fromkeys((408, 425, 429), ("passing", "")),
}
# Words of databases, certificates and object stores that no waiting will change.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"readonly database|unable to open database file|permission denied", _OWNER),
    (r"file is not a database|disk image is malformed", "choose another file for tracking.uri"),
    (r"out-of-date database schema", "upgrade it with MLflow's own command, `mlflow db upgrade`"),
    (r"can't locate revision", "a newer MLflow made this database: install that one"),
    (r"authentication failed|access denied for user", "correct the user and password in the URI"),
    (r"unknown database|database \S+ does not exist", "make the database, or correct the URI"),
    (r"unsupported uri|no known supported|can't load plugin: sqlalchemy", _SAY_WHERE),
    (r"invalid url|failed to parse|no host supplied|no connection adapters", _SAY_WHERE),
    (
        r"certificate_?\s?verify_?\s?failed|hostname mismatch",
        "set MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    (r"exceeded \d+ redirects", _NOT_MLFLOW),
    (r"databricks (credential|authentication)", "set up databricks' credentials, or another URI"),
    (
        r"\b(AccessDenied|NoSuchBucket|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
        r"|InvalidToken|AllAccessDisabled|AccountProblem|AuthorizationFailure|ContainerNotFound)\b",
        _STORE,
    ),
)
# What MLflow's client and urllib3 wrap around what happened.
_SHORTER: tuple[tuple[str, str], ...] = (
    (r"API request to endpoint \S+ failed with error code (\d+) != 200\. Response body:", r"\1"),
    (r"API request to \S+ failed with (timeout )?exception ", ""),
    (r"^\('Connection aborted\.', \w+\(['\"]?([\s\S]*?)['\"]?\)\)$", r"\1"),
    (r"\w+Pool\(host='[^']*', port=\d+\): (Max retries exceeded with url: \S+ )?", ""),
    (r"\(Caused by \w+\(['\"]?([\s\S]*?)['\"]?\)\)$", r"\1"),
    (r"<?\w*\.?\w*Connection\w*\([^)]*\): |<[\w.]+ object at 0x\w+>: ", ""),
    (r"^\(\w+(\.\w+)+\) ", ""),
)
_STORE_ERRORS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "NoRegionError",
        "ParamValidationError",
        "DefaultCredentialsError",
        "ClientAuthenticationError",
    }
)
_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
    "google": "google-cloud-storage",
}
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True)
class Trouble:
    """What to make of an error.

    Attributes:
        kind: `refused`: this tag, metric or file will never be taken; `closed`: nothing will be
            until somebody does something; `passing`: later.
        text: The error in one line, without passwords.
        remedy: What to do; "" if there is nothing to say.
    """

    kind: Kind
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


class NotMlflowError(Exception):
    """Something answers, but not as MLflow does."""


class RefusesAllError(Exception):
    """MLflow refuses whatever it is sent."""


class RunGoneError(Exception):
    """The MLflow run was deleted meanwhile."""


def diagnose(error: BaseException) -> Trouble:
    """What an error that MLflow, a database or an artifact store raised means."""
    text = short(error)
    kind, remedy = _judge(error)
    return Trouble(kind, text, remedy)


def short(error: BaseException) -> str:
    """An error as one short line, without user information of addresses."""
    told = getattr(error, "strerror", None)
    text = (f"{told}: {getattr(error, 'filename', '')}" if told else str(error)).strip(": \n")
    text = re.sub(r"<(style|script|head)[\s\S]*?</\1>|<[^>]*>", " ", text)  # a proxy's page
    text = re.sub(r"\s+", " ", text.partition("\n[SQL")[0])
    for pattern, short in _SHORTER:
        text = re.sub(pattern, short, text)
    text = one_line(mask(text.strip(" :")))
    return (text if len(text) <= 300 else text[:299] + "…") or type(error).__name__


def _judge(error: BaseException) -> tuple[Kind, str]:
    from requests import exceptions as http

    chain = list(_chain(error))
    if isinstance(error, RunGoneError):
        return "passing", ""
    if isinstance(error, RefusesAllError):
        return "closed", _NOT_MLFLOW
    for one in chain:
        if isinstance(one, ImportError):
            name = (one.name or "").partition(".")[0]
            package = _PACKAGES.get(name, name) or "what is missing"
            return "closed", f"install it where rayloom runs: pip install '{package}'"
        if isinstance(one, NotMlflowError):
            return "closed", _NOT_MLFLOW
    code = getattr(error, "error_code", None)
    known = _CODES.get(code) if isinstance(code, str) else None
    if known is not None and known[0] == "closed":  # a server's word, whatever its text is like
        return known
    words = " ".join(str(one) for one in chain)
    found = next((r for p, r in _WORDS if re.search(p, words, re.IGNORECASE)), None)
    if found is not None:
        return "closed", found
    if known is not None:
        return known
    status = next(filter(None, map(_status, chain)), None)
    if status is None and not any(
        isinstance(one, http.ConnectionError | http.Timeout) for one in chain
    ):
        status = last_status()
    if status is not None and status >= 400:
        default: tuple[Kind, str] = ("refused", "") if status < 500 else ("passing", "")
        return _STATUSES.get(status, default)
    for one in chain:
        if isinstance(one, OSError) and one.errno in _DENIED:
            return "closed", _OWNER
        if type(one).__name__ in _STORE_ERRORS:
            return "closed", _STORE
    if "not in a valid JSON format" in words:
        return "passing", _NOT_MLFLOW  # or a proxy's page for the time being
    return "passing", ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from: MLflow wraps and forgets to say `from`."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries: of requests, botocore or the other clouds' clients."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    return found if isinstance(found, int) and 100 <= found <= 599 else None
