"""What a model can do for its user beside training: operations, and modules to export.

An operation is a method `f(self, batch, *, rng, settings) -> Batch` of a model class, marked with
`@operation`. Its rows are `len(rng)` many; the batch holds the fields that were given, with as many
rows. No row depends on its neighbours: all chance is of `rng`, so that any cut into batches and
workers gives the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import getdoc
from typing import TypeVar

from torch import Tensor, nn

Method = TypeVar("Method", bound=Callable[..., object])
_MARK = "__rayloom_operation__"


@dataclass(frozen=True)
class Export:
    """A tensor-to-tensor part of a model, for `torch.export`.

    Attributes:
        module: The part; evaluation mode is the caller's affair.
        example: One input, (B, ...), B at least 1; B becomes free.
    """

    module: nn.Module
    example: Tensor


@dataclass(frozen=True)
class Operation:
    """One operation of a model class.

    Attributes:
        name: What users call it.
        settings: Type of its settings, a `Config`; None: it has none.
        doc: First paragraph of the method's docstring.
        reads: Fields that must be given.
        takes: What may be given (conditions), by name; each is read as the data's field that stands
            beside it, such as `{"label": "label", "prompt": "tokens"}`.
        gives: Field to kind (`image`, `film`, `label`, `text`, `tokens`, `vector`), main one first.
    """

    name: str
    settings: type | None = None
    doc: str = ""
    reads: tuple[str, ...] = ()
    takes: Mapping[str, str] = field(default_factory=dict)
    gives: Mapping[str, str] = field(default_factory=dict)

    @property
    def conditions(self) -> dict[str, str]:
        """All that can be given by name, and the field that each is read as."""
        return {**{name: name for name in self.reads}, **self.takes}


def operation(
    *,
    settings: type | None = None,
    reads: tuple[str, ...] = (),
    takes: tuple[str, ...] | Mapping[str, str] = (),
    gives: Mapping[str, str] | None = None,
) -> Callable[[Method], Method]:
    """Mark a method as an operation; see `Operation` for the arguments.

    Args:
        settings: Type of its settings; the method gets an instance, or None where it has none.
        reads: Fields that must be given.
        takes: Fields that may be given; a mapping where their names are others than the fields'.
        gives: Field to kind.
    """

    def mark(method: Method) -> Method:
        doc = " ".join((getdoc(method) or "").partition("\n\n")[0].split())
        named = dict(takes) if isinstance(takes, Mapping) else {name: name for name in takes}
        made = Operation(method.__name__, settings, doc, reads, named, gives or {})
        setattr(method, _MARK, made)
        return method

    return mark


def operations(cls: type) -> dict[str, Operation]:
    """The operations of a class by name, `sample` first.

    A method that overrides one is one, marked again or not.
    """
    found: dict[str, Operation] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            made = getattr(value, _MARK, None)
            if isinstance(made, Operation):
                found[name] = replace(made, name=name)
            elif name in found and not callable(value):
                del found[name]
    return dict(sorted(found.items(), key=lambda item: (item[0] != "sample", item[0])))
