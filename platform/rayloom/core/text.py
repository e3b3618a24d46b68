r"""What may reach a terminal: text without control characters, on a stream that may hold little.

Names, reasons and commands come from run folders, data sets and servers. A terminal acts on some
characters (title, clipboard, colours, direction of writing) in place of showing them; those are
shown as Python writes them (`\x1b`, `\u202e`), so that nothing is hidden and nothing is done.
"""

import re
from typing import TextIO

# C0 without tab and line feed, DEL, C1, Arabic letter mark, marks and overrides of direction, line
# and paragraph separators, invisible operators, byte order mark, interlinear notes, tags, and half
# surrogates, which no encoding holds. Joiners (200c, 200d) stay: scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_UNSAFE_IN_LINE = re.compile(rf"[\t\n]|{_UNSAFE.pattern}")


def _escape(match: "re.Match[str]") -> str:
    code = ord(match.group())
    if match.group() in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[match.group()]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str) -> str:
    """The text as a terminal may show it; tabs and line feeds stay.

    For what is written as whole lines (messages, errors, help). A name inside a line or a table
    goes through `one_line`, else it could write a line of its own.
    """
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    """A name, tag or reason inside a line: `printable`, with tabs and line feeds shown too."""
    return text if text.isascii() and text.isprintable() else _UNSAFE_IN_LINE.sub(_escape, text)


def holdable(text: str, encoding: str | None) -> str:
    r"""The text with what an encoding cannot hold as `\xe9` or `\u4e2d`."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # a stream may name an encoding that Python does not know
        return text.encode("ascii", "backslashreplace").decode("ascii")
    return text


def write(stream: TextIO, text: str) -> None:
    """Write text to a stream whose encoding may not hold it; never a UnicodeEncodeError.

    Args:
        stream: Where to; its `encoding` counts (a stream without one, such as `StringIO`, holds
            everything but half surrogates).
        text: What to write, as it is: whoever writes a name cleans it with `printable`.
    """
    stream.write(holdable(text, getattr(stream, "encoding", None)))
