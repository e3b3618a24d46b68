"""When to try again after a failure, and how long to wait for the end of it all."""

import random
import time

from rayloom.tracking.answers import wait_asked_s

FIRST_S, LONGEST_S = 1.0, 60.0
SILENT_S = 30.0  # without any sign of life
FAILING_S = 10.0  # the same, of a server whose last answer was a failure
LOCKED_S = 20.0  # the same, of a database: others may be writing to it
WHOLE_S = 300.0  # with signs of life


class Backoff:
    """Pauses between tries: twice as long after each failure, with chance, never cut short.

    Args:
        uri: Tracking URI: a server may ask for a longer pause (`Retry-After`).
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.failures = 0
        self._tried_at, self._ready_at = -FIRST_S, 0.0

    def failed(self) -> None:
        """A try failed: the next one comes later than this one did."""
        self.failures += 1
        pause = min(LONGEST_S, FIRST_S * 2.0 ** min(self.failures - 1, 30))
        pause *= random.uniform(0.5, 1.0)  # many runs must not come back at the same moment
        self._tried_at = time.monotonic()
        self._ready_at = self._tried_at + max(pause, FIRST_S / 2, wait_asked_s(self._uri))

    def worked(self) -> None:
        """A try worked."""
        self.failures, self._ready_at = 0, 0.0

    def last_chance(self) -> None:
        """The run ends: one try comes at once, unless the last one has only just failed."""
        if not wait_asked_s(self._uri):
            self._ready_at = min(self._ready_at, self._tried_at + FIRST_S)

    def age_s(self) -> float:
        """Seconds since the last failure."""
        return time.monotonic() - self._tried_at

    def wait_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._ready_at - time.monotonic())


class Patience:
    """How long somebody waits for MLflow: until signs of life stop, and never beyond `whole_s`.

    Args:
        silent_s: Seconds without a sign of life.
        failing_s: The same while the last try failed.
        whole_s: Seconds in all.
        began: `time.monotonic()` of the beginning; an earlier wait in vain counts.
    """

    def __init__(
        self, silent_s: float, failing_s: float, whole_s: float, *, began: float | None = None
    ) -> None:
        self._silent_s, self._failing_s = silent_s, failing_s
        self._began = time.monotonic() if began is None else began
        self._end = self._began + whole_s

    def is_over(self, last_sign: float, *, failing: bool) -> bool:
        """Whether it ran out.

        Args:
            last_sign: `time.monotonic()` of the last success.
            failing: Whether something failed since.
        """
        limit_s = self._failing_s if failing else self._silent_s
        now = time.monotonic()
        return now >= min(max(self._began, last_sign) + limit_s, self._end)
