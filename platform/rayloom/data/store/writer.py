"""Writing stores: Arrow IPC files, uncompressed, one record batch per split.

With one record batch a whole column is one contiguous buffer, which a memory map shows as an array
`[rows, *shape]` without a copy. Any Arrow reader opens the files too: fixed fields are
`fixed_shape_tensor` (scalars plain), varying ones `large_list`; booleans are kept as uint8.

A store appears by renaming a complete, flushed folder: a killed writer leaves at most a folder
whose name begins with a dot, which the next writer removes.
"""

import hashlib
import io
import json
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa

from rayloom.core import failpoints
from rayloom.core.errors import UserError
from rayloom.core.protocols import FieldSpec
from rayloom.data.store.manifest import (
    MANIFEST,
    TOKENIZER,
    ColumnInfo,
    FieldInfo,
    Manifest,
    SplitInfo,
    check_fields,
    check_name,
    fingerprint,
    inner_shape,
    plain_sha256,
    row_bytes,
    varies,
)

CHUNK = 16 << 20  # bytes per write, and per read while hashing
_OPTIONS = pa.ipc.IpcWriteOptions(allow_64bit=True)  # a column may have more than 2^31 values


class _HashingFile(io.RawIOBase):
    """Write-only file that hashes what passes and lets go of mapped source pages behind itself."""

    def __init__(self, file: IO[bytes], sources: Sequence[mmap.mmap]) -> None:
        super().__init__()
        self._file, self._sources = file, sources
        self.digest = hashlib.sha256()
        self.position = 0

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self.position

    def write(self, data: Any) -> int:
        """Write all of `data`, in chunks."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK):
            piece = view[start : start + CHUNK]
            self._file.write(piece)
            self.digest.update(piece)
            if len(view) > CHUNK:
                for source in self._sources:
                    source.madvise(mmap.MADV_DONTNEED)
        self.position += len(view)
        return len(view)


class _Spool:
    """Raw bytes of one column on their way into a store."""

    def __init__(self, path: Path, field: FieldSpec) -> None:
        self.path, self.field = path, field
        self.file = path.open("wb")
        self.values = hashlib.sha256()
        self.lengths: list[np.ndarray] = []
        self.rows = 0

    def append(self, array: np.ndarray) -> None:
        """Write `[n, *inner]` values."""
        for start in range(0, len(array), step := max(1, CHUNK // max(1, row_bytes(self.field)))):
            piece = np.ascontiguousarray(array[start : start + step])
            data = piece.reshape(-1).view(np.uint8).data
            self.file.write(data)
            self.values.update(data)

    def sha256(self) -> str:
        """Content hash of the column."""
        if not varies(self.field):
            return self.values.hexdigest()
        lengths = np.concatenate([np.zeros(0, np.int64), *self.lengths])
        return column_sha256(lengths, self.values.hexdigest())


def column_sha256(lengths: np.ndarray, values_sha256: str) -> str:
    """Content hash of a varying column, from its lengths and the hash of its values."""
    digest = hashlib.sha256(lengths.astype("<i8").tobytes())
    digest.update(values_sha256.encode())
    return digest.hexdigest()


class StoreWriter:
    """Writes one store, any amount of data in bounded memory. Use it as a context manager.

    Leaving the block normally publishes the store (`folder` appears, complete, or replaces the
    old one); leaving it by an exception removes what was written.

    Args:
        folder: Where the store will be; its name is the data set's name.
        fields: Field specs, in the order in which batches will hold them.
        source: Where the data comes from, for the manifest.
        licence: Licence of the data.
        description: One line on what it is.
        classes: Names of label values, by field, where the specs do not have them.
        tokenizers: Plain data of the tokenizers, by field.
        options: Of the maker, where they are not the usual ones: part of the fingerprint.
    """

    def __init__(
        self,
        folder: Path,
        fields: Mapping[str, FieldSpec],
        *,
        source: str = "",
        licence: str = "",
        description: str = "",
        classes: Mapping[str, Sequence[str]] | None = None,
        tokenizers: Mapping[str, Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_name(folder.name)
        check_fields(fields)
        self.folder, self.fields = folder, dict(fields)
        self.source, self.licence, self.description = source, licence, description
        self.classes = {key: tuple(names) for key, names in (classes or {}).items()}
        self.tokenizers, self.options = dict(tokenizers or {}), dict(options or {})
        self._spools: dict[str, dict[str, _Spool]] = {}
        self._temporary: Path | None = None

    def __enter__(self) -> "StoreWriter":
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            prefix = f".{self.folder.name}.tmp-"
            self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder.parent))
        except OSError as error:
            raise UserError(
                f"cannot write data sets in {self.folder.parent} ({error.strerror}); choose "
                "another folder with data.root or RAYLOOM_DATA_ROOT"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            for spool in (s for spools in self._spools.values() for s in spools.values()):
                spool.file.close()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, split: str, rows: Mapping[str, np.ndarray | Sequence[np.ndarray]]) -> None:
        """Append examples to a split.

        Args:
            split: Name of the split, such as `train`.
            rows: Every field: an array `[n, *shape]`, or for a varying field n arrays
                `[length, *shape[1:]]`. Types must match the spec: nothing is cast.

        Raises:
            UserError: A field is missing, unknown, or of another type or shape than its spec.
        """
        assert self._temporary is not None, "use StoreWriter as a context manager"
        if rows.keys() != self.fields.keys():
            raise UserError(f"fields {sorted(rows)} were given, not {sorted(self.fields)}")
        counts = {key: len(value) for key, value in rows.items()}
        if len(set(counts.values())) != 1:
            raise UserError(f"fields differ in their number of examples: {counts}")
        for key, value in rows.items():
            parts = value if varies(self.fields[key]) else [value]
            for part in parts:
                self._check(key, np.asarray(part))
        if split not in self._spools:
            check_name(split, "split")
            self._spools[split] = {
                key: _Spool(self._temporary / f"{split}.{key}.raw", field)
                for key, field in self.fields.items()
            }
        for key, value in rows.items():
            spool = self._spools[split][key]
            if varies(spool.field):
                spool.lengths.append(np.array([len(part) for part in value], np.int64))
                for part in value:
                    spool.append(np.asarray(part))
            else:
                spool.append(np.asarray(value))
            spool.rows += counts[key]

    def _check(self, key: str, array: np.ndarray) -> None:
        field = self.fields[key]
        inner = inner_shape(field)
        if array.dtype != np.dtype(field.dtype) or array.shape[1:] != inner:
            raise UserError(
                f"field {key!r}: got {array.dtype} {array.shape[1:]} per row, "
                f"the spec says {field.dtype} {inner}"
            )

    def _publish(self) -> None:
        assert self._temporary is not None
        if not self._spools or any(s.rows == 0 for t in self._spools.values() for s in t.values()):
            raise UserError(f"data set {self.folder.name!r}: no examples, nothing to write")
        splits = {name: self._write_split(name) for name in self._spools}
        fields = {
            key: FieldInfo(
                shape=field.shape,
                dtype=field.dtype,
                kind=field.kind,
                num_classes=field.num_classes,
                classes=self.classes.get(key, field.classes),
            )
            for key, field in self.fields.items()
        }
        hashes = {key: plain_sha256(plain) for key, plain in self.tokenizers.items()}
        if hashes:
            with (self._temporary / TOKENIZER).open("w") as file:
                json.dump(self.tokenizers, file)
                flush(file)
        manifest = Manifest(
            name=self.folder.name,
            description=self.description,
            source=self.source,
            licence=self.licence,
            fields=fields,
            splits=splits,
            tokenizers=hashes,
            options=self.options,
            fingerprint=fingerprint(fields, splits, hashes, self.options),
        )
        text = json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n"
        with (self._temporary / MANIFEST).open("w") as file:
            file.write(text)
            flush(file)
        flush_folder(self._temporary)
        failpoints.hit("data.before_rename")
        self._temporary.chmod(0o755)
        _replace(self._temporary, self.folder)
        self._temporary = None

    def _write_split(self, name: str) -> SplitInfo:
        """Turn the spools of a split into `<split>.arrow`; removes them."""
        assert self._temporary is not None
        spools = self._spools[name]
        mapped: dict[str, mmap.mmap | bytes] = {}
        for key, spool in spools.items():
            spool.file.close()
            with spool.path.open("rb") as file:
                empty = spool.path.stat().st_size == 0
                mapped[key] = b"" if empty else mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        arrays = {k: _arrow_array(spools[k], pa.py_buffer(mapped[k])) for k in spools}
        schema = pa.schema([_arrow_field(key, field) for key, field in self.fields.items()])
        batch = pa.record_batch(list(arrays.values()), schema=schema)
        path = self._temporary / f"{name}.arrow"
        with path.open("wb") as file:
            maps = [m for m in mapped.values() if isinstance(m, mmap.mmap)]
            sink = _HashingFile(file, maps)
            with (
                pa.PythonFile(sink, "w") as out,
                pa.ipc.new_file(out, schema, options=_OPTIONS) as writer,
            ):
                writer.write_batch(batch)
            flush(file)
        columns = _locate(path, self.fields, {key: spool.sha256() for key, spool in spools.items()})
        rows = next(iter(spools.values())).rows
        for spool in spools.values():
            spool.path.unlink()
        return SplitInfo(
            rows=rows,
            num_bytes=path.stat().st_size,
            sha256=sink.digest.hexdigest(),
            columns=columns,
        )


def _arrow_type(field: FieldSpec | FieldInfo) -> pa.DataType:
    name = "uint8" if field.dtype == "bool" else field.dtype
    value = pa.from_numpy_dtype(np.dtype(name))
    inner = inner_shape(field)
    if not varies(field):
        return pa.fixed_shape_tensor(value, inner) if inner else value
    return pa.large_list(pa.list_(value, math.prod(inner)) if inner else value)


def _arrow_field(name: str, field: FieldSpec | FieldInfo) -> pa.Field:
    return pa.field(name, _arrow_type(field), nullable=False)


def arrow_schema(fields: Mapping[str, FieldSpec | FieldInfo]) -> pa.Schema:
    """The Arrow schema of a store's files."""
    return pa.schema([_arrow_field(key, field) for key, field in fields.items()])


def _arrow_array(spool: _Spool, buffer: pa.Buffer) -> pa.Array:
    """An Arrow array over raw bytes, without a copy."""
    field, kind = spool.field, _arrow_type(spool.field)
    inner = math.prod(inner_shape(field))
    name = "uint8" if field.dtype == "bool" else field.dtype
    value = pa.from_numpy_dtype(np.dtype(name))
    count = buffer.size // np.dtype(field.dtype).itemsize
    flat = pa.Array.from_buffers(value, count, [None, buffer])
    if not varies(field):
        if not inner_shape(field):
            return flat
        storage = pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    lengths = np.concatenate([np.zeros(0, np.int64), *spool.lengths])
    starts = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    items = pa.FixedSizeListArray.from_arrays(flat, inner) if inner_shape(field) else flat
    return pa.LargeListArray.from_arrays(starts, items, type=kind)


def _locate(
    path: Path, fields: Mapping[str, FieldSpec], hashes: Mapping[str, str]
) -> dict[str, ColumnInfo]:
    """Where the buffers of each column lie in a file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        whole = pa.py_buffer(mapped)
        batch = pa.ipc.open_file(whole).get_batch(0)
        columns = {}
        for key, field in fields.items():
            array = batch.column(key)
            array = array.storage if isinstance(array, pa.ExtensionArray) else array
            buffers = [b for b in array.buffers() if b is not None]
            values = buffers[-1]
            starts = buffers[0].address - whole.address if varies(field) else None
            count = len(array.values) if varies(field) else len(array)
            columns[key] = ColumnInfo(
                offset=values.address - whole.address if values.size else 0,
                num_bytes=count * row_bytes(field),
                starts=starts,
                sha256=hashes[key],
            )
            del array, buffers, values
        del batch, whole
    return columns


def flush(file: IO[Any]) -> None:
    """Push a file's bytes to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Push a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers of this store left. Call it under the store's lock only."""
    for kind in ("tmp", "old"):
        for left in folder.parent.glob(f".{folder.name}.{kind}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _replace(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`, moving an older store out of the way."""
    old = None
    if folder.exists() or folder.is_symlink():
        old = folder.with_name(new.name.replace(".tmp-", ".old-"))
        folder.rename(old)
    new.rename(folder)
    flush_folder(folder.parent)
    if old is not None:
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink()
