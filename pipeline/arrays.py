"""Tables of faces as arrays: the rows of one face found in another table, columns as matrices.

A face is named by `clip_id`, `frame` and `face`, in every table. Rows are matched by Arrow's hash look-up on these
three as one integer: measured against DuckDB and Polars (docs/architecture.md), it is the fastest way to put the
columns of the slots side by side, and it needs neither a thread of Arrow nor a library.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FACE_KEY = ("clip_id", "frame", "face")


def match_faces(faces: pa.Table, others: pa.Table) -> pa.Array:
    """The row of `others` that is about each face of `faces`.

    Args:
        faces: any columns, FACE_KEY among them; any order.
        others: likewise; of rows about one face, the first counts.

    Returns:
        int32 (rows of `faces`), null where `others` lacks the face.
    """
    key_N, key_M = _keys(faces, others, FACE_KEY)
    return pc.index_in(pa.array(key_N), value_set=pa.array(key_M))


def join_faces(faces: pa.Table, others: pa.Table) -> pa.Table:
    """`faces`, in its order, with the columns that `others` says of them; null where it lacks a face."""
    row_N = match_faces(faces, others)
    for name in others.column_names:
        if name not in FACE_KEY:
            faces = faces.append_column(others.schema.field(name), others[name].take(row_N))
    return faces


def pair_faces(one: pa.Table, other: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a face of one table and a face of the other that lie in the same frame.

    Returns:
        Their rows in `one`, rising, and in `other`, rising for each row of `one`: int64 (P,) each.
    """
    key_N, key_M = _keys(one, other, FACE_KEY[:2])
    order_M = np.argsort(key_M, kind="stable")
    low_N, high_N = (np.searchsorted(key_M, key_N, side, sorter=order_M) for side in ("left", "right"))
    count_N = high_N - low_N
    row_P = np.repeat(np.arange(len(key_N)), count_N)
    within_P = np.arange(len(row_P)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    return row_P, order_M[low_N[row_P] + within_P]


def _keys(one: pa.Table, other: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """FACE_KEY, or its first two columns, of each row of two tables as one int64; below 0 for a clip not in `one`."""
    clips = pc.unique(one["clip_id"])
    keys = [
        pc.fill_null(pc.index_in(t["clip_id"], value_set=clips), -1).to_numpy().astype(np.int64) for t in (one, other)
    ]
    for name in names[1:]:
        values = [table[name].to_numpy().astype(np.int64) for table in (one, other)]
        span = max(int(column.max(initial=0)) for column in values) + 1
        keys = [key * span + column for key, column in zip(keys, values, strict=True)]
    return keys[0], keys[1]


def to_matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of numbers, or of lists of one length, as float32 rows of its own memory; null becomes NaN."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_fixed_size_list(array.type):
        return array.cast(pa.float32()).to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, 1)
    width = array.type.list_size
    flat = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if not array.null_count:
        return flat.astype(np.float32)
    values = np.full((len(array), width), np.nan, np.float32)
    values[array.is_valid().to_numpy(zero_copy_only=False)] = flat
    return values


def columns_to_matrix(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Columns side by side as float32 rows, each as in `to_matrix`."""
    return np.concatenate([to_matrix(table[name]) for name in names], axis=1)
