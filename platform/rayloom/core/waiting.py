"""Calls that may never return, waited for a while: a server may drip bytes for ever."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class NoAnswerError(TimeoutError):
    """A call did not return in time."""


def within(limit_s: float, call: Callable[[], Result]) -> Result:
    """What a call returns, if it does so in time; a call that does not is left to itself.

    Args:
        limit_s: Seconds.
        call: Runs in a thread of its own.

    Raises:
        NoAnswerError: It has not returned.
        BaseException: Whatever the call raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=body, name="rayloom-waits", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise NoAnswerError(f"no answer for {limit_s:.0f} s")
    return results[0]
