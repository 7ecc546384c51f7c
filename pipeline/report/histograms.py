"""Histograms that show a broken corpus at a glance, gathered shard by shard: memory does not grow with the corpus."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import parquet
from pipeline.tables.clip_reader import ClipReader

_DEGREES = np.linspace(-90, 90, 37)
_EDGES: dict[str, np.ndarray] = {
    "face size": np.array([0, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 4096], np.float64),
    "score": np.linspace(0, 1, 21),
    "pose yaw": _DEGREES,
    "pose pitch": _DEGREES,
    "pose roll": _DEGREES,
    "gaze yaw": _DEGREES,
    "gaze pitch": _DEGREES,
    "faces per frame": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 1024], np.float64),
    "sharpness": np.array([0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e5], np.float64),
}
_ABOUT = {
    "face size": ("px", "square root of the box area in pixels of the frame"),
    "score": ("", "the detector's confidence"),
    "pose yaw": ("°", "turn of the head, + to the subject's right"),
    "pose pitch": ("°", "nod of the head, + up"),
    "pose roll": ("°", "tilt of the head, + to the subject's right"),
    "gaze yaw": ("°", "line of sight, + to the subject's left"),
    "gaze pitch": ("°", "line of sight, + up"),
    "faces per frame": ("", "faces in each annotated frame of the done clips"),
    "sharpness": ("", "variance of the Laplacian of the face's crop of 112 px; low is blurred"),
}


def describe_distributions(tables: ClipReader) -> list[dict[str, Any]]:
    """Histograms of the current faces.

    Returns:
        Per quantity `name`, `unit`, `about`, `edges` (n + 1), `counts` (n, values outside go to the outermost),
        `missing` (null values), `mean`; quantities whose table is not there are left out.
    """
    counts: dict[str, np.ndarray] = {}
    totals: dict[str, list[float]] = {}
    clips = tables.clips(["shard", "status", "sampled"])
    done = clips.filter(pc.equal(clips["status"], "done"))
    sampled = dict.fromkeys(clips["shard"].unique().to_pylist(), 0)
    for row in done.group_by("shard").aggregate([("sampled", "sum")]).to_pylist():
        sampled[row["shard"]] = row["sampled_sum"] or 0
    for shard, frames in sampled.items():
        for name, values in _of_shard(tables, shard, frames):
            edges = _EDGES[name]
            valid = values[np.isfinite(values)]
            found, _ = np.histogram(np.clip(valid, edges[0], edges[-1]), edges)
            counts[name] = counts.get(name, np.zeros(len(edges) - 1, np.int64)) + found
            sums = totals.setdefault(name, [0.0, 0.0, 0.0])
            sums[0] += float(valid.sum())
            sums[1] += len(valid)
            sums[2] += len(values) - len(valid)
    return [histogram_row(name, _EDGES[name], counts[name], *totals[name]) for name in _EDGES if name in counts]


def histogram_row(
    name: str, edges: np.ndarray, counts: np.ndarray, total: float, valid: float, missing: float
) -> dict[str, Any]:
    """One histogram as plain values."""
    unit, about = _ABOUT[name]
    return {
        "name": name,
        "unit": unit,
        "about": about,
        "edges": [round(float(edge), 3) for edge in edges],
        "counts": counts.tolist(),
        "missing": int(missing),
        "mean": round(total / valid, 3) if valid else None,
    }


def _of_shard(tables: ClipReader, shard: str, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """(quantity, one value per face or frame) of a shard."""
    columns = ["clip_id", "frame", "box_x1", "box_y1", "box_x2", "box_y2", "score", "sharpness"]
    faces = parquet.read_version(tables.output, "faces", tables.current["faces"], columns, shard=shard)
    width = _values(faces, "box_x2") - _values(faces, "box_x1")
    height = _values(faces, "box_y2") - _values(faces, "box_y1")
    yield "face size", np.sqrt(np.maximum(width, 0) * np.maximum(height, 0))
    yield "score", _values(faces, "score")
    yield "sharpness", _values(faces, "sharpness")
    per_frame = faces.group_by(["clip_id", "frame"]).aggregate([([], "count_all")])["count_all"].to_numpy()
    without = max(frames - len(per_frame), 0)  # frames of clips that broke off are in `faces` and not in the sum
    yield "faces per frame", np.concatenate([per_frame, np.zeros(without)])
    for table, names in (("pose", ("yaw", "pitch", "roll")), ("gaze", ("yaw", "pitch"))):
        if table in tables.current:
            columns = [f"{table}_{name}" for name in names]
            rows = parquet.read_version(tables.output, table, tables.current[table], columns, shard=shard)
            for name in names:
                yield f"{table} {name}", _values(rows, f"{table}_{name}") * (180 / math.pi)


def _values(table: pa.Table, column: str) -> np.ndarray:
    """A numeric column as float64, null as NaN."""
    return table[column].cast(pa.float64()).to_numpy()
