"""Tokenizers: bytes, characters, and byte pairs; what each is made of is plain data.

They are lossless: what was encoded comes back, byte for byte. Bytes and byte pairs take any bytes
whatever, characters what is UTF-8 and of their alphabet.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rayloom.core.errors import UserError, meant_aside, nearest
from rayloom.core.fields import MAX_CLASSES
from rayloom.core.protocols import DataSpec
from rayloom.data.text.pieces import Text, as_bytes, checked, shown

KINDS = ("chars", "bytes", "bpe")


class Tokenizer(Protocol):
    """Text to numbers and back.

    Attributes:
        num_tokens: Numbers are 0 ... num_tokens - 1.
        names: What each of them stands for, to be shown.
    """

    num_tokens: int
    names: tuple[str, ...]

    def encode(self, text: Text) -> np.ndarray:
        """int64 (L,)."""
        ...

    def decode_bytes(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that were encoded."""
        ...

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """As text; bytes that are no UTF-8 (a character cut in two) become U+FFFD."""
        ...

    def plain(self) -> dict[str, Any]:
        """JSON-able; `tokenizer_from` is the inverse."""
        ...


class Bytes:
    """A token is a byte."""

    num_tokens = 256

    def __init__(self) -> None:
        self.names = tuple(shown(bytes([byte])) for byte in range(256))

    def encode(self, text: Text) -> np.ndarray:
        """int64 (L,)."""
        return np.frombuffer(as_bytes(text), np.uint8).astype(np.int64)

    def decode_bytes(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that were encoded."""
        return checked(tokens, self.num_tokens).astype(np.uint8).tobytes()

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """As text."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": "bytes"}


class Characters:
    """A token is a character of an alphabet.

    Args:
        alphabet: The characters, each once, in the order of their numbers.
    """

    def __init__(self, alphabet: str) -> None:
        self.alphabet, self.num_tokens = alphabet, len(alphabet)
        self.names = tuple(shown(character.encode()) for character in alphabet)
        codes = _codes(alphabet)
        self._order = np.argsort(codes, kind="stable")
        self._sorted, self._by_token = codes[self._order], codes
        if not alphabet or (np.diff(self._sorted.astype(np.int64)) == 0).any():
            raise UserError("an alphabet has characters, and each of them once")

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """The characters that occur, in the order of Unicode."""
        return cls("".join(sorted({character for text in texts for character in set(text)})))

    def encode(self, text: Text) -> np.ndarray:
        """int64 (L,).

        Raises:
            UserError: A character is not in the alphabet; names it and its place.
        """
        codes = _codes(_string(text))
        place = np.searchsorted(self._sorted, codes).clip(max=self.num_tokens - 1)
        wrong = np.flatnonzero(self._sorted[place] != codes)
        if len(wrong):
            first = int(wrong[0])
            raise UserError(
                f"character {chr(codes[first])!r} (number {first} of the text) is not in the "
                f"alphabet of {self.num_tokens} characters; bytes and bpe take every text"
            )
        return self._order[place].astype(np.int64)

    def decode_bytes(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The text that was encoded, in UTF-8."""
        return self.decode(tokens).encode()

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """As text."""
        codes = self._by_token[checked(tokens, self.num_tokens)]
        return codes.astype("<u4").tobytes().decode("utf-32-le")

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": "chars", "alphabet": self.alphabet}


def make_tokenizer(words: str, texts: Sequence[bytes], every: Sequence[bytes]) -> Tokenizer:
    """The tokenizer that `--tokenizer` names, made for some texts.

    Args:
        words: `chars`, `bytes` or `bpe:N`, N tokens in all.
        texts: Of the training split: what byte pairs are learnt from.
        every: Of all splits: what an alphabet must hold.

    Raises:
        UserError: No such tokenizer, text that is no UTF-8, or the extra `text` is missing.
    """
    kind, _, size = words.partition(":")
    if kind == "bytes" and not size:
        return Bytes()
    if kind == "chars" and not size:
        return Characters.of(_string(text) for text in every)
    if kind == "bpe" and size.isdecimal() and 256 < int(size) <= MAX_CLASSES:
        from rayloom.data.text.bpe import learn

        return learn(texts, int(size))
    near = nearest(kind, KINDS)
    hint = meant_aside(near) if near != kind else ""
    raise UserError(
        f"--tokenizer {words!r}: it must be chars, bytes or bpe:N, N tokens in all, 257 to "
        f"{MAX_CLASSES}{hint}"
    )


def tokenizer_from(plain: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that plain data describe.

    Raises:
        UserError: They describe none.
    """
    try:
        if plain["name"] == "bytes":
            return Bytes()
        if plain["name"] == "chars":
            return Characters(str(plain["alphabet"]))
        if plain["name"] == "bpe":
            from rayloom.data.text.bpe import BytePairs

            return BytePairs([(int(a), int(b)) for a, b in plain["merges"]])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the tokenizer is damaged ({type(error).__name__}: {error})") from None
    raise UserError(f"no tokenizer is called {plain['name']!r}; known: {', '.join(KINDS)}")


def tokenizer_of(spec: DataSpec, field: str = "tokens") -> Tokenizer:
    """The tokenizer of a field.

    Raises:
        UserError: The data set has no such field, or it was not made by a tokenizer.
    """
    spec.field(field)
    if field not in spec.tokenizers:
        raise UserError(
            f"field {field!r} of data set {spec.name!r} was not made from text by rayloom: it has "
            "no tokenizer"
        )
    return tokenizer_from(spec.tokenizers[field])


def _string(text: Text) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is no UTF-8 ({error.reason}); --tokenizer bytes and bpe:N keep "
            "any bytes"
        ) from None


def _codes(text: str) -> np.ndarray:
    """uint32 (L,), the code points. Lone surrogates (JSON has them) are refused as any other."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")
    except UnicodeEncodeError as error:
        raise UserError(f"character {error.start} of the text is half a surrogate pair") from None
