"""Stage 3, annotate: an actor around the models' actor, which survives chunks that kill, hang or fail it.

    first attempt    in the worker, within a time limit; the next attempt notices its death (isolation/registry.py)
    second attempt   alone in the worker: most deaths are a lost machine or a neighbor's fault
    further ones     in a subprocess (isolation/subprocess.py), whose end is seen, with its signal; that costs loading
                     the models once more

So a clip is quarantined as `died`, `hung` or `out_of_memory` only by an end that was seen; neither a lost node nor a
neighboring chunk can bring it there. stages/decode.py does the same for clips, but isolates from the second attempt on.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.config.models import FaultsConfig
from pipeline.errors import UNEXPECTED
from pipeline.isolation import subprocess as isolation
from pipeline.isolation.registry import InFlightMark, RegistryClient
from pipeline.observe import metrics
from pipeline.runs.model import Stage


class IsolatedAnnotator:
    """Maps tables of schema.FLOW to the same, with results, whatever a chunk does to the process."""

    def __init__(self, stage: Stage, registry: RegistryClient, faults: FaultsConfig) -> None:
        """Make the inner actor.

        Args:
            stage: the pool that this actor is one of.
            registry: where attempts are counted.
            faults: limits.
        """
        self._make = partial(_serve_actor, stage.make_actor, dict(stage.arguments))
        self._stage = "annotate:" + ",".join(stage.slots)
        self._registry, self._faults = registry, faults
        self._inner = stage.make_actor(**stage.arguments)

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """The chunks with their results, in the same order; `error` tells of those that could not be annotated."""
        marks = [self._mark(row) for row in chunks.select(["clip_id", "fingerprint", "first"]).to_pylist()]
        started = time.monotonic()
        metrics.record_waits(chunks, self._stage)
        # a chunk without frames only says how its clip ended; one with an error failed in an earlier pool
        counts = chunks["frames"].combine_chunks().value_lengths().fill_null(0).to_pylist()
        failed = chunks["error"].is_valid().to_pylist()
        with_frames = [i for i in range(chunks.num_rows) if counts[i] and not failed[i]]
        deaths = dict(zip(with_frames, self._registry.hold([marks[i] for i in with_frames]), strict=True))
        metrics.record("faceatlas_retries", sum(map(bool, deaths.values())), stage=self._stage)
        try:
            return _ready(self._annotate(chunks, with_frames, marks, deaths, failed))
        finally:
            self._registry.release()
            metrics.record("faceatlas_stage_seconds", time.monotonic() - started, stage=self._stage)
            if (stopwatch := getattr(self._inner, "stopwatch", None)) is not None:
                metrics.record_actor(stopwatch.report(), self._stage)

    def _annotate(
        self,
        chunks: pa.Table,
        with_frames: list[int],
        marks: list[InFlightMark],
        deaths: dict[int, int],
        failed: list[bool],
    ) -> pa.Table:
        """The chunks with their results: `with_frames` are rows, `deaths` their earlier attempts."""
        if not any(deaths.values()) and not any(failed):
            return self._together(chunks)
        rows = {i: chunks.take([i]) for i in range(chunks.num_rows)}
        if healthy := [i for i in with_frames if not deaths[i]]:
            done = self._together(chunks.take(healthy))
            rows |= {i: done.slice(n, 1) for n, i in enumerate(healthy)}
        for i in with_frames:
            if deaths[i]:
                self._registry.hold([marks[i]])  # should it kill this process too, the others are not to blame
                here = deaths[i] + 1 < self._faults.attempts
                rows[i] = self._together(rows[i]) if here else self._in_subprocess(rows[i], marks[i], deaths[i])
        return pa.concat_tables([rows[i] for i in range(chunks.num_rows)])

    def _mark(self, row: Mapping[str, Any]) -> InFlightMark:
        return InFlightMark(self._stage, row["clip_id"], row["fingerprint"], row["first"])

    def _together(self, chunks: pa.Table) -> pa.Table:
        """Annotate in this process; if that fails, one by one, so that each chunk answers for itself."""
        try:
            with isolation.time_limit(self._faults.annotate_limit_s):
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

    def _in_subprocess(self, chunk: pa.Table, mark: InFlightMark, deaths: int) -> pa.Table:
        limits = isolation.SubprocessLimits(self._faults.annotate_limit_s, self._faults.annotate_memory_mb)
        while True:
            try:
                worker = isolation.WorkerSubprocess(self._make, limits, "annotating")
            except (isolation.SubprocessDiedError, isolation.SubprocessRaisedError) as error:
                message = f"it killed its process {deaths} times, and a process of its own does not start: {error}"
                return _failed(chunk, {"error_class": UNEXPECTED, "message": message}, deaths)
            with worker:
                try:
                    (result,) = worker.run(chunk)
                    return result
                except isolation.SubprocessRaisedError as error:
                    if not breaks_device(error.kind, str(error)):
                        return _failed(chunk, _raised(error.kind, str(error)), deaths)
                    problem = {"error_class": "died", "message": f"broke the device while annotating: {error}"}
                except isolation.SubprocessDiedError as error:
                    problem = {"error_class": error.error_class, "message": str(error)}
            deaths = self._registry.died(mark, problem["message"])
            if deaths >= self._faults.attempts:
                return _failed(chunk, problem, deaths)


def _ready(chunks: pa.Table) -> pa.Table:
    """The chunks, which leave this stage now."""
    ready = pa.array([time.time()] * chunks.num_rows, pa.float64())
    return chunks.set_column(chunks.schema.get_field_index("ready"), chunks.schema.field("ready"), ready)


def _serve_actor(make_actor: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[[Any], Iterable[Any]]:
    """In the subprocess: the function that annotates one chunk."""
    inner = make_actor(**arguments)
    return lambda chunk: [inner(chunk)]


def breaks_device(kind: str, message: str) -> bool:
    """Whether an exception, by its class name and message, says that CUDA no longer works in its process."""
    return kind == "AcceleratorError" or ("CUDA error" in message and kind != "OutOfMemoryError")


def _raised(kind: str, message: str) -> dict[str, Any]:
    """What to say of an exception that left the models. Any of them is a bug of ours, except for memory."""
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
