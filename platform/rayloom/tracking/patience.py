"""Questions to MLflow that somebody waits for: each has an end, and an error that can be read."""

from collections.abc import Callable
from typing import TypeVar

from rayloom.core.errors import RayloomError
from rayloom.core.secrets import mask_urls
from rayloom.core.waiting import NoAnswerError, within
from rayloom.tracking import answers
from rayloom.tracking.backoff import SILENT_S, WHOLE_S
from rayloom.tracking.trouble import NotMlflowError, diagnose

BYTES_PER_S = 1 << 20  # of a slow connection
_FOR_THE_CALLER = (
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_PARAMETER_VALUE",
)
Result = TypeVar("Result")


def asked(uri: str, call: Callable[[], Result], *, size: int = 0) -> Result:
    """What MLflow answers.

    Args:
        uri: Tracking URI, for messages.
        call: The question.
        size: Bytes that are sent with it, for which it gets more time.

    Raises:
        MlflowException: The answer is that something is missing, is there already, or is no name.
        RayloomError: There is no answer in time, or none that makes sense; says what to do.
    """
    from mlflow.exceptions import MlflowException

    def question() -> tuple[Result | None, Exception | None, str]:
        answers.forget()
        try:
            return call(), None, ""
        except Exception as error:  # judged in this thread, which heard the server's status
            known = isinstance(error, MlflowException) and error.error_code in _FOR_THE_CALLER
            told = known or isinstance(error, RayloomError)
            return None, error, "" if told else str(diagnose(_sensible(error)))

    where = f"MLflow at {mask_urls(uri)}"
    try:
        found, error, told = within(min(SILENT_S + size / BYTES_PER_S, WHOLE_S), question)
    except NoAnswerError as late:
        raise RayloomError(f"{where} gives {late}") from late
    if told:
        raise RayloomError(f"{where}: {told}") from error
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def _sensible(error: Exception) -> Exception:
    """An answer of another form than MLflow's makes its client fail in ways of its own."""
    if isinstance(error, KeyError | AttributeError | TypeError):
        return NotMlflowError(f"answers, but not as MLflow does ({type(error).__name__}: {error})")
    return error
