"""Totals of an output, read from its tables alone: works from any machine, during a run too."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import OutputError
from pipeline.tables.parquet import read_table
from pipeline.tables.shard_file import are_closed_early


def read_status(out: str, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Totals of the current tables.

    Returns:
        `clips`: outcome -> clips, among them `closed early`, which an earlier build marked done although the end of
        the video was never decoded (the next run takes them up again); `frames`: decoded frames; `sampled`: annotated
        frames; `faces`; `tracks`; `identities`. Clips of shards that are still being worked on do not count yet, but
        their faces do.

    Raises:
        OutputError: `out` is no output of Faceatlas.
    """
    clips = read_table(out, "clips", ["status", "frames", "sampled"], storage_options)
    return {
        **count_clips(clips),
        "faces": read_table(out, "faces", ["face"], storage_options).num_rows,
        "tracks": read_table(out, "tracks", ["track_id"], storage_options).num_rows,
        "identities": read_table(out, "identities", ["identity_id"], storage_options).num_rows,
    }


def count_clips(clips: pa.Table) -> dict[str, Any]:
    """Of rows of the table clips: `clips`, outcome -> clips; `frames`, decoded; `sampled`, annotated."""
    counts = dict.fromkeys(("done", "empty", "quarantined"), 0)
    outcomes = pc.if_else(are_closed_early(clips), "closed early", clips["status"])
    counts |= {item["values"]: item["counts"] for item in pc.value_counts(outcomes).to_pylist()}
    return {
        "clips": counts,
        "frames": pc.sum(clips["frames"]).as_py() or 0,
        "sampled": pc.sum(clips["sampled"]).as_py() or 0,
    }


def faces_per_frame(out: str, storage_options: Mapping[str, Any] | None = None) -> float | None:
    """Mean faces of an annotated frame of the done clips; None where there are none."""
    try:
        clips = read_table(out, "clips", ["faces", "sampled"], storage_options)
    except OutputError:
        return None
    sampled = pc.sum(clips["sampled"]).as_py()
    return (pc.sum(clips["faces"]).as_py() or 0) / sampled if sampled else None
