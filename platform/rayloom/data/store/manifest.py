"""The manifest of a store: what it holds, and how one knows that it is whole.

A store is a folder: `manifest.json` and one Arrow IPC file `<split>.arrow` per split. The manifest
says where in a file each column's buffer lies, so that a reader needs nothing but the offset.
The fingerprint covers field specs and column bytes, not the container around them: the same data
has the same fingerprint whatever wrote it, and wherever.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from rayloom.config.sections import Config, NonNegativeInt, PositiveInt
from rayloom.core.errors import UserError, or_rather
from rayloom.core.fields import DTYPES, KINDS, MAX_CLASSES
from rayloom.core.protocols import DataSpec, FieldSpec

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FieldInfo(Config):
    """One field as the manifest keeps it; see `rayloom.core.protocols.FieldSpec`."""

    shape: tuple[int, ...]
    dtype: str
    kind: str = "vector"
    num_classes: NonNegativeInt = 0
    classes: tuple[str, ...] = Field((), description="names of the label values, in order")


class ColumnInfo(Config):
    """Where a column's values lie in its split's file."""

    offset: NonNegativeInt = Field(description="first byte of the values")
    num_bytes: NonNegativeInt
    starts: NonNegativeInt | None = Field(
        None, description="varying fields: first byte of the rows + 1 int64 offsets"
    )
    sha256: Sha256 = Field(description="of the values; of lengths, then values, where they vary")


class SplitInfo(Config):
    """One split: the file `<split>.arrow`."""

    rows: PositiveInt
    num_bytes: PositiveInt
    sha256: Sha256
    columns: dict[str, ColumnInfo]


class Manifest(Config):
    """All that is known of a store."""

    format: Literal["rayloom-store"] = "rayloom-store"
    schema_version: Literal[1] = 1
    name: str
    description: str = ""
    source: str = Field("", description="where the data came from")
    licence: str = ""
    fields: dict[str, FieldInfo]
    splits: dict[str, SplitInfo]
    tokenizers: dict[str, Sha256] = Field(
        default_factory=dict, description=f"by field: hash of its part of {TOKENIZER}"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the maker, where they are not the usual ones"
    )
    fingerprint: Sha256

    def spec(self, tokenizers: Mapping[str, Mapping[str, Any]] | None = None) -> DataSpec:
        """What a model needs to know of the data.

        Args:
            tokenizers: Plain data of each, by field; see `read_tokenizers`.
        """
        return DataSpec(
            {
                name: FieldSpec(
                    field.shape, field.dtype, field.kind, field.num_classes, field.classes
                )
                for name, field in self.fields.items()
            },
            self.name,
            tokenizers=tokenizers or {},
        )


def check_name(name: str, what: str = "data set") -> str:
    """The name itself, if it is safe as a file name.

    Raises:
        UserError: It is not (a path, a hidden file, an empty or overlong name).
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{what} name {name!r}: use 1 to 100 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit"
        )
    return name


def check_fields(fields: Mapping[str, FieldSpec]) -> None:
    """Check the contract of field specs.

    Raises:
        UserError: A name, shape or dtype that the store cannot hold; says which and what it can.
    """
    if not fields:
        raise UserError("a data set needs at least one field")
    for name, field in fields.items():
        if not _FIELD.fullmatch(name):
            raise UserError(f"field name {name!r}: use letters, digits and '_', a letter first")
        if field.dtype not in DTYPES:
            raise UserError(f"field {name!r}: dtype {field.dtype!r} is none of {', '.join(DTYPES)}")
        if field.kind not in KINDS:
            hint = or_rather(field.kind, KINDS)
            raise UserError(
                f"field {name!r}: kind {field.kind!r} is none of {', '.join(KINDS)}{hint}"
            )
        if field.classes and len(field.classes) != field.num_classes:
            raise UserError(
                f"field {name!r}: {len(field.classes)} names for {field.num_classes} classes"
            )
        if any(size < 1 for size in field.shape[1:]) or (field.shape and field.shape[0] < -1):
            raise UserError(
                f"field {name!r}: shape {field.shape}: only the first axis may vary (-1), "
                "the others are 1 or more"
            )
        if 0 in field.shape:
            raise UserError(f"field {name!r}: shape {field.shape} holds nothing")
        if not 0 <= field.num_classes <= MAX_CLASSES:
            raise UserError(
                f"field {name!r}: {field.num_classes} classes (the highest label, plus one), at "
                f"most {MAX_CLASSES} can be kept; number the classes from 0"
            )
        if varies(field):
            for extra in (f"{name}_mask", f"{name}_length"):
                if extra in fields:
                    raise UserError(f"field {extra!r} is taken: {name!r} varies and brings its own")


def varies(field: FieldSpec | FieldInfo) -> bool:
    """Whether examples of this field differ in length along the first axis."""
    return bool(field.shape) and field.shape[0] == -1


def inner_shape(field: FieldSpec | FieldInfo) -> tuple[int, ...]:
    """Shape of one stored row: of an example, or of one step of a varying example."""
    return tuple(field.shape[1:] if varies(field) else field.shape)


def row_bytes(field: FieldSpec | FieldInfo) -> int:
    """Bytes of one stored row of `inner_shape`."""
    return math.prod(inner_shape(field)) * np.dtype(field.dtype).itemsize


def fingerprint(
    fields: Mapping[str, FieldInfo],
    splits: Mapping[str, SplitInfo],
    tokenizers: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """SHA-256 over field specs, row counts and column hashes, in canonical JSON.

    Tokenizers (their hashes) and a maker's options are part of it where there are some.
    """
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "fields": {
            name: [list(f.shape), f.dtype, f.kind, f.num_classes] for name, f in fields.items()
        },
        "splits": {
            name: [split.rows, {key: column.sha256 for key, column in split.columns.items()}]
            for name, split in splits.items()
        },
    }
    if tokenizers:
        content["tokenizers"] = dict(tokenizers)
    if options:
        content["options"] = dict(options)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def broken(folder: Path, why: str) -> UserError:
    """The error for a store that cannot be used: names it and says what to do."""
    from rayloom.catalogue import CATALOGUE

    whole = folder.name.rpartition("-")[0]
    if folder.name not in CATALOGUE["datasets"] and whole in CATALOGUE["datasets"]:
        cure = f"make it again with `rayloom data prepare {whole} --option ... --force`"
    elif folder.name in CATALOGUE["datasets"]:
        cure = f"make it again with `rayloom data prepare {folder.name} --force`"
    else:
        cure = f"import it again with `rayloom data import PATH {folder.name} --force`"
    return UserError(f"data set {folder.name!r} in {folder}: {why}; {cure}")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        UserError: There is none, it is not a manifest, of another version, or not consistent.
    """
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise broken(folder, f"{MANIFEST} has {size} bytes, too many for a manifest")
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise broken(folder, f"no {MANIFEST}: this is not a rayloom store") from None
    except (OSError, ValueError, RecursionError) as error:
        raise broken(folder, f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    if not isinstance(tree, dict) or tree.get("format") != "rayloom-store":
        raise broken(folder, f"{MANIFEST} is not that of a rayloom store")
    if tree.get("schema_version") != SCHEMA_VERSION:
        version = tree.get("schema_version")
        raise broken(folder, f"schema version {version!r}; this rayloom reads {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate(tree)
        check_name(manifest.name)
        check_fields(manifest.spec().fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise broken(folder, f"{MANIFEST}: {key}: {first['msg']}") from None
    except UserError as error:
        raise broken(folder, f"{MANIFEST}: {error}") from None
    _check_consistent(folder, manifest)
    return manifest


def read_tokenizers(folder: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Plain data of the tokenizers of a store, by field.

    Raises:
        UserError: The file is missing, or not the one that the manifest knows.
    """
    if not manifest.tokenizers:
        return {}
    try:
        tree = json.loads((folder / TOKENIZER).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise broken(folder, f"{TOKENIZER} cannot be read ({type(error).__name__})") from None
    found: dict[str, dict[str, Any]] = {}
    for field, expected in manifest.tokenizers.items():
        part = tree.get(field) if isinstance(tree, dict) else None
        known = field in manifest.fields and isinstance(part, dict)
        if not known or plain_sha256(part) != expected:
            raise broken(folder, f"{TOKENIZER}: that of {field!r} is not the manifest's")
        found[field] = dict(part or {})
    return found


def plain_sha256(plain: Any) -> str:
    """Hash of plain data, such as a tokenizer's, in canonical JSON."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_consistent(folder: Path, manifest: Manifest) -> None:
    """Refuse a manifest whose numbers do not agree, so that no read can leave its file."""
    if not manifest.splits:
        raise broken(folder, f"{MANIFEST} names no split")
    for name, split in manifest.splits.items():
        if not _NAME.fullmatch(name) or ".." in name:
            raise broken(folder, f"{MANIFEST}: {name!r} is no split name")
        if split.columns.keys() != manifest.fields.keys():
            raise broken(folder, f"{MANIFEST}: split {name!r} has other columns than fields")
        for key, column in split.columns.items():
            field = manifest.fields[key]
            size = row_bytes(field)
            ends = [column.offset + column.num_bytes]
            good = column.offset % 8 == 0
            if varies(field):
                good = good and column.starts is not None and column.starts % 8 == 0
                good = good and column.num_bytes % size == 0
                ends.append((column.starts or 0) + 8 * (split.rows + 1))
            else:
                good = good and column.num_bytes == split.rows * size
            if not good or max(ends) > split.num_bytes:
                raise broken(
                    folder, f"{MANIFEST}: column {key!r} of {name!r} does not fit its file"
                )
    found = fingerprint(manifest.fields, manifest.splits, manifest.tokenizers, manifest.options)
    if found != manifest.fingerprint:
        raise broken(folder, f"{MANIFEST}: the fingerprint does not match the content it names")
