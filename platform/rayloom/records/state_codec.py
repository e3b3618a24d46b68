"""Nested states to files and back, bit for bit: safetensors for arrays, JSON for the rest.

A state is a nested dict with string keys (`core.protocols.State`). Nothing is pickled: a checkpoint
from a stranger can hold wrong numbers, but no code.

`state.json` is the tree itself. A leaf that JSON cannot hold is an object with one `$` key:

    {"$tensor": "model/w"}   {"$array": "env/obs"}   {"$number": "rng/x"} (a numpy scalar)
    {"$float": "7ff8000000000000"} (NaN or infinite, its 64 bits)   {"$tuple": [...]}
    {"$chunk": "replay-000012"}

The safetensors writer is our own (the format is eight bytes of length, a JSON header, raw bytes):
it hashes while it writes, so that a checkpoint's bytes are touched once.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.core.errors import CheckpointError
from rayloom.core.protocols import Chunk, State
from rayloom.records.inside import open_inside, read_inside

_TORCH = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
_FROM_NAME = {name: dtype for dtype, name in _TORCH.items()}
_NUMPY = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}
_NUMPY_FROM_NAME = {name: np.dtype(dtype) for dtype, name in _NUMPY.items()}
_WIDTH = {name: torch.empty(0, dtype=dtype).element_size() for name, dtype in _FROM_NAME.items()}

MAX_TREE = 1 << 30  # bytes of state.json
MAX_HEADER = 100_000_000  # bytes of a safetensors header, as its own library allows
_MAX_DIM, _MAX_DIMS = 2**48, 64

Arrays = dict[str, Tensor | np.ndarray]


class Encoded:
    """A state taken apart.

    Attributes:
        tree: What `state.json` holds.
        arrays: Tensors and arrays by their path in the tree.
        chunks: Shared immutable blocks by key.
    """

    def __init__(self) -> None:
        self.tree: Any = None
        self.arrays: Arrays = {}
        self.chunks: dict[str, Chunk] = {}


def encode(state: State) -> Encoded:
    """Take a state apart.

    Raises:
        TypeError: A leaf (or a key) that a checkpoint cannot hold; the message names its path.
    """
    out = Encoded()
    out.tree = _encode(state, "", out)
    return out


def _bad(path: str, what: str) -> TypeError:
    return TypeError(
        f"state{path or '/'}: {what} cannot be checkpointed; allowed are dicts with string keys, "
        f"lists, tuples, tensors, numeric numpy arrays, int, float, str, bool, None and Chunk"
    )


def _encode(value: Any, path: str, out: Encoded) -> Any:
    if value is None or isinstance(value, str | bool):
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, Tensor):
        if value.dtype not in _TORCH or value.layout != torch.strided or value.is_quantized:
            raise _bad(path, f"a {value.layout} tensor of {value.dtype}")
        return {"$tensor": _name(path, value, out)}
    if isinstance(value, np.ndarray | np.generic):
        if isinstance(value, np.float64):
            return _encode_float(float(value))
        array = np.asarray(value)
        if array.dtype.name not in _NUMPY:
            raise _bad(path, f"a numpy array of {array.dtype}")
        kind = "$array" if isinstance(value, np.ndarray) else "$number"
        return {kind: _name(path, array, out)}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _encode_float(value)
    if isinstance(value, list):
        return [_encode(item, f"{path}/{i}", out) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, f"{path}/{i}", out) for i, item in enumerate(value)]}
    if isinstance(value, Chunk):
        return {"$chunk": _chunk(value, path, out)}
    if isinstance(value, Mapping):
        return {k: _encode(v, f"{path}/{k}", out) for k, v in _items(value, path)}
    raise _bad(path, f"a {type(value).__name__}")


def _items(value: Mapping[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if not isinstance(key, str):
            raise _bad(path, f"the key {key!r} ({type(key).__name__})")
        if key.startswith("$"):
            raise _bad(path, f"the key {key!r} (a leading '$' is taken)")
        yield key, item


def _encode_float(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"$float": struct.pack(">d", value).hex()}


def _name(path: str, value: Tensor | np.ndarray, out: Encoded) -> str:
    name = path.lstrip("/") or "value"
    while name in out.arrays:
        name += "'"  # two paths that read alike, such as {"a/b": x, "a": {"b": y}}
    out.arrays[name] = value
    return name


def _chunk(chunk: Chunk, path: str, out: Encoded) -> str:
    known = out.chunks.setdefault(chunk.key, chunk)
    if known is not chunk and known.arrays is not chunk.arrays:
        raise _bad(path, f"a second chunk called {chunk.key!r}")
    for name, array in chunk.arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.name not in _NUMPY:
            raise _bad(f"{path}/{name}", f"a {getattr(array, 'dtype', type(array))} in a chunk")
    return chunk.key


def decode(tree: Any, arrays: Mapping[str, Tensor], chunks: Mapping[str, Chunk]) -> Any:
    """Put a state together again.

    Args:
        tree: As `Encoded.tree`.
        arrays: Tensors by name, as `read_arrays` gives them.
        chunks: Chunks by key.

    Raises:
        CheckpointError: The tree names an array or chunk that is not there.
    """
    if isinstance(tree, list):
        return [decode(item, arrays, chunks) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key.startswith("$"):
            return _decode_leaf(key, value, arrays, chunks)
    return {key: decode(value, arrays, chunks) for key, value in tree.items()}


def decode_tree(
    text: bytes, arrays: Mapping[str, Tensor], chunks: Mapping[str, Chunk]
) -> dict[str, Any]:
    """`decode` of the text of `state.json`.

    Raises:
        CheckpointError: It is no state, or names what is not there.
    """
    try:
        state = decode(json.loads(text), arrays, chunks)
    except (ValueError, TypeError, RecursionError, struct.error) as error:
        raise CheckpointError(f"state.json is no state: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"state.json is no state: it holds a {type(state).__name__}")
    return state


def check(folder: Path, store: Path, chunks: Mapping[str, str]) -> None:
    """Whether `read_arrays` and `decode` will understand a checkpoint; no array is read.

    Args:
        folder: The checkpoint's folder.
        store: Where chunk files lie.
        chunks: Chunk key to its file.

    Raises:
        CheckpointError: A file is not what its name says, or the tree names what is not there.
        OSError: A file cannot be read.
    """
    header, _ = read_header(folder / "state.safetensors")
    for file in chunks.values():
        names, _ = read_header(store / file)
        bad = [name for name, entry in names.items() if entry["dtype"] not in _NUMPY_FROM_NAME]
        if bad:
            raise CheckpointError(f"{file}: {bad[0][:80]!r} is of no type that a chunk holds")
    arrays = {k: torch.empty(0, dtype=_FROM_NAME[e["dtype"]]) for k, e in header.items()}
    text = read_inside(folder, "state.json", limit=MAX_TREE)
    decode_tree(text, arrays, {key: Chunk(key, {}) for key in chunks})


def _decode_leaf(
    key: str, value: Any, arrays: Mapping[str, Tensor], chunks: Mapping[str, Chunk]
) -> Any:
    try:
        match key:
            case "$tensor":
                return arrays[value]
            case "$array":
                return arrays[value].numpy()
            case "$number":
                return arrays[value].numpy()[()]
            case "$float":
                return struct.unpack(">d", bytes.fromhex(value))[0]
            case "$tuple":
                return tuple(decode(item, arrays, chunks) for item in value)
            case "$chunk":
                return chunks[value]
    except KeyError as error:
        raise CheckpointError(f"the state names {error}, which its files do not hold") from error
    raise CheckpointError(f"the state holds {key}, which this version does not know")


# ---- safetensors ----


def _host(value: Tensor | np.ndarray) -> tuple[str, list[int], memoryview]:
    """(safetensors type, shape, the bytes) of a tensor or array; copies only if it must."""
    if isinstance(value, np.ndarray):
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        flat = np.ascontiguousarray(native).reshape(-1)
        return _NUMPY[value.dtype.name], list(value.shape), flat.view(np.uint8).data
    tensor = value.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    flat_bytes = tensor.reshape(-1).view(torch.uint8).numpy()
    return _TORCH[value.dtype], list(value.shape), flat_bytes.data


def serialise(arrays: Mapping[str, Tensor | np.ndarray]) -> Iterator[memoryview | bytes]:
    """The blocks of a safetensors file, deterministic: wide types first, then by name."""
    hosts = {name: _host(value) for name, value in arrays.items()}
    order = sorted(hosts, key=lambda name: (-_WIDTH[hosts[name][0]], name))
    header, start = {}, 0
    for name in order:
        kind, shape, data = hosts[name]
        end = start + data.nbytes
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin on a multiple of eight
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        data = hosts.pop(name)[2]
        if data.nbytes:
            yield data


def digest_arrays(arrays: Mapping[str, Tensor | np.ndarray]) -> tuple[int, str]:
    """(bytes, SHA-256) that `write_arrays` would write."""
    digest, size = hashlib.sha256(), 0
    for block in serialise(arrays):
        digest.update(block)
        size += memoryview(block).nbytes
    return size, digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, Tensor | np.ndarray]) -> tuple[int, str]:
    """Write a safetensors file and fsync it; returns its (bytes, SHA-256).

    Raises:
        OSError: The disk refused.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "wb", buffering=0) as file:
        for block in serialise(arrays):
            view = memoryview(block)
            digest.update(view)
            size += view.nbytes
            while view.nbytes:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def read_arrays(path: Path) -> tuple[dict[str, Tensor], int, str]:
    """(tensors by name, bytes, SHA-256) of a safetensors file, read once.

    Each tensor owns its memory.

    Raises:
        CheckpointError: The header or an offset makes no sense.
        OSError: The file cannot be read.
    """
    header, base = read_header(path)
    with os.fdopen(open_inside(path.parent, path.name), "rb") as file:
        try:
            data = bytearray(os.fstat(file.fileno()).st_size)
        except MemoryError as error:
            raise CheckpointError(f"{path} does not fit into memory") from error
        filled = file.readinto(data)
    if filled != len(data):
        raise CheckpointError(f"{path} changed while it was read")
    digest = hashlib.sha256(data).hexdigest()
    try:
        tensors = {name: _tensor(data, base, entry) for name, entry in header.items()}
    except (ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return tensors, len(data), digest


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(name to {"dtype", "shape", "data_offsets"}, first byte of the data) of a safetensors file.

    Raises:
        CheckpointError: It is no such file: a type, a shape or an offset makes no sense, or the
            data of two names overlap.
        OSError: The file cannot be read.
    """
    with os.fdopen(open_inside(path.parent, path.name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("the header is no object")
            header.pop("__metadata__", None)
            end = 0
            entries = [(*_checked(name, entry), name) for name, entry in header.items()]
            for start, stop, name in sorted(entries):
                if start != end:
                    raise ValueError(f"the data of {name[:80]!r} begin at {start}, not at {end}")
                end = stop
            if 8 + length + end != size:
                raise ValueError(f"{size:,} bytes where the header tells {8 + length + end:,}")
        except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path.name} is not a safetensors file: {error}") from error
    return header, 8 + length


def _checked(name: str, entry: Any) -> tuple[int, int]:
    """The offsets of one entry of a header, whose type, shape and size fit together."""
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets]
    if kind not in _FROM_NAME or len(offsets) != 2 or len(shape) > _MAX_DIMS:
        raise ValueError(f"{name[:80]!r} is of type {kind!r} or has too many axes")
    if not all(type(number) is int and 0 <= number <= _MAX_DIM for number in numbers):
        raise ValueError(f"{name[:80]!r} has a shape or offset that makes no sense")
    if offsets[1] - offsets[0] != math.prod(shape) * _WIDTH[kind]:
        raise ValueError(f"offsets {offsets} do not fit shape {shape}")
    return offsets[0], offsets[1]


def _tensor(data: bytearray, base: int, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape = _FROM_NAME[entry["dtype"]], tuple(entry["shape"])
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    start = base + entry["data_offsets"][0]
    flat = torch.frombuffer(data, dtype=dtype, count=count, offset=start)
    return flat.clone().reshape(shape)
