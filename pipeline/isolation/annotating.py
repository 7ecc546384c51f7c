"""Clips and chunks that may kill, hang or fail their worker: marked before, alone after a death, a row after the third.

    first attempt    in the worker, within a time limit; its death is noticed by the next attempt (registry.py)
    decoding         all others in a process of their own (subprocess.py), whose end is seen, with its signal
    annotating       the second alone in the actor: most deaths are a lost machine or a neighbour's fault;
                     others in a process of their own, which costs loading the models once more

So a clip comes into quarantine as `died`, `hung` or `out_of_memory` only by an end that was seen, and neither a lost
node nor a poisoned neighbour can bring it there.
"""

import os
import pkgutil
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.config.models import Config, FaultsConfig
from pipeline.corpus import allowlist
from pipeline.decode.decoder import decode_clip, error_row
from pipeline.errors import UNEXPECTED
from pipeline.isolation import subprocess as guard
from pipeline.isolation.registry import Mark, Marks
from pipeline.observe import metrics

# -- decoding ---------------------------------------------------------------------------------------------------------


def decode_carefully(
    row: Mapping[str, Any], config: Config, marks: Marks, only: Collection[int] | None = None
) -> Iterator[dict[str, Any]]:
    """As decoder.decode_clip, for a row of plan.WORK, whatever the clip does to its process.

    Yields nothing more once the run is to stop; the clip then has no last row, and the next run does the rest.
    """
    slots = ",".join(row["slots"])
    mark = Mark("decode", row["clip_id"], row["fingerprint"], zlib.crc32(slots.encode()))
    have = [(interval["first"], interval["count"]) for interval in row["have"]]
    if marks.stopping():
        return
    if not allowlist.is_allowed(row["uri"], config.sources.allow):  # asked here too: a link may lead elsewhere by now
        details = {"stage": "open", "error_class": "forbidden", "message": allowlist.refusal(row["uri"])}
        yield error_row(row, 0, details)
        return
    (deaths,) = marks.hold([mark])
    if deaths:
        metrics.record("faceatlas_retries", stage="decode")
    try:
        if deaths:
            chunks = _decode_alone(row, config, have, only, mark, marks)
        else:
            chunks = decode_clip(row, config.decode, config.storage.options, have=have, only=only)
            chunks = guard.timed(chunks, config.faults.decode_limit_s)
        for chunk in chunks:
            yield chunk
            if not chunk["last"] and marks.stopping():
                return
    finally:
        marks.release()


def _decode_alone(
    row: Mapping[str, Any],
    config: Config,
    have: Sequence[tuple[int, int]],
    only: Collection[int] | None,
    mark: Mark,
    marks: Marks,
) -> Iterator[dict[str, Any]]:
    limits = guard.Limits(config.faults.decode_limit_s, config.faults.decode_memory_mb)
    given, first = 0, 0
    while True:
        try:
            with guard.Child(partial(_decoder, config), limits, "decoding") as child:
                for number, chunk in enumerate(child.run((row, have, only))):
                    if number >= given:  # earlier ones came out of the attempt before
                        given, first = given + 1, chunk["first"] + chunk["count"]
                        yield chunk
            return
        except (guard.ChildDiedError, guard.ChildRaisedError) as error:
            deaths = marks.died(mark, str(error))
            if deaths >= config.faults.attempts:
                error_class = error.error_class if isinstance(error, guard.ChildDiedError) else UNEXPECTED
                details = {"stage": "decode", "error_class": error_class, "message": str(error), "attempts": deaths}
                yield error_row(row, first, details)
                return


def _decoder(config: Config) -> Callable[[Any], Iterable[Any]]:
    def decode(request: tuple) -> Iterator[dict[str, Any]]:
        row, have, only = request
        return decode_clip(row, config.decode, config.storage.options, have=have, only=only)

    return decode


# -- annotating -------------------------------------------------------------------------------------------------------


class Careful:
    """An actor around an actor: maps tables of schema.FLOW to the same, whatever a chunk does to the process."""

    def __init__(
        self, actor: str, arguments: Mapping[str, Any], slots: Sequence[str], marks: Marks, faults: FaultsConfig
    ) -> None:
        """Make the inner actor.

        Args:
            actor: its class, as "module:name"; called with a table of schema.FLOW, it returns its rows with results.
            arguments: keyword arguments of its constructor.
            slots: slots it fills, which tell one pool's attempts from those of another.
            marks: where attempts are counted.
            faults: limits.
        """
        make_actor = pkgutil.resolve_name(actor)
        self._make = partial(_annotator, make_actor, dict(arguments))
        self._stage = "annotate:" + ",".join(slots)
        self._marks, self._faults = marks, faults
        self._inner = make_actor(**arguments)

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """The chunks with their results, in the same order; `error` tells of those that could not be annotated."""
        marks = [self._mark(row) for row in chunks.select(["clip_id", "fingerprint", "first"]).to_pylist()]
        begun = time.monotonic()
        metrics.record_waits(chunks, self._stage)
        # a chunk without frames only says how its clip ended; one with an error failed in an earlier pool
        counts = chunks["frames"].combine_chunks().value_lengths().fill_null(0).to_pylist()
        failed = chunks["error"].is_valid().to_pylist()
        worth = [i for i in range(chunks.num_rows) if counts[i] and not failed[i]]
        deaths = dict(zip(worth, self._marks.hold([marks[i] for i in worth]), strict=True))
        metrics.record("faceatlas_retries", sum(map(bool, deaths.values())), stage=self._stage)
        try:
            return _ready(self._annotate(chunks, worth, marks, deaths, failed))
        finally:
            self._marks.release()
            metrics.record("faceatlas_stage_seconds", time.monotonic() - begun, stage=self._stage)
            if (stopwatch := getattr(self._inner, "stopwatch", None)) is not None:
                metrics.record_actor(stopwatch.report(), self._stage)

    def _annotate(
        self, chunks: pa.Table, worth: list[int], marks: list[Mark], deaths: dict[int, int], failed: list[bool]
    ) -> pa.Table:
        """The chunks with their results: `worth` are the rows with frames, `deaths` what each has done before."""
        if not any(deaths.values()) and not any(failed):
            return self._together(chunks)
        rows = {i: chunks.take([i]) for i in range(chunks.num_rows)}
        if calm := [i for i in worth if not deaths[i]]:
            done = self._together(chunks.take(calm))
            rows |= {i: done.slice(n, 1) for n, i in enumerate(calm)}
        for i in worth:
            if deaths[i]:
                self._marks.hold([marks[i]])  # should it kill this process too, the others are not to blame
                here = deaths[i] + 1 < self._faults.attempts
                rows[i] = self._together(rows[i]) if here else self._in_a_child(rows[i], marks[i], deaths[i])
        return pa.concat_tables([rows[i] for i in range(chunks.num_rows)])

    def _mark(self, row: Mapping[str, Any]) -> Mark:
        return Mark(self._stage, row["clip_id"], row["fingerprint"], row["first"])

    def _together(self, chunks: pa.Table) -> pa.Table:
        """Annotate in this process; if that fails, one by one, so that each chunk answers for itself."""
        try:
            with guard.time_limit(self._faults.annotate_limit_s):
                return self._inner(chunks)
        except Exception as error:
            if breaks_device(type(error).__name__, str(error)):
                # every later call of this process would fail, and blame chunks that are all right
                traceback.print_exc()
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            if chunks.num_rows == 1:
                return _failed(chunks, _raised(type(error).__name__, str(error)), None)
        return pa.concat_tables([self._together(chunks.take([i])) for i in range(chunks.num_rows)])

    def _in_a_child(self, chunk: pa.Table, mark: Mark, deaths: int) -> pa.Table:
        limits = guard.Limits(self._faults.annotate_limit_s, self._faults.annotate_memory_mb)
        while True:
            try:
                child = guard.Child(self._make, limits, "annotating")
            except (guard.ChildDiedError, guard.ChildRaisedError) as error:
                message = f"it killed its process {deaths} times, and a process of its own does not start: {error}"
                return _failed(chunk, {"error_class": UNEXPECTED, "message": message}, deaths)
            with child:
                try:
                    (result,) = child.run(chunk)
                    return result
                except guard.ChildRaisedError as error:
                    if not breaks_device(error.kind, str(error)):
                        return _failed(chunk, _raised(error.kind, str(error)), deaths)
                    problem = {"error_class": "died", "message": f"broke the device while annotating: {error}"}
                except guard.ChildDiedError as error:
                    problem = {"error_class": error.error_class, "message": str(error)}
            deaths = self._marks.died(mark, problem["message"])
            if deaths >= self._faults.attempts:
                return _failed(chunk, problem, deaths)


def _ready(chunks: pa.Table) -> pa.Table:
    """The chunks, which leave this stage now."""
    ready = pa.array([time.time()] * chunks.num_rows, pa.float64())
    return chunks.set_column(chunks.schema.get_field_index("ready"), chunks.schema.field("ready"), ready)


def _annotator(actor: type, arguments: Mapping[str, Any]) -> Callable[[Any], Iterable[Any]]:
    inner = actor(**arguments)
    return lambda chunk: [inner(chunk)]


def breaks_device(kind: str, message: str) -> bool:
    """Whether an exception, by its class name and message, says that CUDA is of no use any more to its process."""
    return kind == "AcceleratorError" or ("CUDA error" in message and kind != "OutOfMemoryError")


def _raised(kind: str, message: str) -> dict[str, Any]:
    """What to say of an exception that left the models. One in all of them is a mistake of ours, but for memory."""
    if kind == "OutOfMemoryError":
        return {"error_class": "out_of_memory", "message": f"one frame or face is too much for the device: {message}"}
    return {"error_class": UNEXPECTED, "message": f"unexpected {kind} while annotating: {message}"}


def _failed(chunk: pa.Table, problem: Mapping[str, Any], attempts: int | None) -> pa.Table:
    """A chunk (one row) with an error instead of results; its frames stay, so that they are accounted for."""
    error = {"stage": "annotate", "attempts": attempts, **problem}
    for name, value in {"planes": None, "face_index": None, **dict.fromkeys(schema.SLOTS), "error": error}.items():
        chunk = chunk.set_column(*_column(chunk, name, value))
    return chunk


def _column(chunk: pa.Table, name: str, value: Any) -> tuple[int, pa.Field, pa.Array]:
    place = chunk.schema.get_field_index(name)
    return place, chunk.schema.field(place), pa.array([value], chunk.schema.field(place).type)
