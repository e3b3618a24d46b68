"""Byte pairs (Sennrich, Haddow and Birch, 2016, arXiv:1508.07909), on bytes as GPT-2 has them.

Tokens 0..255 are the bytes; each merge of two tokens is a further one. Learning and encoding are
done by the library `tokenizers` (extra `text`); decoding needs the merges alone. The library sees
text: a byte is the character of that number (Latin-1), so that any bytes pass.
"""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rayloom.core.errors import UserError
from rayloom.data.text.pieces import Text, as_bytes, checked, shown

# No merge crosses a border of these: a word with the space before it, digits, signs, white space.
_SPACE, _HIGH = "\t\n\x0b\x0c\r ", "\x80-\xff"
_PIECES = f" ?[A-Za-z{_HIGH}]+| ?[0-9]+| ?[^{_SPACE}A-Za-z0-9{_HIGH}]+|[{_SPACE}]+"
_CUT = re.compile(rb"\n(?=[A-Za-z0-9])")  # behind it a piece begins, whatever stands around
_CHUNK = 1 << 20  # bytes encoded at once


class BytePairs:
    """A token is a byte or two tokens joined.

    Args:
        merges: The pairs, in the order in which they were learnt.
    """

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.pieces = [bytes([byte]) for byte in range(256)]
        known = {piece: token for token, piece in enumerate(self.pieces)}
        for a, b in self.merges:
            if not (0 <= a < len(self.pieces) and 0 <= b < len(self.pieces)):
                raise UserError(f"the tokenizer is damaged: it merges {a} and {b} too early")
            piece = self.pieces[a] + self.pieces[b]
            if piece not in known:
                known[piece] = len(self.pieces)
                self.pieces.append(piece)
        self.num_tokens = len(self.pieces)
        self.names = tuple(map(shown, self.pieces))

    @functools.cached_property
    def _library(self) -> Any:
        """The library's tokenizer with our numbers."""
        models, made = _import().models, [piece.decode("latin-1") for piece in self.pieces]
        vocabulary = {piece: token for token, piece in enumerate(made)}
        pairs = [(made[a], made[b]) for a, b in self.merges]
        return _with_pieces(models.BPE(vocab=vocabulary, merges=pairs))

    def encode(self, text: Text) -> np.ndarray:
        """int64 (L,).

        Raises:
            UserError: The extra `text` is not installed.
        """
        library = self._library
        parts = [library.encode(part.decode("latin-1")).ids for part in _chunks(as_bytes(text))]
        return np.concatenate([np.zeros(0, np.int64), *(np.array(p, np.int64) for p in parts)])

    def decode_bytes(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that were encoded."""
        pieces = self.pieces
        return b"".join(pieces[token] for token in checked(tokens, self.num_tokens).tolist())

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """As text."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": "bpe", "merges": [list(pair) for pair in self.merges]}

    def __reduce__(self) -> tuple[Any, ...]:
        return BytePairs, (self.merges,)


def learn(texts: Sequence[bytes], num_tokens: int) -> BytePairs:
    """The byte pairs of some texts.

    Args:
        texts: What to learn from.
        num_tokens: Bytes and merges in all; fewer if no pair occurs twice any more.

    Raises:
        UserError: The extra `text` is not installed.
    """
    library = _import()
    tokenizer = _with_pieces(library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=num_tokens,
        initial_alphabet=[chr(byte) for byte in range(256)],
        min_frequency=2,
        show_progress=False,
    )
    chunks = (chunk.decode("latin-1") for text in texts for chunk in _chunks(text))
    tokenizer.train_from_iterator(chunks, trainer)
    known = {chr(byte): byte for byte in range(256)}
    merges = []
    for a, b in json.loads(tokenizer.to_str())["model"]["merges"]:
        merges.append((known[a], known[b]))
        known.setdefault(a + b, len(known))
    return BytePairs(merges)


def _with_pieces(model: Any) -> Any:
    library = _import()
    tokenizer = library.Tokenizer(model)
    split = library.pre_tokenizers.Split(library.Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = split
    return tokenizer


def _chunks(text: bytes) -> Iterator[bytes]:
    """The text in parts that are encoded each by itself as together."""
    start = 0
    while len(text) - start > _CHUNK:
        cut = _CUT.search(text, start + _CHUNK)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _import() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "byte pairs need the library `tokenizers`: pip install 'rayloom[text]'; chars and "
            "bytes need nothing"
        ) from None
    return tokenizers
