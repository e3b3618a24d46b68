"""A data set out as Parquet, one file per split.

The columns have the store's own Arrow types; field specs stand in the metadata, so that
`import_table` gives the same data set back.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rayloom.core.errors import UserError
from rayloom.data.dataset import Dataset
from rayloom.data.store.manifest import FieldInfo, inner_shape, varies
from rayloom.data.store.writer import arrow_schema

METADATA, TOKENIZERS, OPTIONS = b"rayloom.fields", b"rayloom.tokenizers", b"rayloom.options"
_ROWS = 1024  # rows written at once


def export_parquet(dataset: Dataset, folder: str | Path, *, force: bool = False) -> list[Path]:
    """Write each split as `FOLDER/<split>.parquet`.

    Args:
        dataset: What to write.
        folder: Where; made if absent.
        force: Replace files that are there.

    Raises:
        UserError: The folder cannot be written, or a file is there already.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from None
    infos = {k: FieldInfo.model_validate(v) for k, v in dataset.manifest["fields"].items()}
    text = json.dumps({key: info.model_dump(mode="json") for key, info in infos.items()})
    extras = {METADATA: text.encode()}
    if dataset.spec.tokenizers:
        extras[TOKENIZERS] = json.dumps(dict(dataset.spec.tokenizers)).encode()
    if dataset.manifest["options"]:
        extras[OPTIONS] = json.dumps(dataset.manifest["options"]).encode()
    schema = arrow_schema(infos).with_metadata(extras)
    written = []
    for name in dataset.splits:
        path = folder / f"{name}.parquet"
        if path.exists() and not force:
            raise UserError(f"{path}: is there already; --force replaces it")
        temporary = path.with_name(f".{path.name}.tmp")
        split = dataset.split(name)
        try:
            with pq.ParquetWriter(
                temporary, schema, compression="zstd", write_page_checksum=True
            ) as writer:
                for start in range(0, len(split), _ROWS):
                    index = torch.arange(start, min(start + _ROWS, len(split)))
                    writer.write_batch(_to_arrow(split.take(index), infos, schema))
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error})") from None
        finally:
            temporary.unlink(missing_ok=True)
        written.append(path)
    return written


def _to_arrow(
    batch: Mapping[str, torch.Tensor], infos: Mapping[str, FieldInfo], schema: pa.Schema
) -> pa.RecordBatch:
    arrays = []
    for key, info in infos.items():
        kind = schema.field(key).type
        values = batch[key].numpy()
        values = values.view(np.uint8) if info.dtype == "bool" else values
        if varies(info):
            kept = [v[:n] for v, n in zip(values, batch[f"{key}_length"].tolist(), strict=True)]
            flat = pa.array(np.concatenate(kept).reshape(-1))
            inner = inner_shape(info)
            items = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(inner))) if inner else flat
            starts = np.concatenate([[0], np.cumsum([len(v) for v in kept])]).astype(np.int64)
            arrays.append(pa.LargeListArray.from_arrays(pa.array(starts), items, type=kind))
        elif info.shape:
            flat = pa.array(values.reshape(-1))
            storage = pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type)
            arrays.append(pa.ExtensionArray.from_storage(kind, storage))
        else:
            arrays.append(pa.array(values))
    return pa.record_batch(arrays, schema=schema)
