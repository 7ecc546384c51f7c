"""Decoding clips in tasks: from work rows to chunks of the flow, with what is stored of them already."""

import time
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.arrays import columns_to_matrix
from pipeline.decode.rows import chunks_to_table
from pipeline.isolation.decoding import decode_isolated
from pipeline.isolation.registry import RegistryClient
from pipeline.observe import metrics
from pipeline.observe.logging import ERROR_FIELDS, get_logger
from pipeline.runs.context import Job
from pipeline.tables import parquet

_RESULTS = ("face_index", "face_number", *schema.SLOTS)


def pack_work(work: pa.Table, blocks: int) -> list[dict[str, bytes]]:
    """Work rows (plan.WORK) in about so many blocks of consecutive rows, each as an Arrow stream under `work`."""
    size = -(-work.num_rows // blocks)
    packed = []
    for low in range(0, work.num_rows, size):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, work.schema) as stream:
            stream.write_table(work.slice(low, size))
        packed.append({"work": sink.getvalue().to_pybytes()})
    return packed


def decode_packed(packed: pa.Table, job: Job, marks: RegistryClient) -> Iterator[pa.Table]:
    """`decode_clips` of blocks out of `pack_work`."""
    for block in packed["work"]:
        yield from decode_clips(pa.ipc.open_stream(block.as_buffer()).read_all(), job, marks)


def decode_clips(work: pa.Table, job: Job, marks: RegistryClient) -> Iterator[pa.Table]:
    """Decode the clips of some work rows (plan.WORK); yields one table of one row (schema.FLOW) per chunk.

    Args:
        work: the rows.
        job: the run.
        marks: where attempts are counted.
    """
    for row in work.to_pylist():
        stored = _read_stored(job, row) if row["stored"] else {}
        only = set(stored["face"]["frame"].to_pylist()) if "face" in stored else None  # others have nothing to look at
        for chunk in metrics.timed_items(decode_isolated(row, job.config, marks, only), "decode"):
            _log_decoded(chunk, row, job)
            if row["end_known"] and not chunk["count"] and chunk["error"] is None:
                continue  # the end is on record already; this row would only say it again
            yield _to_flow(chunk, row, stored)


def _log_decoded(chunk: Mapping, row: Mapping, job: Job) -> None:
    place = {"run": job.run, "shard": row["shard"], "clip": row["clip_id"], "chunk": chunk["first"]}
    log = get_logger(job.config.ray.log_level)
    if chunk["error"] is not None:
        log.warning("clip_failed", **place, **{name: chunk["error"].get(name) for name in ERROR_FIELDS})
    elif chunk["last"]:
        log.info("clip_decoded", **place)
    else:
        log.debug("decoded", **place)


def _to_flow(chunk: dict, row: Mapping, stored: Mapping[str, pa.Table]) -> pa.Table:
    table = chunks_to_table([chunk])
    given = {"fingerprint": row["fingerprint"], "slots": row["slots"], "ready": time.time()}
    extra = {**given, **dict.fromkeys(_RESULTS)}
    if stored:
        extra |= _stored_results(chunk["frames"], stored)
    for name, value in extra.items():
        field = schema.FLOW.field(name)
        table = table.append_column(field, pa.array([value], field.type))
    return table.select(schema.FLOW.names).cast(schema.FLOW)


def _read_stored(job: Job, row: Mapping) -> dict[str, pa.Table]:
    """Stored rows of the clip, slot by slot, sorted by frame and face."""
    output = job.open()
    tables = {}
    for item in row["stored"]:
        parts = [parquet.read_file(output, path) for path in item["paths"]]
        rows = pa.concat_tables([part.filter(pc.equal(part["clip_id"], row["clip_id"])) for part in parts])
        tables[item["slot"]] = rows.sort_by([("frame", "ascending"), ("face", "ascending")])
    return tables


def _stored_results(frames: list[int], stored: Mapping[str, pa.Table]) -> dict[str, np.ndarray]:
    """The stored results of a chunk's frames, in the form in which actors pass them on."""
    place = {frame: i for i, frame in enumerate(frames)}
    results = {}
    for slot, table in stored.items():
        rows = table.filter(pc.is_in(table["frame"], pa.array(frames, pa.int64())))
        names = [column.name for column in schema.SLOT_COLUMNS[slot] if column.name != "time"]
        results[slot] = columns_to_matrix(rows, names).ravel()
        results["face_index"] = np.array([place[frame] for frame in rows["frame"].to_pylist()], np.int32)
        results["face_number"] = rows["face"].to_numpy()
    return results
