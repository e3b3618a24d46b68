"""The section `data`: which data set, which rows of it, and how they become batches."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rayloom.config.augment import TransformConfig
from rayloom.config.base import Config, NonNegativeInt, PositiveInt


class WindowsConfig(Config):
    """Pieces of one length of each example, never across two examples."""

    name: Literal["windows"] = "windows"
    length: PositiveInt = Field(description="steps of a window")
    stride: PositiveInt | None = Field(
        None, description="steps between the starts of two windows; null: length"
    )
    random: bool = Field(
        False, description="training: each begins anywhere in its stride, afresh in every epoch"
    )

    @property
    def steps(self) -> int:
        """Steps of a row."""
        return self.length


class LanesConfig(Config):
    """The examples end to end, in as many lanes as a batch has rows: each continues its last."""

    name: Literal["lanes"] = "lanes"
    length: PositiveInt = Field(description="steps of its own that a row has")
    overlap: NonNegativeInt = Field(
        1, description="steps before them, the last ones of the lane's row before"
    )

    @property
    def steps(self) -> int:
        """Steps of a row."""
        return self.length + self.overlap


RowsConfig = Annotated[WindowsConfig | LanesConfig, Field(discriminator="name")]


class LabelledConfig(Config):
    """Which training examples may show their labels."""

    per_class: PositiveInt = Field(description="examples of each class, chosen by a hash")


class DataConfig(Config):
    """Which data set, and how it is cut into batches."""

    name: str = Field(description="catalogue name, or the name given to `rayloom data import`")
    batch_size: PositiveInt | Literal["all"] = Field(
        128, description="examples per global batch; all: the whole split is one batch"
    )
    eval_batch_size: PositiveInt = Field(500, description="examples per evaluation batch")
    root: str | None = Field(None, description="folder of the stores; null: the user's data folder")
    source: str | None = Field(None, description="local folder with the raw files to prepare from")
    shuffle_window: NonNegativeInt = Field(0, description="examples; 0 shuffles the whole set")
    limit: NonNegativeInt = Field(0, description="use only the first so many examples; 0: all")
    eval_split: str = Field("test", description="split on which metrics are computed")
    validation_fraction: float = Field(
        0.0, ge=0, lt=1, description="part of train held out as split validation, by a hash"
    )
    rows: RowsConfig | None = Field(
        None, description="pieces of long examples, which are the rows of batches in their place"
    )
    eval_rows: RowsConfig | None = Field(
        None, description="the same of evaluation batches; null: as rows"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the data set's maker, where it has some"
    )
    augment: list[TransformConfig] = Field(
        default_factory=list, description="transforms of training batches, in their order"
    )
    labelled: LabelledConfig | None = Field(
        None, description="few labels: batches say in label_mask which examples show theirs"
    )
    resample: Literal["none", "bootstrap"] = Field(
        "none", description="bootstrap: as many training examples, drawn with replacement"
    )
