"""What may reach a terminal, and streams that hold little."""

import io
import unicodedata

import pytest

from rayloom.core.secrets import mask, mask_tree
from rayloom.core.text import holdable, one_line, printable, write


def test_nothing_that_a_terminal_acts_on_is_left():
    for code in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000), 0xE0041]:
        sign = chr(code)
        shown = printable(sign)
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") and sign not in "\t\n":
            assert shown.isascii(), hex(code)
            assert shown.startswith("\\"), hex(code)
        if unicodedata.bidirectional(sign) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"):
            assert shown != sign, hex(code)
    assert printable("\x1b]0;owned\x07 a\u202eb\x9b31m") == r"\x1b]0;owned\x07 a\u202eb\x9b31m"
    assert printable("über, 数字, 👩‍🔬\ttab\nline") == "über, 数字, 👩‍🔬\ttab\nline"
    assert one_line("a\nb\rc\td") == r"a\nb\rc\td"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8", "koi8-r"])
def test_a_stream_that_holds_little_gets_all_of_it(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    write(stream, "Katze, Füchse, 数字 \udc80\n")
    stream.flush()
    assert "Katze" in raw.getvalue().decode(encoding)
    assert holdable("数", "latin-1") == r"\u6570"
    assert holdable("ü", "no-such-encoding") == r"\xfc"


def test_masking_twice_changes_nothing_and_hashes_stay():
    digest = "0123456789abcdef" * 4
    about = {"sha256": digest, "git": {"commit": digest[:40]}, "uri": "http://me:hunter2@h/x"}
    hidden = mask_tree(about | {"tags": {"token": "swordfish"}, "n": 5, "max_tokens": 7})
    assert hidden == mask_tree(hidden)
    assert hidden["sha256"] == digest
    assert hidden["uri"] == "http://***@h/x"
    assert hidden["tags"] == {"token": "***"}
    assert (hidden["n"], hidden["max_tokens"]) == (5, 7)
    assert (
        mask("https://[::1]:5000/a@b http://h:80/x@y") == "https://[::1]:5000/a@b http://h:80/x@y"
    )
