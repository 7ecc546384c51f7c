"""Stage 2, decode: from work rows to chunks of the flow, with the results that are stored of them already.

A clip whose worker died is decoded in a subprocess from the second attempt on: see stages/annotate.py.
"""

import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.arrays import columns_to_matrix
from pipeline.config.models import Config
from pipeline.corpus import allowlist
from pipeline.decode.chunking import chunks_to_table, error_row
from pipeline.decode.decoder import decode_clip
from pipeline.errors import UNEXPECTED
from pipeline.isolation import subprocess as isolation
from pipeline.isolation.registry import InFlightMark, RegistryClient
from pipeline.observe import metrics
from pipeline.observe.logging import ERROR_FIELDS, get_logger
from pipeline.runs.context import RunContext
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


def decode_packed(packed: pa.Table, context: RunContext, registry: RegistryClient) -> Iterator[pa.Table]:
    """`decode_clips` of blocks out of `pack_work`."""
    for block in packed["work"]:
        yield from decode_clips(pa.ipc.open_stream(block.as_buffer()).read_all(), context, registry)


def decode_clips(work: pa.Table, context: RunContext, registry: RegistryClient) -> Iterator[pa.Table]:
    """Decode the clips of some work rows (plan.WORK); yields one table of one row (schema.FLOW) per chunk.

    Args:
        work: the rows.
        context: the run.
        registry: where attempts are counted.
    """
    for row in work.to_pylist():
        stored = _read_stored(context, row) if row["stored"] else {}
        only = set(stored["face"]["frame"].to_pylist()) if "face" in stored else None  # no other frame has a face
        for chunk in metrics.timed_items(decode_isolated(row, context.config, registry, only), "decode"):
            _log_decoded(chunk, row, context)
            if row["end_known"] and not chunk["count"] and chunk["error"] is None:
                continue  # the end is recorded already; this row would only repeat it
            yield _to_flow(chunk, row, stored)


def decode_isolated(
    row: Mapping[str, Any], config: Config, registry: RegistryClient, only: Collection[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Chunks of a row of plan.WORK as of decoder.decode_clip, whatever the clip does to its process.

    Yields nothing more once the run is to stop; the clip then has no last row, and the next run continues it.
    """
    slots = ",".join(row["slots"])
    mark = InFlightMark("decode", row["clip_id"], row["fingerprint"], zlib.crc32(slots.encode()))
    have = [(interval["first"], interval["count"]) for interval in row["have"]]
    if registry.stopping():
        return
    if not allowlist.is_allowed(row["uri"], config.sources.allow):  # checked again: a link may lead elsewhere by now
        details = {"stage": "open", "error_class": "forbidden", "message": allowlist.refusal(row["uri"])}
        yield error_row(row, 0, details)
        return
    (deaths,) = registry.hold([mark])
    if deaths:
        metrics.record("faceatlas_retries", stage="decode")
    try:
        if deaths:
            chunks = _decode_in_subprocess(row, config, have, only, mark, registry)
        else:
            chunks = decode_clip(row, config.decode, config.storage.options, have=have, only=only)
            chunks = isolation.limit_each(chunks, config.faults.decode_limit_s)
        for chunk in chunks:
            yield chunk
            if not chunk["last"] and registry.stopping():
                return
    finally:
        registry.release()


def _decode_in_subprocess(
    row: Mapping[str, Any],
    config: Config,
    have: Sequence[tuple[int, int]],
    only: Collection[int] | None,
    mark: InFlightMark,
    registry: RegistryClient,
) -> Iterator[dict[str, Any]]:
    limits = isolation.SubprocessLimits(config.faults.decode_limit_s, config.faults.decode_memory_mb)
    given, first = 0, 0
    while True:
        try:
            with isolation.WorkerSubprocess(partial(_serve_decoder, config), limits, "decoding") as worker:
                for number, chunk in enumerate(worker.run((row, have, only))):
                    if number >= given:  # earlier ones came out of the previous attempt
                        given, first = given + 1, chunk["first"] + chunk["count"]
                        yield chunk
            return
        except (isolation.SubprocessDiedError, isolation.SubprocessRaisedError) as error:
            deaths = registry.died(mark, str(error))
            if deaths >= config.faults.attempts:
                error_class = error.error_class if isinstance(error, isolation.SubprocessDiedError) else UNEXPECTED
                details = {"stage": "decode", "error_class": error_class, "message": str(error), "attempts": deaths}
                yield error_row(row, first, details)
                return


def _serve_decoder(config: Config) -> Callable[[Any], Iterable[Any]]:
    def decode(request: tuple) -> Iterator[dict[str, Any]]:
        row, have, only = request
        return decode_clip(row, config.decode, config.storage.options, have=have, only=only)

    return decode


def _log_decoded(chunk: Mapping, row: Mapping, context: RunContext) -> None:
    place = {"run": context.run, "shard": row["shard"], "clip": row["clip_id"], "chunk": chunk["first"]}
    log = get_logger(context.config.ray.log_level)
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


def _read_stored(context: RunContext, row: Mapping) -> dict[str, pa.Table]:
    """Stored rows of the clip, slot by slot, sorted by frame and face."""
    output = context.open()
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
