"""A trial run for forecasts: the time to the first chunk of the real flow on this machine, and the rate after it.

It starts its own Ray in its own process, so that a running Ray has no effect on it, and leaves nothing behind.
"""

import itertools
import operator
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from actors.weights.bundles import Bundle
from jobs import ray_cluster
from jobs.annotate import wanted_of
from pipeline import schema
from pipeline.config.models import Config
from pipeline.converge import plan_run
from pipeline.corpus.discover import Corpus
from pipeline.flow import build_flow
from pipeline.isolation.registry import start_registry
from pipeline.isolation.subprocess import SubprocessLimits, WorkerSubprocess
from pipeline.planning.forecast import Amount, Step
from pipeline.runs.context import RunContext

_COLUMNS = ["frames", "width", "height", "ready", "face_index"]
_LIMITS = SubprocessLimits(item_s=600.0, memory_mb=1 << 40)


def try_flow(clips: Sequence[Mapping[str, Any]], bundle: Bundle, config: Config, budget_s: float) -> list[Step]:
    """Decode and annotate clips by the flow as a run does; what comes out is not written.

    Args:
        clips: rows of schema.CLIP whose headers can be read, in random order.
        bundle: the models.
        config: of the run; its cluster's address is not used.
        budget_s: the flow is cut off so many seconds after its first chunk.

    Returns:
        For each chunk, in the order of their ends: seconds since the begin, and what was done until then.

    Raises:
        SubprocessDiedError: the process came to an end of its own.
        SubprocessRaisedError: the flow failed.
    """
    here = config.model_copy(update={"ray": config.ray.model_copy(update={"address": None})})
    with tempfile.TemporaryDirectory() as folder, WorkerSubprocess(_flow, _LIMITS, "trying the flow") as child:
        chunks = sorted(child.run((list(clips), bundle, here, str(Path(folder) / "out"), budget_s)))
    done = list(itertools.accumulate((Amount(*amounts) for _, *amounts in chunks), operator.add))
    return [Step(seconds, amount) for (seconds, *_), amount in zip(chunks, done, strict=True)]


def _flow() -> Callable[[Any], Iterator[tuple[float, ...]]]:
    """In the child: what carries out a request."""
    os.environ.pop("RAY_ADDRESS", None)
    return _run


def _run(request: tuple[list[dict[str, Any]], Bundle, Config, str, float]) -> Iterator[tuple[float, ...]]:
    """For each chunk, as they come: seconds, megapixels decoded and annotated, and faces."""
    clips, bundle, config, out, budget_s = request
    wanted = wanted_of(bundle)
    plan = plan_run(Corpus(pa.Table.from_pylist(clips, schema=schema.CLIP), []), out, wanted, config)
    started, ends = time.time(), float("inf")  # the clock of the column `ready`
    ray_cluster.start_ray(config)
    import ray

    try:
        context, registry = RunContext.of(out, config, wanted.versions), start_registry(out, config.storage.options)
        flow = build_flow(plan.work, context, registry, ray_cluster.make_stages(bundle, config), write=False)
        for table in cast("Iterable[pa.Table]", flow.iter_batches(batch_size=None, batch_format="pyarrow")):
            for chunk in table.select(_COLUMNS).to_pylist():
                if not (frames := chunk["frames"]):
                    continue
                megapixel = chunk["width"] * chunk["height"] / 1e6
                apart = (frames[-1] - frames[0]) / (len(frames) - 1) if len(frames) > 1 else config.decode.every
                annotated = megapixel * len(frames)
                yield chunk["ready"] - started, annotated * apart, annotated, len(chunk["face_index"] or ())
                ends = min(ends, chunk["ready"] + budget_s)
            if time.time() > ends:
                return
    finally:
        ray.shutdown()
