"""Environments: made from a config, described, grouped, saved and put back.

The names are handed on lazily, so that the index can be read without gymnasium.
"""

from rayloom.core.lazy import handed_on

_HOME = {
    "check_id": "making",
    "has_vector_form": "making",
    "make_env": "making",
    "make_vector_env": "making",
    "spec_of": "making",
}
__all__ = sorted(_HOME)
__getattr__ = handed_on(__name__, _HOME)
