"""Data: the store, data sets, import and batches.

Stands on `core` only. Arrow IPC files, memory-mapped, one folder per data set; batches by number.
"""

from rayloom.data.dataset import Dataset, Split, from_arrays, open_store
from rayloom.data.describe import describe
from rayloom.data.importing import import_data
from rayloom.data.prepare import data_root, open_dataset, prepare, require_splits, stored
from rayloom.data.source import make_source
from rayloom.data.store import StoreWriter

__all__ = [
    "Dataset",
    "Split",
    "StoreWriter",
    "data_root",
    "describe",
    "from_arrays",
    "import_data",
    "make_source",
    "open_dataset",
    "open_store",
    "prepare",
    "require_splits",
    "stored",
]
