"""Measurements for a forecast: some chunks decoded and annotated on this machine, and a trial of the whole flow."""

import io
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from actors.annotator import Annotator
from actors.weights.bundles import Bundle
from jobs.ray_cluster import annotator_settings, cpus_of_own
from jobs.trial import try_flow
from pipeline import schema
from pipeline.config.models import Config
from pipeline.decode.chunking import chunks_to_table
from pipeline.decode.decoder import decode_clip
from pipeline.errors import OutputError
from pipeline.isolation.subprocess import SubprocessDiedError, SubprocessRaisedError
from pipeline.planning.forecast import Cluster, Measured, after_trial
from pipeline.stages.write import slot_rows
from pipeline.tables.parquet import encode_parquet


def measure(clips: Sequence[Mapping[str, Any]], bundle: Bundle, config: Config, budget_s: float) -> Measured | None:
    """Measured rates of this machine; None without a frame.

    Half of the time measures the parts, decoder and models, one by one; half runs a trial of the whole flow, which
    measures its start and its overhead.

    Args:
        clips: rows of schema.CLIP, in random order.
        bundle: the models.
        config: of the run.
        budget_s: time budget in seconds; starting Ray and loading models are not counted.

    Raises:
        OutputError: the trial failed.
    """
    rates = _rates(clips, bundle, config, budget_s / 2)
    if rates is None:
        return None
    try:
        steps = try_flow(clips, bundle, config, budget_s / 2)
    except (SubprocessDiedError, SubprocessRaisedError) as error:
        raise OutputError(f"the trial of --measure failed: {error}") from error
    here = Cluster(cpus_of_own(config), 1 if rates.device == "cuda" else 0)
    return after_trial(rates, steps, here) if steps else rates


def _rates(clips: Sequence[Mapping[str, Any]], bundle: Bundle, config: Config, budget_s: float) -> Measured | None:
    """Decode and annotate the first chunk of clip after clip until the time is up; None without a frame.

    The first chunk warms up and is not counted. Clips are taken in the order given, which is random.
    """
    actor = make_actor(bundle, config)
    clocks = {slot: Clock(net, actor.device) for slot, net in actor.nets.items()}
    actor.nets.update(clocks)
    decode_s = wall_s = cpu_s = decoded = annotated = 0.0
    frames = faces = size = 0
    warm, ends = False, time.perf_counter() + budget_s
    for clip in clips:
        cpu = time.process_time()
        chunk = next(iter(decode_clip(clip, config.decode, config.storage.options)))
        spent = time.process_time() - cpu
        if not chunk["frames"]:
            continue
        table = _to_flow(chunk, bundle)
        if not warm:
            actor(table)
            warm = True
            for clock in clocks.values():
                clock.seconds = 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        answer = actor(table)
        wall_s += time.perf_counter() - wall
        cpu_s += time.process_time() - cpu
        decode_s += spent
        megapixel = chunk["width"] * chunk["height"] / 1e6
        decoded += megapixel * (chunk["frames"][-1] + 1)
        annotated += megapixel * len(chunk["frames"])
        frames += len(chunk["frames"])
        faces += count_faces([answer])
        size += sum(_stored_bytes(slot_rows(answer, slot, config.store.embedding_dtype)) for slot in bundle.versions)
        if time.perf_counter() > ends:
            break
    if not frames:
        return None
    per = {slot: clock.seconds / (annotated if slot == "face" else max(faces, 1)) for slot, clock in clocks.items()}
    return Measured(
        device=actor.device.type,
        frames=frames,
        decode_s=decode_s / decoded,
        model_s=per,
        other_s=max(wall_s - sum(clock.seconds for clock in clocks.values()), 0.0) / annotated,
        cpus=os.cpu_count() or 1,
        cpu_per_s=cpu_s / wall_s,
        faces=faces / frames,
        face_bytes=size / max(faces, 1),
    )


def _to_flow(chunk: Mapping[str, Any], bundle: Bundle) -> pa.Table:
    """A chunk as the actors get it, asking for all slots."""
    table = chunks_to_table([chunk])
    for field in list(schema.FLOW)[len(schema.CHUNK) :]:
        value = list(bundle.versions) if field.name == "slots" else None
        table = table.append_column(field, pa.array([value], field.type))
    return table


def _stored_bytes(table: pa.Table) -> int:
    """Bytes of a table's rows in Parquet, without the file's footer, which would dominate a few rows."""
    if not table.num_rows:
        return 0
    groups = pq.read_metadata(io.BytesIO(encode_parquet(table)))
    return sum(
        groups.row_group(g).column(c).total_compressed_size
        for g in range(groups.num_row_groups)
        for c in range(groups.num_columns)
    )


def make_actor(bundle: Bundle, config: Config, **others: Any) -> Annotator:
    """The actor as the pipeline would make it, alone on this machine; `others` replace single settings."""
    threads = config.actors.resolved_pools()[0].threads or os.cpu_count()
    return Annotator(bundle.models, annotator_settings(config, **{"threads": threads, **others}))


def count_faces(tables: Sequence[pa.Table]) -> int:
    """Faces in annotated chunks."""
    return sum(len(faces) for table in tables for faces in table["face_index"].to_pylist() if faces)


class Clock:
    """A model with a clock around it."""

    def __init__(self, net: Any, device: torch.device) -> None:
        self.net, self.device, self.seconds = net, device, 0.0
        self._lock = threading.Lock()

    def detect(self, frames_BCHW: torch.Tensor) -> Any:
        """As the network's, timed."""
        return self._timed(self.net.detect, frames_BCHW)

    def __call__(self, x: Any) -> Any:
        """As the network's, timed."""
        return self._timed(self.net, x)

    def _timed(self, call: Callable[[Any], Any], x: Any) -> Any:
        self._wait()
        started = time.perf_counter()
        result = call(x)
        self._wait()
        with self._lock:
            self.seconds += time.perf_counter() - started
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
