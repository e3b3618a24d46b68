"""Data sets as the rest of the house sees them: a spec, a fingerprint, splits (see `split`)."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.data import LanesConfig, WindowsConfig
from rayloom.core.errors import UserError, or_rather
from rayloom.core.protocols import DataSpec, FieldSpec
from rayloom.core.statistics import FieldStatistics, Statistics
from rayloom.data.labelled import MASK, Labelled, choose
from rayloom.data.labelled import SPEC as MASK_SPEC
from rayloom.data.memory import arrays_to_columns, infer_fields
from rayloom.data.ordering import row_hash, split_order
from rayloom.data.rows.lanes import Lanes
from rayloom.data.rows.pieces import fields_of_rows
from rayloom.data.rows.windows import Windows
from rayloom.data.split import First, Rows, Split, Subset
from rayloom.data.statistics import Cache, field_statistics, has_statistics
from rayloom.data.store.columns import (
    Column,
    FixedColumn,
    ResidentRows,
    StreamedRows,
    VaryingColumn,
)
from rayloom.data.store.manifest import (
    FieldInfo,
    Manifest,
    SplitInfo,
    check_fields,
    inner_shape,
    read_manifest,
    read_tokenizers,
    row_bytes,
    varies,
)
from rayloom.data.store.residency import memory_budget
from rayloom.data.store.verification import verify
from rayloom.data.use import Use


class Dataset:
    """A data set: splits of named fields. Made by `open_dataset`, `open_store`, `from_arrays`.

    Attributes:
        spec: What a model needs to know of it, and of the training rows in use.
        use: Which part of it is in use.
        stored: The spec of what is stored: without `rows`, statistics and numbers.
        fingerprint: SHA-256 of its content; runs record it.
        manifest: What is known of it, JSON-able.
        folder: Where its store lies; None if it lives in memory.
        notes: What an import left out or decided, for the person who ran it.
    """

    def __init__(
        self,
        spec: DataSpec,
        splits: Mapping[str, Split],
        *,
        fingerprint: str,
        manifest: dict[str, Any],
        folder: Path | None = None,
        budget: int | None = None,
        use: Use | None = None,
    ) -> None:
        self.stored, self._whole, self.use = spec, dict(splits), use or Use()
        self.fingerprint, self.manifest = fingerprint, manifest
        self.folder, self._budget = folder, budget
        self.notes: tuple[str, ...] = ()
        self._splits = self._whole
        if self.use.validation_fraction:
            self._splits = _held_out(spec.name, self._whole, self.use.validation_fraction)
        if self.use.labelled is not None:
            self._splits = self._labelled(self.use.labelled.per_class)
        self.spec = self._spec()

    def _spec(self) -> DataSpec:
        """The stored spec, with what is in use of the training rows."""
        train, use, fields = self._splits.get("train"), self.use, self.stored.fields
        if use.rows is not None:
            fields = fields_of_rows(self.name, fields, use.rows)
        names = tuple(k for k, v in fields.items() if has_statistics(v))
        if use.labelled is not None:
            fields = {**fields, MASK: MASK_SPEC}
        return replace(
            self.stored,
            fields=fields,
            num_train=len(self._in_use(train)) if train is not None else 0,
            statistics=Statistics(names if train is not None else (), self._statistics),
        )

    def _labelled(self, per_class: int) -> dict[str, Split]:
        """The splits with `label_mask`: few labels in `train`, all in the others."""
        if self.use.rows is not None:
            raise UserError("data.labelled and data.rows do not go together: pieces have no label")
        field = self.stored.fields.get("label")
        made: dict[str, Split] = {}
        for name, split in self._splits.items():
            shown = None
            if name == "train":
                shown = choose(self.name, split, field, per_class, self.use.limit)
            made[name] = Labelled(split, shown)
        return made

    def _in_use(self, split: Split) -> Rows:
        """The rows of a split that are in use, without their order."""
        use = self.use
        rows: Rows = split
        if isinstance(use.rows, WindowsConfig):
            rows = Windows(split, self.stored.fields, use.rows)
        if isinstance(use.rows, LanesConfig):
            rows = Lanes(split, self.stored.fields, use.rows, lanes=1)
        return First(rows, use.limit) if use.limit else rows

    def _statistics(self, name: str) -> FieldStatistics:
        """Of a field, over the training rows in use; kept beside the store."""
        use, train = self.use, self._splits["train"]
        rows = self._in_use(train) if use.limit else train  # pieces are all of their examples
        field = self.stored.fields[name]
        part = f"{self.fingerprint} {use.validation_fraction!r} {use.limit}"
        if use.limit and use.rows is not None:
            part += f" {use.rows.model_dump_json()}"
        cache = Cache(self.folder, part) if self.folder is not None else None
        found = cache.get(name) if cache is not None else None
        if found is None:
            found = field_statistics(rows, name, field)
            if cache is not None:
                cache.put(name, found)
        return found

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.stored.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits."""
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        """One split.

        Raises:
            UserError: There is none of that name.
        """
        if name not in self._splits:
            raise UserError(
                f"data set {self.name!r} has no split {name!r}{or_rather(name, self._splits)}; "
                f"it has: {', '.join(self._splits)}"
            )
        return self._splits[name]

    def hold_out(self, fraction: float) -> "Dataset":
        """This data set with a part of `train` as the split `validation` instead.

        The part is chosen by a hash of the row numbers: the same on every machine and for every
        seed. The fingerprint stays that of the whole.

        Args:
            fraction: Of the training examples, above 0 and below 1.

        Raises:
            UserError: There is no `train` of two examples, or a `validation` already.
        """
        if self.use.validation_fraction:
            raise _taken(self.name)
        return self.using(replace(self.use, validation_fraction=fraction))

    def using(self, use: Use) -> "Dataset":
        """This data set, of which another part is in use. The fingerprint stays that of the whole.

        Raises:
            UserError: There is no such part.
        """
        made = Dataset(
            self.stored,
            self._whole,
            fingerprint=self.fingerprint,
            manifest=self.manifest,
            folder=self.folder,
            budget=self._budget,
            use=use,
        )
        made.notes = self.notes
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to other processes as the folder it lies in, if it has one."""
        if self.folder is not None:
            return _reopen, (self.folder, self._budget, self.use)
        return _in_memory, (self.stored, self._whole, self.fingerprint, self.manifest, self.use)


def _taken(name: str) -> UserError:
    return UserError(
        f"data set {name!r} has a split validation already; leave data.validation_fraction at 0"
    )


def _held_out(name: str, splits: Mapping[str, Split], fraction: float) -> dict[str, Split]:
    """The splits, with a part of `train` as `validation`."""
    train = splits.get("train")
    if train is None:
        raise UserError(f"data set {name!r} has no split 'train' to hold a part out of")
    if "validation" in splits:
        raise _taken(name)
    if len(train) < 2:
        raise UserError(f"data set {name!r} has one training example, none to hold out")
    order = np.argsort(row_hash(len(train)), kind="stable")
    parts = {k: torch.from_numpy(np.sort(v)) for k, v in split_order(order, fraction).items()}
    return {
        **splits,
        "train": Subset("train", train, parts["train"]),
        "validation": Subset("validation", train, parts["test"]),
    }


def _reopen(folder: Path, budget: int | None, use: Use) -> Dataset:
    return open_store(folder, budget).using(use)


def _in_memory(
    spec: DataSpec,
    splits: Mapping[str, Split],
    fingerprint: str,
    manifest: dict[str, Any],
    use: Use,
) -> Dataset:
    return Dataset(spec, splits, fingerprint=fingerprint, manifest=manifest, use=use)


def open_store(folder: Path | str, budget: int | None = None, *, full: bool = False) -> Dataset:
    """Open and verify a store.

    Args:
        folder: The store's folder.
        budget: Bytes of a split that may be memory-mapped; larger ones are read row by row.
            None: `RAYLOOM_DATA_BUDGET`, else a quarter of the memory available.
        full: Hash the files even if this state of them was hashed before.

    Raises:
        UserError: The store is missing, damaged or foreign; names the file and the cure.
    """
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    verify(folder, manifest, full=full)
    allowed = memory_budget(budget)
    splits = {
        name: _open_split(folder / f"{name}.arrow", name, manifest, info, allowed)
        for name, info in manifest.splits.items()
    }
    return Dataset(
        manifest.spec(read_tokenizers(folder, manifest)),
        splits,
        fingerprint=manifest.fingerprint,
        manifest=manifest.model_dump(mode="json"),
        folder=folder,
        budget=budget,
    )


def _open_split(path: Path, name: str, manifest: Manifest, info: SplitInfo, budget: int) -> Split:
    streamed = info.num_bytes > budget
    mapped = None if streamed else _map(path)
    columns: dict[str, Column] = {}
    for key, field in manifest.fields.items():
        place = info.columns[key]
        count = place.num_bytes // row_bytes(field)
        shape = inner_shape(field)
        if mapped is None:
            rows: ResidentRows | StreamedRows = StreamedRows(
                path, offset=place.offset, rows=count, shape=shape, dtype=field.dtype
            )
        else:
            rows = ResidentRows(_view(mapped, place.offset, count, field))
        if not varies(field):
            columns[key] = FixedColumn(rows)
            continue
        assert place.starts is not None
        with path.open("rb") as file:
            file.seek(place.starts)
            starts = np.frombuffer(bytearray(file.read(8 * (info.rows + 1))), np.int64)
        columns[key] = VaryingColumn(rows, torch.from_numpy(starts))
    return Split(name, columns, info.rows, streamed=streamed)


def _map(path: Path) -> mmap.mmap:
    """Map a file privately: writable without a warning, and nothing written reaches the file."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _view(mapped: mmap.mmap, offset: int, count: int, field: FieldInfo) -> Tensor:
    shape = inner_shape(field)
    items = count * (row_bytes(field) // np.dtype(field.dtype).itemsize)
    if items == 0:
        array = np.zeros(0, field.dtype)
    else:
        array = np.frombuffer(mapped, field.dtype, items, offset)
    return torch.from_numpy(array.reshape(count, *shape))


def from_arrays(
    name: str,
    splits: Mapping[str, Mapping[str, np.ndarray | Tensor | Sequence[np.ndarray]]],
    *,
    fields: Mapping[str, FieldSpec] | None = None,
    tokenizers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Dataset:
    """A data set in memory, for `fit` and for tests; no file is read or written.

    Args:
        name: Its name.
        splits: By split and field: arrays or tensors `[n, *shape]`; for a varying field a list of
            arrays `[length, *inner]`.
        fields: Field specs; by default inferred: uint8 `[n, C, H, W]` is an image, integers
            `[n]` are labels, anything else a vector.
        tokenizers: Plain data of the tokenizers of fields.

    Raises:
        UserError: Arrays that do not fit each other or the spec.
    """
    fields = dict(fields) if fields is not None else infer_fields(splits)
    check_fields(fields)
    made, fingerprint, manifest = arrays_to_columns(name, splits, fields, tokenizers or {})
    spec = DataSpec(fields, name, tokenizers=tokenizers or {})
    return Dataset(spec, made, fingerprint=fingerprint, manifest=manifest)
