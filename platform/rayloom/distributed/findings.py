"""What a check of `rayloom doctor` finds."""

from dataclasses import asdict, dataclass
from typing import Literal

Health = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name, such as `clock`.
        state: `ok`, `warn` (works, with a drawback) or `fail`.
        message: What is the case.
        remedy: What to do; "" if nothing.
    """

    check: str
    state: Health
    message: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """JSON-able."""
        return asdict(self)
