"""Stage 4, write: commits the results of annotated chunks to the tables of their slots."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import OutputError
from pipeline.observe import metrics
from pipeline.observe.logging import ERROR_FIELDS, get_logger
from pipeline.runs.context import RunContext
from pipeline.tables import parquet
from pipeline.tables.tombstones import drop_erased_faces

#: the account of a chunk that was committed, or of a clip's end
ACCOUNT = pa.schema(
    [
        ("clip_id", pa.string()),
        ("slots", pa.list_(pa.string())),
        ("first", pa.int64()),
        ("count", pa.int64()),
        ("faces", pa.int64()),
        ("last", pa.bool_()),
        ("video", schema.VIDEO),
        ("error", schema.ERROR),
    ]
)


def commit_chunks(rows: pa.Table, context: RunContext) -> pa.Table:
    """Commit annotated chunks (schema.FLOW) to the tables of their slots; returns their accounts (ACCOUNT).

    `faces` is written first: a chunk that it lacks is detected again, while a chunk that only other tables lack is
    computed from its stored boxes, so that all tables hold the same faces.
    """
    started = time.monotonic()
    metrics.record_waits(rows, "write")
    output = context.open()
    rows = drop_erased_faces(rows, output)
    counts = rows["count"].combine_chunks()
    faces = rows["face_index"].combine_chunks().value_lengths().fill_null(0).cast(pa.int64())
    failed = rows["error"].combine_chunks().is_valid()
    # an error is not the clip's end for later runs: other bytes or another decoder may get further
    sound = pc.invert(failed)
    last = pc.and_(pc.and_(rows["last"].combine_chunks(), sound), rows["video"].combine_chunks().is_valid())
    ledger = pa.table(
        [rows["clip_id"], rows["fingerprint"], rows["first"], counts, faces, last, rows["video"]],
        schema=parquet.LEDGER,
    )
    stored = pc.and_(pc.or_(pc.greater(counts, 0), last), sound)
    for shard in rows["shard"].unique().to_pylist():
        for slot, version in context.slots.items():
            asked = pa.array([slot in (slots or ()) for slots in rows["slots"].to_pylist()])
            mine = pc.and_(pc.and_(pc.equal(rows["shard"], shard), asked), stored)
            part = rows.filter(mine)
            if part.num_rows:
                table = slot_rows(part, slot, context.config.store.embedding_dtype)
                parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], version, shard, table, ledger.filter(mine))
    metrics.record("faceatlas_stage_seconds", time.monotonic() - started, stage="write")
    _log_committed(rows, context)
    return pa.table(
        [
            rows["clip_id"],
            rows["slots"],
            rows["first"],
            ledger["count"],
            faces,
            rows["last"],
            rows["video"],
            rows["error"],
        ],
        schema=ACCOUNT,
    )


def _log_committed(rows: pa.Table, context: RunContext) -> None:
    log = get_logger(context.config.ray.log_level)
    for row in rows.select(["clip_id", "shard", "first", "error"]).to_pylist():
        place = {"run": context.run, "shard": row["shard"], "clip": row["clip_id"], "chunk": row["first"]}
        error = row["error"]
        if error is None:
            log.debug("committed", **place)
        elif error["stage"] == "annotate":  # others are in the log of the worker that decoded
            log.warning("clip_failed", **place, **{name: error[name] for name in ERROR_FIELDS})


def slot_rows(rows: pa.Table, slot: str, embedding_dtype: str = "float32") -> pa.Table:
    """The rows of a slot's table for the faces of annotated chunks; NaN becomes null.

    Raises:
        OutputError: the model gave another number of values per face than the table has.
    """
    target = schema.slot_schema(slot, embedding_dtype)
    index = rows["face_index"].combine_chunks()
    faces_per_row = index.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    row_F = np.repeat(np.arange(rows.num_rows), faces_per_row)
    position_F = index.drop_null().flatten().to_numpy(zero_copy_only=False)
    frames = rows["frames"].combine_chunks()
    frames_per_row = frames.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    start_R = np.concatenate([[0], np.cumsum(frames_per_row)])[:-1]
    pick = pa.array(start_R[row_F] + position_F, pa.int64())
    columns: dict[str, pa.Array] = {
        "clip_id": rows["clip_id"].combine_chunks().take(pa.array(row_F)),
        "frame": frames.drop_null().flatten().take(pick),
        "face": pa.array(_face_numbers(rows["face_number"].combine_chunks(), row_F, position_F), pa.int32()),
    }
    if slot == "face":
        columns["time"] = rows["times"].combine_chunks().drop_null().flatten().take(pick)
    columns |= _value_columns(rows[slot].combine_chunks(), slot, target, len(row_F))
    return pa.table([columns[name] for name in target.names], schema=target)


def _face_numbers(stored: pa.Array, row_F: np.ndarray, position_F: np.ndarray) -> np.ndarray:
    """Number of each face within its frame: that of the stored face, which may follow a gap, else its rank."""
    numbers = _rank_within_frame(row_F, position_F)
    numbers[stored.is_valid().to_numpy(zero_copy_only=False)[row_F]] = stored.drop_null().flatten().to_numpy()
    return numbers


def _rank_within_frame(row_F: np.ndarray, position_F: np.ndarray) -> np.ndarray:
    """Number of each face within its frame; faces of a frame lie together."""
    if not len(row_F):
        return np.empty(0, np.int32)
    new = np.concatenate([[True], (np.diff(row_F) != 0) | (np.diff(position_F) != 0)])
    starts = np.flatnonzero(new)
    return np.arange(len(row_F)) - np.repeat(starts, np.diff(np.append(starts, len(row_F))))


def _value_columns(lists: pa.Array, slot: str, target: pa.Schema, faces: int) -> dict[str, pa.Array]:
    fields = [target.field(column.name) for column in schema.SLOT_COLUMNS[slot] if column.name != "time"]
    widths = [f.type.list_size if pa.types.is_fixed_size_list(f.type) else 1 for f in fields]
    flat = lists.drop_null().flatten().to_numpy(zero_copy_only=False)
    if flat.size != faces * sum(widths):
        given = f"{flat.size / faces:g}" if faces else f"{flat.size}"
        raise OutputError(f"the model of slot {slot!r} gave {given} numbers per face; its table holds {sum(widths)}")
    values_FD = flat.reshape(faces, sum(widths))
    columns, at = {}, 0
    for f, width in zip(fields, widths, strict=True):
        part = values_FD[:, at : at + width]
        at += width
        unknown = np.isnan(part).any(axis=1)
        if pa.types.is_fixed_size_list(f.type):
            values = pa.array(part.ravel().astype(f.type.value_type.to_pandas_dtype()), f.type.value_type)
            columns[f.name] = pa.FixedSizeListArray.from_arrays(values, type=f.type, mask=pa.array(unknown))
        else:
            columns[f.name] = pa.array(part[:, 0], f.type, mask=unknown)
    return columns
