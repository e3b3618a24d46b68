"""Which part of a data set a run uses, as its section `data` says."""

from dataclasses import dataclass

from rayloom.config.data import DataConfig, LabelledConfig, LanesConfig, WindowsConfig


@dataclass(frozen=True)
class Use:
    """The part.

    Attributes:
        validation_fraction: Part of `train` held out as the split `validation`.
        limit: The first so many examples of each split; 0: all.
        rows: Pieces that are examples in place of the stored ones.
        labelled: How many training examples show their labels; None: all, and no `label_mask`.
        bootstrap: Whether training examples are drawn with replacement, once for all epochs.
    """

    validation_fraction: float = 0.0
    limit: int = 0
    rows: WindowsConfig | LanesConfig | None = None
    labelled: LabelledConfig | None = None
    bootstrap: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> "Use":
        """What a config says."""
        return cls(
            config.validation_fraction,
            config.limit,
            config.rows,
            config.labelled,
            config.resample == "bootstrap",
        )
