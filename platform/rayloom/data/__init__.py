"""Data: the store, data sets, import and batches.

Stands on `core` only. Arrow IPC files, memory-mapped, one folder per data set; batches by number.
"""

from rayloom.data.dataset import Dataset, Split, from_arrays, open_store
from rayloom.data.prepare import open_dataset, prepare
from rayloom.data.source import make_source
from rayloom.data.store import StoreWriter

__all__ = [
    "Dataset",
    "Split",
    "StoreWriter",
    "from_arrays",
    "make_source",
    "open_dataset",
    "open_store",
    "prepare",
]
