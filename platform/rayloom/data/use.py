"""Which part of a data set a run uses, as its section `data` says."""

from dataclasses import dataclass

from rayloom.config.sections import DataConfig


@dataclass(frozen=True)
class Use:
    """The part.

    Attributes:
        validation_fraction: Part of `train` held out as the split `validation`.
        limit: The first so many examples of each split; 0: all.
    """

    validation_fraction: float = 0.0
    limit: int = 0

    @classmethod
    def of(cls, config: DataConfig) -> "Use":
        """What a config says."""
        return cls(config.validation_fraction, config.limit)

    def total(self, rows: int) -> int:
        """How many of so many rows are in use."""
        return min(self.limit, rows) if self.limit else rows
