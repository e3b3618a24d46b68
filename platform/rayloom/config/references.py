"""Config fields that name a run: the first stage of a two-stage model.

    class PriorConfig(Config):
        name: Literal["my-prior"] = "my-prior"
        first_stage: RunReference = Field(description="a trained autoencoder")

The value is a run as the command line names it: an id, a unique prefix of one, a path, `latest`, or
`models:/name@alias`. See docs/training.md, "Two stages".
"""

from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field


@dataclass(frozen=True)
class NamesRun:
    """Marks a text field whose value names a run."""


RunReference = Annotated[str, Field(min_length=1), NamesRun()]


def reference_fields(kind: type[BaseModel]) -> list[str]:
    """Names of a section's own fields of type `RunReference` (or that or null), in order."""
    return [
        name
        for name, info in kind.model_fields.items()
        if _marked(info.metadata) or _marked(get_args(info.annotation))
    ]


def references(section: BaseModel | None) -> dict[str, str]:
    """The runs that a section names, by field; a null names none."""
    if section is None:
        return {}
    values = {name: getattr(section, name) for name in reference_fields(type(section))}
    return {name: value for name, value in values.items() if value is not None}


def _marked(parts: Any) -> bool:
    return any(isinstance(p, NamesRun) or _marked(getattr(p, "__metadata__", ())) for p in parts)
