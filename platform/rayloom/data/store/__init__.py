"""The store: an Arrow IPC file a split, a manifest beside them, columns read or mapped."""

from rayloom.core.lazy import handed_on

_HOME = {"StoreWriter": "writer"}
__all__ = sorted(_HOME)
__getattr__ = handed_on(__name__, _HOME)
