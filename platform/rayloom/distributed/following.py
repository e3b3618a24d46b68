"""Following a job whose head may fall silent or die: what to say, how long to try, what then.

Ray keeps jobs in the head's memory. A head that was killed takes the job with it; one that was
started again knows nothing of it. The run itself lies on the storage.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rayloom.core.errors import RayloomError

T = TypeVar("T")
SAY_AFTER_S, PATIENCE_S, EVERY_S = 2.0, 30.0, 1.0


class JobLostError(RayloomError):
    """The cluster no longer answers for a job."""


@dataclass(frozen=True)
class Following:
    """Which job is followed, and what to do when its cluster dies.

    Attributes:
        job_id: Its id.
        url: Of the dashboard.
        run_id: Of the run that it works on.
        folder: That run's folder; "" where it is not known.
        say: Told in lines.
        patience_s: How long a silent head is asked again.
    """

    job_id: str
    url: str
    run_id: str
    folder: str
    say: Callable[[str], None]
    patience_s: float = PATIENCE_S

    def ask(self, call: Callable[[], T]) -> T:
        """What `call` gives; while nobody answers it is called again.

        Raises:
            JobLostError: The head stayed silent, or was started anew.
        """
        began, told = time.monotonic(), False
        while True:
            try:
                found = call()
            except OSError as error:  # requests' errors are ones
                silent_s = time.monotonic() - began
                if silent_s >= self.patience_s:
                    raise JobLostError(
                        self.lost(f"has not answered for {silent_s:.0f} s")
                    ) from error
                if not told and silent_s >= SAY_AFTER_S:
                    told = True
                    self.say(
                        f"the head at {self.url} does not answer; trying for"
                        f" {self.patience_s:.0f} s (Ctrl-C ends the following, not the job)"
                    )
                time.sleep(EVERY_S)
            except RuntimeError as error:
                if "404" in str(error) or "does not exist" in str(error):
                    raise JobLostError(
                        self.lost("knows nothing of it any more: it was started anew")
                    ) from error
                raise
            else:
                if told:
                    self.say(f"the head at {self.url} answers again")
                return found

    def lost(self, what: str) -> str:
        """What happened, which run, what next."""
        where = f", in {self.folder}" if self.folder else ""
        return (
            f"job {self.job_id}: the head at {self.url} {what}. Nothing before the newest"
            f" checkpoint of run {self.run_id}{where} is lost. If only the connection broke:"
            f" `rayloom jobs logs {self.job_id} --follow --address {self.url}`. If the head died,"
            f" its jobs died too: {self.next()}"
        )

    def next(self) -> str:
        """The commands that go on with the run."""
        return (
            f"`rayloom submit --address {self.url} -- resume {self.run_id}` once it runs again, or"
            f" `rayloom resume {self.run_id}` on a machine that sees the folder"
        )


@contextmanager
def answering(url: str) -> Iterator[None]:
    """A head that dies in the middle of a command is told in words."""
    from requests.exceptions import RequestException

    try:
        yield
    except RequestException as error:  # not OSError: a closed pipe is the reader's affair
        raise RayloomError(
            f"the head at {url} stopped answering ({type(error).__name__}); `rayloom doctor"
            " --address HOST:PORT` looks at it"
        ) from error
