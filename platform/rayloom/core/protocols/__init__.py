"""The protocols that upper rooms implement; code against these, never against a sibling room."""

from rayloom.core.protocols.data import (
    Batch,
    BatchSource,
    DataSpec,
    FieldSpec,
    LocalBatch,
    slice_of,
)
from rayloom.core.protocols.model import Model, Player
from rayloom.core.protocols.operation import Export, Operation, operation, operations
from rayloom.core.protocols.rl import Collector, GroupTask, Updater
from rayloom.core.protocols.trainable import (
    Chunk,
    Clock,
    Collective,
    Scalars,
    Sink,
    State,
    Trainable,
    parameters_sha256,
)

__all__ = [
    "Batch",
    "BatchSource",
    "Chunk",
    "Clock",
    "Collective",
    "Collector",
    "DataSpec",
    "Export",
    "FieldSpec",
    "GroupTask",
    "LocalBatch",
    "Model",
    "Operation",
    "Player",
    "Scalars",
    "Sink",
    "State",
    "Trainable",
    "Updater",
    "operation",
    "operations",
    "parameters_sha256",
    "slice_of",
]
