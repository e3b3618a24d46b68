"""Why something failed, in one paragraph: what a person can understand, and the line of their code.

An exception that reaches us may be wrapped several times (`raise ... from`), may come from another
process as text (a Ray worker, an actor, a trial), and may come out of a library that a user's
plugin called. What counts is the innermost reason and the innermost line that is the user's own.
All of it is masked: an exception's text may hold whatever the code had in its hands.
"""

import pickle
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayloom.core.errors import RayloomError
from rayloom.core.secrets import mask
from rayloom.core.text import one_line

PARAGRAPH = 1500  # characters
TRACEBACK = 100_000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<function>[^\s\n]+))?')
_PACKAGES = re.compile(r"/(?=rayloom(?:_pipelines|_envs)?/)")
_MEMORY = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
Frame = tuple[str, int, str]  # file, line, function


class RemoteError(Exception):
    """The traceback of an exception of another process, as its text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}" if self.args else ""


def paragraph(error: BaseException, limit: int = PARAGRAPH) -> str:
    """What failed, why, and at which line of the user's code, in one line of text.

    Args:
        error: The exception that came out.
        limit: Characters, at most.
    """
    chain = list(causes(error))
    root = chain[-1]
    text = _said(root)
    place = place_of(error)
    if place and place.partition(" ")[0] not in text:
        text += f" at {place}"
    outer = [one for one in chain[:-1] if _plain(one) not in _plain(root)]
    if outer:
        text += f" (told as {_said(outer[0])})"
    before = _handled(root)
    if before is not None and _plain(before) not in text:
        text += f" (while handling {_said(before)})"
    if type(root).__name__ in _MEMORY or isinstance(root, MemoryError):
        text += ". There is too little memory: take a smaller batch or model"
    return _cut(one_line(text), limit)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on to the reason that a person understands.

    An error of ours ends the chain: its message is made for people.
    """
    for one in _chain(error):
        if isinstance(one, RemoteError) and one is not error:
            return
        if not isinstance(one, BaseExceptionGroup):
            yield one
        if isinstance(one, RayloomError):
            return


def place_of(error: BaseException) -> str:
    """`file:line (function)` of the innermost frame that is the user's own.

    Of an exception that is not ours and has no such frame, the innermost one; else an empty text.
    """
    frames = [frame for one in _chain(error) for frame in _frames(one)]
    own = [frame for frame in frames if is_users(frame[0])]
    if own:
        return _shown(own[-1])
    root = list(causes(error))[-1]
    if isinstance(root, RayloomError):
        return ""
    last = _frames(root) or frames
    return _shown(last[-1]) if last else ""


def traceback_of(error: BaseException) -> str:
    """The whole traceback with its chain and what other processes told, masked and bounded."""
    text = "".join(traceback.format_exception(error))
    for one in _chain(error):
        details = getattr(one, "details", None)
        if isinstance(details, str) and details and details not in text:
            text += f"\nIn the other process:\n{details}"
    lines = _COLOURS.sub("", text).rstrip().split("\n")
    text = mask("\n".join(_masked_message(line) for line in lines)) + "\n"
    if len(text) <= TRACEBACK:
        return text
    half = TRACEBACK // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _masked_message(line: str) -> str:
    """A traceback's line; what follows `ValueError: ` is masked as the text that it is alone."""
    kind, colon, message = line.partition(": ")
    return f"{kind}{colon}{mask(message)}" if colon and kind.isidentifier() else line


def packed(error: BaseException) -> dict[str, Any]:
    """An exception as it travels to another process: `error` (its pickle, or None), `traceback`."""
    data: bytes | None = None
    try:
        written = pickle.dumps(error)
        pickle.loads(written)  # many classes can be written and not be read
        data = written
    except Exception:  # whatever a user's class raises: then the text has to do
        pass
    return {"error": data, "traceback": "".join(traceback.format_exception(error))}


def unpacked(told: Mapping[str, Any]) -> BaseException:
    """The exception that `packed` was given, with its traceback chained as text.

    For what came through Ray from our own workers, never for files.
    """
    remote = RemoteError(told["traceback"])
    try:
        error = pickle.loads(told["error"])
    except Exception:  # its class is not here, or was not packed
        return remote
    if not isinstance(error, BaseException):
        return remote
    error.__cause__ = remote
    return error


def is_users(file: str) -> bool:
    """Whether a source file is neither ours, nor Python's, nor a library's."""
    plugins = sys.modules.get("rayloom.catalogue.plugins")
    for plugin in plugins.loaded() if plugins is not None else ():
        if file == plugin.path or file.startswith(plugin.path + "/"):
            return True
    if file.startswith("<") or "/site-packages/" in file or "/dist-packages/" in file:
        return False
    paths = sysconfig.get_paths()
    return not (file.startswith((paths["stdlib"], paths["platstdlib"])) or _is_ours(file))


def _is_ours(file: str) -> bool:
    """Whether a path, perhaps of another machine, ends as one of our own files does."""
    tail = _PACKAGES.split(file)[-1]
    module = sys.modules.get(tail.partition("/")[0])
    roots = [Path(folder).parent for folder in getattr(module, "__path__", ())]
    return tail != file and any((root / tail).is_file() for root in roots)


def _chain(error: BaseException) -> list[BaseException]:
    """Outermost first: all that an exception was raised from; of a group, its first member."""
    found: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and len(found) < 50 and all(now is not one for one in found):
        found.append(now)
        if isinstance(now, BaseExceptionGroup):
            now = now.exceptions[0]
            continue
        task = getattr(now, "cause", None)  # of Ray's task errors: what the task raised
        now = now.__cause__ or (task if isinstance(task, BaseException) else None)
    return found


def _frames(error: BaseException) -> list[Frame]:
    """Frames of an exception, outermost first; of one from another process, those in its text."""
    found = [
        (frame.filename, frame.lineno or 0, frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    from_elsewhere = isinstance(error, RemoteError) or getattr(error, "cause", None) is not None
    for text in (_raw(error) if from_elsewhere else None, getattr(error, "details", None)):
        if isinstance(text, str):
            found += [
                (match["file"], int(match["line"]), match["function"] or "")
                for match in _FRAME.finditer(text)
            ]
    return found


def _shown(frame: Frame) -> str:
    file, line, function = frame
    path = Path(file)
    short = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
    return f"{short}:{line}" + (f" ({function})" if function else "")


def _handled(root: BaseException) -> BaseException | None:
    """What was being handled when the exception came, if nothing else says why it came."""
    if root.__suppress_context__ or root.__cause__ is not None or isinstance(root, RayloomError):
        return None
    return root.__context__


def _plain(error: BaseException) -> str:
    """An exception's text, masked, in one line."""
    return mask(" ".join(_raw(error).split()))


def _raw(error: BaseException) -> str:
    """An exception's text without colours; a user's class may fail to give one."""
    try:
        return _COLOURS.sub("", str(error))
    except Exception as broken:
        return f"(its text cannot be made: {type(broken).__name__})"


def _said(error: BaseException) -> str:
    text = _plain(error)
    if isinstance(error, RayloomError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {_cut(text, PARAGRAPH // 2) or 'no message'}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
