"""What a model shows, to the sink: pictures as pictures, the rest as files of their step."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from rayloom.core.errors import UserError
from rayloom.core.protocols import Sink, operations
from rayloom.media.grid import tile
from rayloom.media.kinds import Arrays, Film, Images, Media, Table, Text
from rayloom.media.writers import encode
from rayloom.records.scratch import scratch

# Kind to (first part of the journal's key, ending): what MLflow's pages display.
_FILES: dict[type, tuple[str, str]] = {
    Film: ("films", ".gif"),
    Text: ("texts", ".txt"),
    Table: ("tables", ".csv"),
    Arrays: ("arrays", ".npz"),
}
OLD_NAMES = {
    "pictures": "show(batch, *, rng) -> {name: Media}, with rayloom.media.Images(tensor) for a "
    "tensor of pictures",
    "export_module": "exports() -> {name: Export(module, example)}, with "
    "rayloom.core.protocols.Export",
}


def check_names(model: nn.Module) -> None:
    """A model must not be written against an earlier contract: what is never called is a trap.

    Raises:
        UserError: It has a method of an old name; says the new one.
    """
    for old, new in OLD_NAMES.items():
        if hasattr(model, old):
            raise UserError(f"{type(model).__name__}.{old}() is an old form; write {new}")
    if hasattr(model, "sample") and "sample" not in operations(type(model)):
        raise UserError(
            f"{type(model).__name__}.sample() is of an old form; write `@operation(gives=...)` "
            "over sample(self, batch, *, rng, settings) -> Batch (rayloom.core.protocols)"
        )


def check_shown(model: nn.Module, shown: Mapping[str, Any]) -> None:
    """`show` gives media.

    Raises:
        UserError: It gave something else; says what would be right.
    """
    for name, medium in shown.items():
        if not isinstance(medium, Media):
            raise UserError(
                f"{type(model).__name__}.show() gave a {type(medium).__name__} as {name!r}; it "
                "gives Images, Film, Text, Table or Arrays of rayloom.media"
            )


def send(shown: Mapping[str, Media], sink: Sink, step: int) -> None:
    """Media to the sink: images as `pictures/NAME`, others as files `films/NAME`, `texts/NAME`.

    Args:
        shown: What `show` gave.
        sink: Where to.
        step: Of the clock.
    """
    for name, medium in shown.items():
        if isinstance(medium, Images):
            sink.image(step, f"pictures/{name}", tile(medium.pixels, columns=medium.columns))
            continue
        area, ending = _FILES[type(medium)]
        with scratch() as room:
            path = room / f"medium{ending}"
            path.write_bytes(encode(medium, ending))
            sink.file(step, f"{area}/{name}", path)
