"""Clips in quarantine: listing them, and releasing them for another try."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import ConfigError
from pipeline.isolation import registry
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.shard_file import remove_rows


def select_rows(output: Output, where: Mapping[str, str]) -> pa.Table:
    """Rows of the current `quarantine` whose columns have the given values, written as text.

    Raises:
        ConfigError: no such column.
    """
    version = parquet.read_current(output).get("quarantine", "none")
    rows = parquet.read_version(output, "quarantine", version).sort_by(
        [("shard", "ascending"), ("clip_id", "ascending")]
    )
    for column, value in where.items():
        if column not in schema.QUARANTINE.names:
            raise ConfigError(f"quarantine has no column {column!r}; it has {', '.join(schema.QUARANTINE.names)}")
        rows = rows.filter(pc.equal(pc.cast(rows[column], pa.string()), value))
    return rows


def release(output: Output, where: Mapping[str, str]) -> int:
    """Let quarantined clips be tried again by the next run; returns how many. The caller holds the lease.

    A clip leaves `clips` first: between the two steps it is no longer up to date, which is all that a plan asks.
    """
    rows = select_rows(output, where)
    current = parquet.read_current(output)
    for shard in rows["shard"].unique().to_pylist():
        gone = rows.filter(pc.equal(rows["shard"], shard))["clip_id"].combine_chunks()
        for name in ("clips", "quarantine"):
            remove_rows(output, name, current[name], shard, gone)
    registry.remove_deaths(
        output, rows["clip_id"].to_pylist()
    )  # else a clip that killed three workers would not be tried
    return rows.num_rows
