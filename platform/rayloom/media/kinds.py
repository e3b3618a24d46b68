"""What a model shows or makes: pictures, films, text, tables, arrays.

A model says what it shows (`show(batch, *, rng) -> {name: Media}`) and an operation what it gives;
files and MLflow get it by `media.writers`, one table for all.

Dimension key: R rows, K images, T frames, C channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Images:
    """Pictures, laid out as a grid.

    Attributes:
        pixels: In [0, 1]: (K, C, H, W), or (R, K, C, H, W), a row each. Four channels are colour
            and alpha.
        columns: Images per row; None: 8.

    Raises:
        ValueError: Another shape, or numbers that are not floating.
    """

    pixels: Tensor
    columns: int | None = None

    def __post_init__(self) -> None:
        _check("Images.pixels", self.pixels, "(K, C, H, W) or (R, K, C, H, W)", (4, 5))


@dataclass(frozen=True)
class Film:
    """Pictures one after another.

    Attributes:
        frames: In [0, 1]: (T, K, C, H, W), a grid each, or (T, C, H, W), a picture each.
        fps: Frames per second.
        columns: Images per row of a grid; None: 8.

    Raises:
        ValueError: Another shape, or numbers that are not floating.
    """

    frames: Tensor
    fps: int = 8
    columns: int | None = None

    def __post_init__(self) -> None:
        _check("Film.frames", self.frames, "(T, K, C, H, W) or (T, C, H, W)", (4, 5))


@dataclass(frozen=True)
class Text:
    """Texts, one an example.

    Attributes:
        texts: In order.

    Raises:
        ValueError: A text alone, which would be read letter by letter.
    """

    texts: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not all(isinstance(text, str) for text in self.texts):
            raise ValueError("Text.texts is a sequence of texts, one an example")


@dataclass(frozen=True)
class Table:
    """Named columns of equal length.

    Attributes:
        columns: Text, numbers, or lists of numbers, by name.

    Raises:
        ValueError: The columns differ in length.
    """

    columns: Mapping[str, Sequence[Cell | Sequence[Cell]]]

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of a Table have equal lengths, not {lengths}")

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class Arrays:
    """Named tensors as they are; the first one stands where a file holds one.

    Attributes:
        values: By name.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)


Media = Images | Film | Text | Table | Arrays


def _check(what: str, value: Tensor, shape: str, axes: tuple[int, ...]) -> None:
    fits = isinstance(value, Tensor) and value.ndim in axes and value.is_floating_point()
    if not fits or not value.numel():
        found = (
            f"{value.dtype} {tuple(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise ValueError(f"{what} is a floating tensor {shape} in [0, 1], not {found}")
