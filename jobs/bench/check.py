"""Correctness of what is timed: the actor as the pipeline makes it, compared with the plain computation."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from actors.annotator import Annotator
from actors.runtime.chunk_rows import FACE_WIDTH
from actors.weights.bundles import Bundle
from jobs import annotate as job
from jobs.measure import make_actor
from pipeline.config.models import Config
from pipeline.errors import FaceatlasError
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.planning.plan import Plan
from pipeline.runs.context import RunContext
from pipeline.stages.decode import decode_clips

#: largest deviation from the plain way: pixels, pixels, radians, probabilities, 1 - cosine (issue "every model")
LIMITS = {"face": 1.0, "landmarks": 1.0, "pose": 0.0087, "action_units": 0.02, "emotions": 0.02, "embeddings": 1e-3}
_CHECKED_FRAMES = 2
_MARGIN = 1e-3  # of float32 where no limit is named (gaze, radians)


class BenchError(FaceatlasError):
    """What was measured gave wrong numbers; its speed means nothing."""


def plan_of(video: str, bundle: Bundle, config: Config, out: str) -> Plan:
    """The plan of annotating a video from scratch."""
    from pipeline.converge import plan_run
    from pipeline.corpus.discover import read_corpus

    return plan_run(read_corpus(video, config), out, job.wanted_of(bundle), config)


def decoded(work: pa.Table, context: RunContext, frames: int | None = None) -> Iterator[pa.Table]:
    """Chunks of the work rows (schema.FLOW), those that hold frames; over again until `frames` have come."""
    seen = 0
    while True:
        before = seen
        for chunk in decode_clips(work, context, RegistryClient(AttemptRegistry(context.out, snapshot_s=0))):
            count = len(chunk["frames"][0])
            if count:
                seen += count
                yield chunk
            if frames is not None and seen >= frames:
                return
        if frames is None or seen == before:
            return


def check(actor: Annotator, bundle: Bundle, config: Config, chunk: pa.Table) -> dict[str, float]:
    """Hold the actor's answer on some frames against the plain way.

    Returns:
        slot -> largest deviation: pixels, radians, probabilities, or 1 - cosine for embeddings.

    Raises:
        BenchError: other faces, or a deviation above LIMITS.
    """
    chunk = _first_frames(chunk, _CHECKED_FRAMES)
    plain = make_actor(bundle, config, precision="float32", batch_frames=1, batch_faces=1, fold=False, winograd=False)
    ours, theirs = actor(chunk), plain(chunk)
    if ours["face_index"].to_pylist() != theirs["face_index"].to_pylist():
        raise BenchError("the measured configuration finds other faces than float32, one frame at a time")
    worst = {}
    for model in bundle.models:
        a, b = (_values(table, model.slot) for table in (ours, theirs))
        deviation = _deviation(model.slot, a, b)
        worst[model.slot] = round(deviation, 6)
        if not deviation <= LIMITS.get(model.slot, _MARGIN):
            raise BenchError(
                f"slot {model.slot}: deviates by {deviation:g} from float32, one frame and face at a time; "
                f"{LIMITS.get(model.slot, _MARGIN):g} is allowed. No speed is reported for wrong numbers."
            )
    return worst


def _deviation(slot: str, a: np.ndarray, b: np.ndarray) -> float:
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    if not a.size or np.isnan(a).all():
        return 0.0
    if slot == "face":
        a, b = a.reshape(-1, FACE_WIDTH)[:, :4], b.reshape(-1, FACE_WIDTH)[:, :4]
    if slot == "embeddings":
        a, b = a.reshape(-1, 512), b.reshape(-1, 512)
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        return float(1 - cosine.min())
    if slot == "pose":
        a, b = a.reshape(-1, 6)[:, :3], b.reshape(-1, 6)[:, :3]
    return float(np.nanmax(np.abs(a - b)))


def _values(table: pa.Table, slot: str) -> np.ndarray:
    return np.concatenate([np.asarray(v, np.float64) for v in table[slot].to_pylist()])


def _first_frames(chunk: pa.Table, count: int) -> pa.Table:
    frames = len(chunk["frames"][0])
    keep = min(count, frames)
    size = len(chunk["planes"][0].as_buffer()) // frames
    for name in ("frames", "times"):
        values = pa.array([chunk[name][0].as_py()[:keep]], chunk.schema.field(name).type)
        chunk = chunk.set_column(chunk.schema.get_field_index(name), chunk.schema.field(name), values)
    planes = pa.array([chunk["planes"][0].as_buffer().slice(0, keep * size).to_pybytes()], pa.large_binary())
    return chunk.set_column(chunk.schema.get_field_index("planes"), chunk.schema.field("planes"), planes)
