"""The toys of `tests/toys.py`."""

from toys import folder, load, mistakes, toys

__all__ = ["folder", "load", "mistakes", "toys"]
