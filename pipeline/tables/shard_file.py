"""Tables with one file per shard, which is replaced: `clips`, `quarantine`, and those of a snapshot."""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import OutputError
from pipeline.storage.output import Output
from pipeline.tables.parquet import partition, read_file, write_parquet

VERSIONS_KEY = b"faceatlas.versions"


def write_shard(
    output: Output, table_name: str, version: str, shard: str, rows: pa.Table, versions: Mapping[str, str] | None = None
) -> None:
    """Replace the one file that a shard has in a table that does not grow by chunks.

    `versions` records what the rows depend on; of `clips`, slot -> version for which they are complete.

    Raises:
        OutputError: a row of `clips` states that a clip has ended, but not where.
    """
    if table_name == "clips" and (early := rows.filter(are_closed_early(rows)).slice(0, 1).to_pylist()):
        raise OutputError(
            f"clip {early[0]['clip_id']} is {early[0]['status']}, but the end of its video was never decoded: later "
            "runs would skip the rest of it; this is a bug in Faceatlas, please report it"
        )
    rewrite_shard(output, table_name, version, shard, rows, versions)


def rewrite_shard(
    output: Output, table_name: str, version: str, shard: str, rows: pa.Table, versions: Mapping[str, str] | None = None
) -> None:
    """`write_shard` of rows that were read from the table.

    Clips that an earlier build closed early stay as they are: they must stop no erasure, and `status` and plans find
    them.
    """
    metadata = {VERSIONS_KEY: json.dumps(dict(versions or {})).encode()}
    write_parquet(output, f"{partition(table_name, version, shard)}/{table_name}.parquet", rows, metadata)


def read_shard(output: Output, table_name: str, version: str, shard: str) -> tuple[pa.Table, dict[str, str]]:
    """Rows of a shard's one file (none if absent) and the `versions` that it was written with."""
    empty = schema.table_schema(table_name).empty_table()
    path = f"{partition(table_name, version, shard)}/{table_name}.parquet"
    try:
        table = read_file(output, path)
    except FileNotFoundError:
        return empty, {}
    versions = json.loads((table.schema.metadata or {}).get(VERSIONS_KEY, b"{}"))
    table = table.append_column("shard", pa.array([shard] * table.num_rows, pa.string()))
    for item in empty.schema:
        if item.name not in table.column_names:  # written by an earlier build
            table = table.append_column(item, pa.nulls(table.num_rows, item.type))
    return table.select(empty.column_names).cast(empty.schema), versions


def remove_rows(output: Output, name: str, version: str, shard: str, clip_ids: pa.Array) -> int:
    """Take clips out of a shard's one file in `clips` or `quarantine`; returns the rows that are gone."""
    rows, complete_for = read_shard(output, name, version, shard)
    kept = rows.filter(pc.invert(pc.is_in(rows["clip_id"], value_set=clip_ids)))
    if kept.num_rows < rows.num_rows:
        rewrite_shard(output, name, version, shard, kept, complete_for)
    return rows.num_rows - kept.num_rows


def are_closed_early(clips: pa.Table) -> pa.ChunkedArray:
    """Mask of rows of `clips` that are done or empty although the end of the video was never decoded.

    Builds before 0.2 wrote them after a loss in mid-write: they hold a part of the clip and no facts of its video.
    """
    finished = pc.is_in(clips["status"], value_set=pa.array(["done", "empty"]))
    return pc.and_(finished, pc.is_null(clips["frames"]))
