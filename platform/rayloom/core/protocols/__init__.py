"""The protocols that upper rooms implement; code against these, never against a sibling room."""

from rayloom.core.protocols.data import (
    Batch,
    BatchSource,
    DataSpec,
    FieldSpec,
    LocalBatch,
    slice_of,
)
from rayloom.core.protocols.model import (
    OPTIONAL,
    Carry,
    Done,
    Group,
    Model,
    Part,
    Player,
    Rows,
    Sum,
    Turn,
)
from rayloom.core.protocols.operation import (
    Export,
    Operation,
    operation,
    operations,
)
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
    "OPTIONAL",
    "Batch",
    "BatchSource",
    "Carry",
    "Chunk",
    "Clock",
    "Collective",
    "Collector",
    "DataSpec",
    "Done",
    "Export",
    "FieldSpec",
    "Group",
    "GroupTask",
    "LocalBatch",
    "Model",
    "Operation",
    "Part",
    "Player",
    "Rows",
    "Scalars",
    "Sink",
    "State",
    "Sum",
    "Trainable",
    "Turn",
    "Updater",
    "operation",
    "operations",
    "parameters_sha256",
    "slice_of",
]
