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
    data = bytearray(path.stat().st_size)
    with open(path, "rb") as file:
        filled = file.readinto(data)
    if filled != len(data):
        raise CheckpointError(f"{path} changed while it was read")
    digest = hashlib.sha256(data).hexdigest()
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(bytes(data[8 : 8 + length]))
        header.pop("__metadata__", None)
        tensors = {name: _tensor(data, 8 + length, entry) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return tensors, len(data), digest


def _tensor(data: bytearray, base: int, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape = _FROM_NAME[entry["dtype"]], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    count = math.prod(shape)
    if end - start != count * _WIDTH[entry["dtype"]] or base + end > len(data) or start < 0:
        raise ValueError(f"offsets {start}..{end} do not fit shape {shape}")
    if not count:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype, count=count, offset=base + start)
    return flat.clone().reshape(shape)
