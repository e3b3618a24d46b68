"""Data: the store, data sets, import and batches.

Arrow IPC files, memory-mapped, one folder per data set; batches by number. The names are handed on
lazily, so that the index of data sets can be read without pyarrow.
"""

from rayloom.core.lazy import handed_on

_HOME = {
    "Dataset": "dataset",
    "Split": "split",
    "StoreWriter": "store.writer",
    "data_root": "preparation",
    "describe": "description",
    "evaluated": "preparation",
    "first_batch": "source",
    "from_arrays": "dataset",
    "import_data": "imports.importing",
    "make_source": "source",
    "open_dataset": "preparation",
    "open_store": "dataset",
    "prepare": "preparation",
    "require_splits": "preparation",
    "stored": "preparation",
}
__all__ = sorted(_HOME)
__getattr__ = handed_on(__name__, _HOME)
