"""The section `data`: which data set, which rows of it, and how they become batches."""

from typing import Literal

from pydantic import Field

from rayloom.config.base import Config, NonNegativeInt, PositiveInt


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
