"""What all tokenizers share: text as bytes, tokens in their range, pieces for a person."""

from collections.abc import Sequence

import numpy as np

from rayloom.core.errors import UserError

Text = str | bytes


def as_bytes(text: Text) -> bytes:
    """Text in UTF-8, bytes as they are."""
    return text.encode() if isinstance(text, str) else text


def checked(tokens: Sequence[int] | np.ndarray, num_tokens: int) -> np.ndarray:
    """The tokens as int64 (L,).

    Raises:
        UserError: One is none of the tokenizer's.
    """
    array = np.asarray(tokens, np.int64).reshape(-1)
    if len(array) and not 0 <= array.min() <= array.max() < num_tokens:
        raise UserError(f"tokens are 0 to {num_tokens - 1}; {array.min()} to {array.max()} came")
    return array


def shown(piece: bytes) -> str:
    """A token for a person: as text where that can be printed, else escaped."""
    text = piece.decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]
