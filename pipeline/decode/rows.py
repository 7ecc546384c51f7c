"""Rows of chunks (schema.CHUNK), and Arrow tables of them without a copy of the planes."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.decode.chunking import empty_row
from pipeline.schema import CHUNK


def error_row(
    clip: Mapping[str, Any], first: int, error: Mapping[str, Any], video: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The last row of a clip that cannot be decoded any further; `first` is the ordinal of the frame that is lost."""
    return empty_row(clip, first) | {"last": True, "video": video, "error": dict(error)}


def chunks_to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Arrow table of chunk rows, one record batch per row; `planes` is not copied.

    Args:
        rows: rows of `decode_clip`; may be none.

    Returns:
        Table with `schema.CHUNK`.
    """
    batches = []
    for row in rows:
        arrays = [
            _planes_array(row["planes"]) if f.name == "planes" else pa.array([row[f.name]], f.type) for f in CHUNK
        ]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=CHUNK))
    return pa.Table.from_batches(batches, schema=CHUNK)


def _planes_array(planes: Any) -> pa.LargeBinaryArray:
    if planes is None:
        return pa.nulls(1, pa.large_binary())
    data = pa.py_buffer(planes)
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])
