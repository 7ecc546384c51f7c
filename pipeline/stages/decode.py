"""Stage 2, decode: from work rows to chunks of the flow, with the results that are stored of them already.

The clips of one video are decoded together, a few of them open at a time; only these are registered. After a death the
whole video is decoded in a subprocess, which tells which clips are open. Should it die with several of them open, each
is decoded alone, so that none is to blame for another.
"""

import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.arrays import columns_to_matrix
from pipeline.config.models import Config
from pipeline.corpus import allowlist
from pipeline.decode.chunking import Request, Row, chunks_to_table, error_row
from pipeline.decode.clock import RAW_FPS
from pipeline.decode.decoder import Opened, Placed, decode_video
from pipeline.errors import UNEXPECTED
from pipeline.isolation import subprocess as isolation
from pipeline.isolation.registry import InFlightMark, RegistryClient
from pipeline.observe import metrics
from pipeline.observe.logging import ERROR_FIELDS, get_logger
from pipeline.runs.context import RunContext
from pipeline.tables import parquet

_RESULTS = ("face_index", "face_number", *schema.SLOTS)


def pack_work(work: pa.Table, blocks: int) -> list[dict[str, bytes]]:
    """Work rows (plan.WORK) in about so many blocks, each as an Arrow stream under `work`.

    The rows of one video lie together in one block, in order of time: they are decoded in one pass. Videos keep the
    order of their first rows.
    """
    size = -(-work.num_rows // blocks)
    video_W, work = _by_video(work)
    cuts, low = [0], 0
    for high in [*(np.flatnonzero(np.diff(video_W)) + 1).tolist(), work.num_rows]:
        if high - low >= size or high == work.num_rows:
            cuts.append(high)
            low = high
    packed = []
    for low, high in pairwise(cuts):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, work.schema) as stream:
            stream.write_table(work.slice(low, high - low))
        packed.append({"work": sink.getvalue().to_pybytes()})
    return packed


def _by_video(work: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Number of each row's video, from 0 in the order of their first rows; and the rows sorted by it and by time."""
    parts = [work["shard"], work["uri"], pc.fill_null(work["member"], ""), pc.fill_null(work["fingerprint"], "")]
    joined = pc.binary_join_element_wise(*parts, "\n").combine_chunks()
    video_W = joined.dictionary_encode().indices.to_numpy()
    by_frame = pc.divide(pc.cast(work["start_frame"], pa.float64()), RAW_FPS)  # for the order, any rate will do
    start_W = pc.fill_null(pc.coalesce(work["start_s"], by_frame), 0.0).to_numpy()
    order_W = np.lexsort((start_W, video_W))
    return video_W[order_W], work.take(pa.array(order_W))


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
    for _, same in groupby(work.to_pylist(), key=itemgetter("shard", "uri", "member", "offset", "fingerprint")):
        rows = list(same)
        stored = [_read_stored(context, row) if row["stored"] else {} for row in rows]
        # no other frame has a face
        only = [set(tables["face"]["frame"].to_pylist()) if "face" in tables else None for tables in stored]
        for position, chunk in metrics.timed_items(decode_isolated(rows, context.config, registry, only), "decode"):
            row = rows[position]
            _log_decoded(chunk, row, context)
            if row["end_known"] and not chunk["count"] and chunk["error"] is None:
                continue  # the end is recorded already; this row would only repeat it
            yield _to_flow(chunk, row, stored[position])


def decode_isolated(
    rows: Sequence[Mapping[str, Any]],
    config: Config,
    registry: RegistryClient,
    only: Sequence[Collection[int] | None] | None = None,
) -> Iterator[tuple[int, Row]]:
    """As decoder.decode_video, for rows of plan.WORK of one video, whatever they do to their process.

    Yields nothing more once the run is to stop; the open clips then have no last row, and the next run does the rest.

    Args:
        rows: of plan.WORK, of the same bytes.
        config: limits and sampling.
        registry: where attempts are counted.
        only: of each, the frames that are looked at; None: all.

    Yields:
        (position in `rows`, row of schema.CHUNK).
    """
    if registry.stopping():
        return
    uri = rows[0]["uri"]
    if not allowlist.is_allowed(uri, config.sources.allow):  # asked here too: a link may lead elsewhere by now
        details = {"stage": "open", "error_class": "forbidden", "message": allowlist.refusal(uri)}
        yield from ((position, error_row(row, 0, details)) for position, row in enumerate(rows))
        return
    video = _Video(rows, only or [None] * len(rows), config, registry)
    deaths = registry.hold(video.marks)
    if any(deaths):
        metrics.record("faceatlas_retries", sum(map(bool, deaths)), stage="decode")
    try:
        for position, row in video.in_subprocesses() if any(deaths) else video.here():
            yield position, row
            if registry.stopping():
                return
    finally:
        registry.release()


class _Video:
    """The wanted clips of one video."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        only: Sequence[Collection[int] | None],
        config: Config,
        registry: RegistryClient,
    ) -> None:
        self._rows, self._config, self._registry = rows, config, registry
        self.marks = [mark_of(row) for row in rows]
        self._requests = [
            Request(row, tuple((part["first"], part["count"]) for part in row["have"]), looked_at)
            for row, looked_at in zip(rows, only, strict=True)
        ]
        self._given: set[tuple[int, int, bool]] = set()  # rows that came out of an attempt: position, first, last
        self._next = [0] * len(rows)  # first frame that is still to come

    def here(self) -> Iterator[tuple[int, Row]]:
        """Decode in this process, within the time limit."""
        items = decode_video(self._requests, self._config.decode, self._config.storage.options)
        for item in isolation.limit_each(items, self._config.faults.decode_limit_s):
            if isinstance(item, Opened):
                self._registry.hold([self.marks[position] for position in item.positions])
            else:
                yield item

    def in_subprocesses(self) -> Iterator[tuple[int, Row]]:
        """Decode in processes of their own: all clips together as long as none of them kills it."""
        groups = [list(range(len(self._rows)))]
        while groups:
            group = groups.pop(0)
            open_now = group[:1]
            try:
                for item in self._in_a_subprocess(group):
                    if isinstance(item, Opened):
                        open_now = list(item.positions)
                        self._registry.hold([self.marks[position] for position in open_now])
                    elif (new := self._not_given(*item)) is not None:
                        yield new
            except (isolation.SubprocessDiedError, isolation.SubprocessRaisedError) as error:
                lost = [position for position in open_now if self._blame(position, error, alone=len(open_now) == 1)]
                for position in lost:
                    yield position, self._lost(position, error)
                left = [position for position in open_now if position not in lost and not self._has_ended(position)]
                rest = [position for position in group if position not in open_now and not self._has_ended(position)]
                groups = [*([position] for position in left), *([rest] if rest else []), *groups]

    def _in_a_subprocess(self, group: Sequence[int]) -> Iterator[Placed]:
        """Items of a group's clips; positions are those in all rows."""
        faults = self._config.faults
        limits = isolation.SubprocessLimits(faults.decode_limit_s, faults.decode_memory_mb)
        with isolation.WorkerSubprocess(partial(_serve_decoder, self._config), limits, "decoding") as worker:
            for item in worker.run([self._requests[position] for position in group]):
                if isinstance(item, Opened):
                    yield Opened(tuple(group[position] for position in item.positions))
                else:
                    yield group[item[0]], item[1]

    def _not_given(self, position: int, row: Row) -> tuple[int, Row] | None:
        """A clip's row, unless it came out of an attempt before."""
        key = position, row["first"], row["last"]
        if key in self._given:
            return None
        self._given.add(key)
        self._next[position] = row["first"] + row["count"]
        return position, row

    def _has_ended(self, position: int) -> bool:
        return any(where == position and last for where, _, last in self._given)

    def _blame(self, position: int, error: Exception, alone: bool) -> bool:
        """Count a death; returns whether it was one too many, of a clip that was decoded alone."""
        return self._registry.died(self.marks[position], str(error)) >= self._config.faults.attempts and alone

    def _lost(self, position: int, error: Exception) -> Row:
        deaths = self._registry.hold([self.marks[position]])[0]
        error_class = error.error_class if isinstance(error, isolation.SubprocessDiedError) else UNEXPECTED
        details = {"stage": "decode", "error_class": error_class, "message": str(error), "attempts": deaths}
        return error_row(self._rows[position], self._next[position], details)


def mark_of(row: Mapping[str, Any]) -> InFlightMark:
    """What a worker that decodes a row of plan.WORK is registered with."""
    return InFlightMark("decode", row["clip_id"], row["fingerprint"], zlib.crc32(",".join(row["slots"]).encode()))


def _serve_decoder(config: Config) -> Callable[[Any], Iterable[Any]]:
    return lambda requests: decode_video(requests, config.decode, config.storage.options)


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
