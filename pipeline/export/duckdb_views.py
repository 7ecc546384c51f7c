"""`views.sql`: the output as views of DuckDB, one per current table and a wide one with a row per face."""

from pathlib import Path

from pipeline import schema
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.clip_reader import ClipReader

_HEAD = """\
-- The tables of {root} in DuckDB: `duckdb -init views.sql`, or .read views.sql
-- Written by `faceatlas export --format views` for the versions that were current then; write it again after a run.
"""


def views_sql(output: Output) -> str:
    """SQL that makes a view of each current table, and `atlas`: a row per face with all its annotations.

    Raises:
        OutputError: there are no tables.
    """
    tables = ClipReader(output)
    there = {
        name: version
        for name, version in sorted(tables.current.items())
        if parquet.list_parquet(output, parquet.partition(name, version))
    }
    parts = [_HEAD.format(root=output.root)]
    for name, version in there.items():
        whole = name in schema.WHOLE_TABLES
        place = _quoted(f"{_root(output)}/{name}/version={version}/{'' if whole else '*/'}*.parquet")
        types = "{'version': VARCHAR}" if whole else "{'version': VARCHAR, 'shard': VARCHAR}"
        parts.append(
            f"CREATE OR REPLACE VIEW {name} AS\nSELECT * EXCLUDE (version)\n"
            f"FROM read_parquet({place}, hive_partitioning = true, hive_types = {types});\n"
        )
    slots = [slot for slot in tables.slots if schema.TABLE_OF_SLOT[slot] in there]
    return "\n".join([*parts, _atlas(slots, "tracks" in there and "identities" in there)])


def _atlas(slots: list[str], with_tracks: bool) -> str:
    """The wide view: faces, all other slots, the clip, the track and the person."""
    columns, joins = ["faces.*"], []
    for slot in slots:
        if slot != "face":
            columns.append(f"{slot}.* EXCLUDE (clip_id, frame, face, shard)")
            joins.append(f"LEFT JOIN {slot} ON ({_same(slot)})")
    columns += ["clips.key, clips.uri, clips.fps, clips.width, clips.height"]
    joins.append("LEFT JOIN clips ON (clips.clip_id = faces.clip_id)")
    if with_tracks:
        columns += ["members.track_id, members.identity_id, identities.name"]
        members = "SELECT track_id, identity_id, clip_id, unnest(frames) AS frame, unnest(members) AS face FROM tracks"
        joins.append(f"LEFT JOIN ({members}) AS members ON ({_same('members')})")
        joins.append("LEFT JOIN identities ON (identities.identity_id = members.identity_id)")
    wide = ",\n    ".join(columns)
    return f"CREATE OR REPLACE VIEW atlas AS\nSELECT\n    {wide}\nFROM faces\n" + "\n".join(joins) + ";\n"


def _same(table: str) -> str:
    return f"{table}.clip_id = faces.clip_id AND {table}.frame = faces.frame AND {table}.face = faces.face"


def _root(output: Output) -> str:
    protocol = output.fs.protocol if isinstance(output.fs.protocol, str) else output.fs.protocol[0]
    return str(Path(output.root).absolute()) if protocol in ("file", "local") else f"{protocol}://{output.root}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
