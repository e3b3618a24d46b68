"""Errors that a user may see. A `UserError` is shown as a message, never as a traceback."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


class RayloomError(Exception):
    """A failure with a message fit for a person; `exit_code` is the process's exit status."""

    exit_code = 1


class UserError(RayloomError, ValueError):
    """The user's mistake: the message says where, what, and what would be right."""

    exit_code = 2


class RunLockedError(UserError):
    """Another live process writes to this run folder."""


class CheckpointError(RayloomError):
    """A checkpoint does not verify, or none is left that does."""


class NonFiniteError(RayloomError):
    """A loss, gradient or parameter became NaN or infinite; names the part and the step."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a config.

    Attributes:
        path: Dotted path of the key (`model.latent_dim`), or "" for the whole file.
        message: What is wrong, the value included, and what is allowed.
        where: `file:line`, the flag or the variable that set the value; "" if unknown.
        suggestion: The nearest valid name, if there is one.
    """

    path: str
    message: str
    where: str = ""
    suggestion: str | None = None

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        key = f"{self.path}: " if self.path else ""
        return f"{place}{key}{self.message}{meant_aside(self.suggestion)}"


class ConfigError(UserError):
    """All the mistakes of a config at once; the message shows the first hundred."""

    max_shown = 100

    def __init__(self, problems: Iterable[Problem], *, of: str = "the config") -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = f"1 problem in {of}:" if count == 1 else f"{count} problems in {of}:"
        lines = [f"  {problem}" for problem in self.problems[: self.max_shown]]
        if count > self.max_shown:
            lines.append(f"  and {count - self.max_shown} more")
        super().__init__("\n".join([head, *lines]))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, or None."""
    known = [str(n) for n in names]
    found = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, names: Iterable[str], *, otherwise: str = ".") -> str:
    """The end of a sentence about an unknown name: `; did you mean 'vae'?`.

    Args:
        name: What was given.
        names: What there is.
        otherwise: The end where no name is near.
    """
    return meant(nearest(name, names)) or otherwise


def or_rather(name: str, names: Iterable[str]) -> str:
    """The same within a sentence: ` (did you mean 'vae'?)`, or nothing."""
    return meant_aside(nearest(name, names))


def meant(near: str | None) -> str:
    """As `did_you_mean`, where the near name is known; nothing without one."""
    return f"; did you mean {near!r}?" if near else ""


def meant_aside(near: str | None) -> str:
    """As `or_rather`, where the near name is known; nothing without one."""
    return f" (did you mean {near!r}?)" if near else ""
