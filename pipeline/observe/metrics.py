"""Metrics of a run: Ray records them, and its agents export them for Prometheus.

Names here are without the prefix `ray_` that Ray puts before them. Metrics are recorded where Ray runs, in tasks,
actors and the driver; elsewhere, as in a test without a cluster, recording does nothing.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class MetricSpec:
    """A metric: `kind` is counter, gauge or histogram; `bounds` are the upper ends of a histogram's buckets."""

    kind: str
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


METRICS = {
    "faceatlas_clips": MetricSpec("counter", "Clips that ended in this run, by outcome", ("outcome",)),
    "faceatlas_clips_left": MetricSpec("gauge", "Clips of the corpus that have not ended"),
    "faceatlas_frames": MetricSpec("counter", "Sampled frames committed to the table faces"),
    "faceatlas_faces": MetricSpec("counter", "Faces committed to the table faces"),
    "faceatlas_quarantined": MetricSpec("counter", "Clips that ended in quarantine, by class", ("error_class",)),
    "faceatlas_retries": MetricSpec("counter", "Clips and chunks retried after a worker's death", ("stage",)),
    "faceatlas_stage_seconds": MetricSpec("histogram", "Seconds per chunk or batch of a stage", ("stage",), _SECONDS),
    "faceatlas_queue_seconds": MetricSpec("histogram", "Seconds a chunk waited for a stage", ("stage",), _SECONDS),
    "faceatlas_model_seconds": MetricSpec("counter", "Seconds of each model, on its device", ("slot",)),
    "faceatlas_model_faces": MetricSpec("counter", "Faces that went through each face model", ("slot",)),
    "faceatlas_batch_fill": MetricSpec("histogram", "Faces of a batch, of those that fit in", (), _SHARES),
    "faceatlas_gpu_memory_bytes": MetricSpec("gauge", "Peak GPU memory of an actor; 0 on a CPU", ("pool",)),
}

_made: dict[str, Any] = {}
T = TypeVar("T")


def record(name: str, value: float = 1.0, **labels: str) -> None:
    """Add to a counter, set a gauge, or observe a value of a histogram; nothing happens where Ray does not run.

    Raises:
        KeyError: no such metric.
    """
    metric = METRICS[name]
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        return
    if name not in _made:
        _made[name] = _make(name, metric)
    if metric.kind == "counter":
        if value > 0:  # Ray refuses to add nothing
            _made[name].inc(value, tags=labels)
    elif metric.kind == "gauge":
        _made[name].set(value, tags=labels)
    elif value > 0:  # Ray refuses zero
        _made[name].observe(value, tags=labels)


def _make(name: str, metric: MetricSpec) -> Any:
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(name, metric.about, list(metric.bounds), metric.labels)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(name, metric.about, metric.labels)


# -- recorded by the parts of the flow ---------------------------------------------------------------------------------


def timed_items(items: Iterator[T], stage: str) -> Iterator[T]:
    """Pass on the items of an iterator; record the time to make each, without the time of the consumer."""
    while True:
        started = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        record("faceatlas_stage_seconds", time.monotonic() - started, stage=stage)
        yield item


def record_waits(rows: pa.Table, stage: str) -> None:
    """Record the time since rows of schema.FLOW left the previous stage, by the clocks of two nodes."""
    now = time.time()
    for ready in rows["ready"].to_pylist():
        if ready is not None:
            record("faceatlas_queue_seconds", max(now - ready, 1e-6), stage=stage)


def record_actor(report: Mapping[str, Any], pool: str) -> None:
    """Record the report of an actor's last call (actors.runtime.timing.Stopwatch.report)."""
    for slot, seconds in report["seconds"].items():
        record("faceatlas_model_seconds", seconds, slot=slot)
    for slot, faces in report["faces"].items():
        record("faceatlas_model_faces", faces, slot=slot)
    for share in report["batch_fill"]:
        record("faceatlas_batch_fill", share)
    record("faceatlas_gpu_memory_bytes", report["gpu_memory_bytes"], pool=pool)
