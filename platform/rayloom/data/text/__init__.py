"""Text as numbers and back."""

from rayloom.core.lazy import handed_on

_HOME = {
    "Tokenizer": "tokenizers",
    "make_tokenizer": "tokenizers",
    "tokenizer_from": "tokenizers",
    "tokenizer_of": "tokenizers",
}
__all__ = sorted(_HOME)
__getattr__ = handed_on(__name__, _HOME)
