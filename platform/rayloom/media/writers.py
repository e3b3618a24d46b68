"""The one table of file formats: what `rayloom sample`, `rayloom apply` and MLflow write.

Bytes are a function of content: no time, no host, no order of a dictionary that was not given.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rayloom.media.film import encode_film
from rayloom.media.grid import tile
from rayloom.media.kinds import Arrays, Film, Images, Media, Table, Text

SEPARATOR = "\n\n--------\n\n"  # between texts of one .txt


@dataclass(frozen=True)
class Writer:
    """How files of one ending are made.

    Attributes:
        kinds: Of media that fit.
        encode: A medium of these kinds to bytes.
    """

    kinds: tuple[type, ...]
    encode: Callable[[Any], bytes]


def endings_of(media: Iterable[Media | type]) -> list[str]:
    """The endings that any of these media (or kinds of media) can be written with."""
    kinds = {one if isinstance(one, type) else type(one) for one in media}
    return [ending for ending, writer in WRITERS.items() if kinds & {*writer.kinds}]


def encode(media: Media | Sequence[Media], ending: str) -> bytes:
    """A medium as the bytes of a file.

    Args:
        media: One medium; or several forms of the same result, of which the first fitting one is
            taken.
        ending: Such as `.png`.

    Raises:
        ValueError: Nothing of this ending can hold it; lists the endings that can.
    """
    forms: Sequence[Media] = media if isinstance(media, list | tuple) else [media]  # type: ignore[list-item]
    writer = WRITERS.get(ending)
    for kind in writer.kinds if writer else ():
        for form in forms:
            if isinstance(form, kind):
                return writer.encode(form)  # type: ignore[union-attr]
    raise ValueError(f"{ending or 'no ending'} is none of {', '.join(endings_of(forms))}")


def rows_of(media: Table | Text) -> list[dict[str, Any]]:
    """The rows of a table; of texts, a row each."""
    columns = {"text": list(media.texts)} if isinstance(media, Text) else media.columns
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _png(images: Images) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    grid = tile(images.pixels, columns=images.columns, alpha=True)
    Image.fromarray(grid).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _film(ending: str) -> Callable[[Film], bytes]:
    def encode_frames(film: Film) -> bytes:
        frames = film.frames if film.frames.ndim == 5 else film.frames[:, None]
        pictures = [tile(frame, columns=film.columns) for frame in frames]
        return encode_film(pictures, ending, fps=film.fps)

    return encode_frames


def _txt(text: Text) -> bytes:
    return SEPARATOR.join(text.texts).encode() + b"\n"


def _jsonl(media: Table | Text) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=True) for row in rows_of(media))
    return "".join(f"{line}\n" for line in lines).encode()


def _csv(media: Table | Text) -> bytes:
    """Lists become a column each, `name.0`, `name.1`; what is missing is an empty cell."""
    rows = [_flat(row) for row in rows_of(media)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list | tuple):
            flat |= _flat({f"{name}.{place}": item for place, item in enumerate(value)})
        else:
            flat[name] = value
    return flat


def _parquet(media: Table | Text) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"text": media.texts} if isinstance(media, Text) else media.columns
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), sink)
    return bytes(sink.getvalue())


def _npy(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _numpy(next(iter(arrays.values.values()))), allow_pickle=False)
    return buffer.getvalue()


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    # numpy's own members bear the date 1980-01-01: no time gets in
    np.savez_compressed(buffer, **{name: _numpy(value) for name, value in arrays.values.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _safetensors(arrays: Arrays) -> bytes:
    from safetensors.torch import save

    return save({name: value.contiguous().cpu() for name, value in arrays.values.items()})


def _numpy(value: torch.Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


WRITERS: dict[str, Writer] = {
    ".png": Writer((Images,), _png),
    ".gif": Writer((Film,), _film(".gif")),
    ".mp4": Writer((Film,), _film(".mp4")),
    ".txt": Writer((Text,), _txt),
    ".jsonl": Writer((Text, Table), _jsonl),
    ".csv": Writer((Table, Text), _csv),
    ".parquet": Writer((Table, Text), _parquet),
    ".npy": Writer((Arrays,), _npy),
    ".npz": Writer((Arrays,), _npz),
    ".safetensors": Writer((Arrays,), _safetensors),
}
