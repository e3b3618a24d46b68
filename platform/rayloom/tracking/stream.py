"""One of the two things that a follower sends, and that fail apart: points, pictures and files."""

from rayloom.tracking.backoff import Backoff
from rayloom.tracking.trouble import Trouble

_REOPEN_S = 60.0


class Stream:
    """One of the two streams to MLflow, points and media, with its own troubles.

    Args:
        key: Where the memory keeps its offset.
        what: What it carries, for messages.
        uri: Tracking URI.
    """

    def __init__(self, key: str, what: str, uri: str) -> None:
        self.key, self.what = key, what
        self.backoff = Backoff(uri)
        self.trouble: Trouble | None = None
        self.ended = False  # all is sent and the run is over
        self.trying = False  # just now
        self.said = False  # that it is closed

    @property
    def closed(self) -> bool:
        """Whether trying again is of no use."""
        return self.trouble is not None and self.trouble.kind == "closed"

    def last_chance(self) -> None:
        """The run ends: one more try, even of what was closed a while ago (a token renewed)."""
        self.backoff.last_chance()
        if self.closed and self.backoff.age_s() > _REOPEN_S:
            self.trouble = None
