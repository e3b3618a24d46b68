"""The base of every section, and the numbers that they share."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def as_tuple(value: Any) -> Any:
    """A list as a tuple: what stands below a section that may be one word is read as Python."""
    return tuple(value) if isinstance(value, list) else value


Sizes = Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple)]


class Config(BaseModel):
    """Base of every section: frozen, unknown keys forbidden, no NaN, no silent coercion of text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )
    # Keys of before: {"widths": ("network.widths", "network.channels")}; the first of the new ones
    # that the chosen section has is meant (`config.renamed`).
    old_keys: ClassVar[dict[str, tuple[str, ...]]] = {}


def by_name(value: Any) -> Any:
    """`network: conv` is short for `network: {name: conv}`."""
    return value if value is None or isinstance(value, dict | Config) else {"name": value}
