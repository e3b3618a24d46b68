"""What runs show and models make: pictures, films, text, tables. Knows numbers and files only."""

from rayloom.core.lazy import handed_on

_HOME = {
    "Arrays": "kinds",
    "Film": "kinds",
    "Images": "kinds",
    "Media": "kinds",
    "Table": "kinds",
    "Text": "kinds",
}
__all__ = sorted(_HOME)
__getattr__ = handed_on(__name__, _HOME)
