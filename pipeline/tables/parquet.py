"""The output: partitioned Parquet that is its own ledger.

    OUT/<table>/version=<v>/shard=<s>/<name>.parquet

The tables of the slots (`faces`, `landmarks`, ...) grow by files whose name is the hash of the chunks in them and whose
footer lists these chunks, so a retried write meets its own name and a rerun can read what is there. A file appears
whole or not at all: on a file system it is written aside and renamed, on an object store it is one upload.
`clips` and `quarantine` hold one file per shard, which is replaced; each snapshot of `tracks` and `identities` is a
version of its own. `current.json` names the current version of each table.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline import schema
from pipeline.errors import OutputError
from pipeline.storage.output import Output, open_output, write_bytes

CHUNKS_KEY = b"faceatlas.chunks"
CURRENT_FORMAT = 2  # of current.json: {"format": 2, "tables": {table: version}}; 1, of 0.1, was the inner dict
_READERS = 16  # reading is waiting more than work

#: one row per chunk that a file holds; `video` is given with the clip's last chunk
LEDGER = pa.schema(
    [
        ("clip_id", pa.string()),
        ("fingerprint", pa.string()),
        ("first", pa.int64()),
        ("count", pa.int64()),
        ("faces", pa.int64()),
        ("last", pa.bool_()),
        ("video", schema.VIDEO),
    ]
)
_PATH = pa.field("path", pa.dictionary(pa.int32(), pa.string()))


def write_parquet(output: Output, path: str, table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Write a Parquet file atomically; the `shard` column is left to the partition's folder name."""
    if "shard" in table.column_names:
        table = table.drop_columns(["shard"])
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    write_bytes(output, path, encode_parquet(table))


def encode_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file; the same rows give the same bytes.

    Only strings repeat enough for a dictionary: of floats it holds nearly every value, and the indices come on top
    (embeddings and landmarks took 1.5 and 1.4 times the space).
    """
    sink = io.BytesIO()
    strings = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(table, sink, compression="zstd", use_dictionary=strings)
    return sink.getvalue()


def partition(table: str, version: str, shard: str | None = None) -> str:
    """Folder of a table's version, or of one shard of it, relative to the output."""
    return f"{table}/version={version}" + (f"/shard={shard}" if shard is not None else "")


# -- the ledger -------------------------------------------------------------------------------------------------------


def chunks_name(ledger: pa.Table) -> str:
    """File name that follows from the chunks in the file, in any order: 16 hex digits of BLAKE2b."""
    keys = sorted(zip(*(ledger[name].to_pylist() for name in ("clip_id", "first", "count")), strict=True))
    return hashlib.blake2b(json.dumps(keys).encode(), digest_size=8).hexdigest() + ".parquet"


def write_chunk_file(
    output: Output, table_name: str, version: str, shard: str, rows: pa.Table, ledger: pa.Table
) -> str:
    """Commit the rows of some chunks to a slot's table; returns the file's path relative to the output.

    Args:
        output: where.
        table_name: for example `faces`.
        version: the table's version.
        shard: partition.
        rows: the faces of all these chunks (may be none), in the table's schema.
        ledger: the chunks, in schema LEDGER; written into the footer.
    """
    path = f"{partition(table_name, version, shard)}/{chunks_name(ledger)}"
    write_parquet(output, path, rows, {CHUNKS_KEY: _encode_ledger(ledger)})
    return path


def _encode_ledger(ledger: pa.Table) -> bytes:
    """A ledger as a footer holds it: an Arrow stream, in base64 since readers expect text there.

    LZ4 and not zstd: a plan of a million clips reads 28 million chunks, four times as fast.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, LEDGER, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
        stream.write_table(ledger.select(LEDGER.names).cast(LEDGER).combine_chunks())
    return base64.b64encode(sink.getvalue())


def list_parquet(output: Output, folder: str) -> list[str]:
    """Parquet files below a folder of the output, sorted, relative to the output; none if the folder is absent."""
    try:
        found = output.fs.find(output.path(folder))
    except FileNotFoundError:
        return []
    names = (str(path)[len(output.root) + 1 :] for path in found)
    return sorted(name for name in names if name.endswith(".parquet") and not name.rsplit("/", 1)[-1].startswith("."))


@contextmanager
def _open_parquet(output: Output, path: str, block_size: int | None = None) -> Iterator[pq.ParquetFile]:
    """A Parquet file of the output, read by the calling thread alone.

    Arrow's own threads must never hold what a Python file gave: they may release it while the interpreter shuts
    down, and then the process aborts (exit code 134) after its work was done. So: no `pre_buffer`, no `use_threads`, no
    dataset over an fsspec handler.
    """
    if isinstance(output.fs, LocalFileSystem):  # several times faster than through a Python file
        with pq.ParquetFile(output.path(path), pre_buffer=False) as file:
            yield file
        return
    with output.fs.open(output.path(path), "rb", block_size=block_size) as stream:
        yield pq.ParquetFile(stream, pre_buffer=False)


def _footer(output: Output, path: str) -> dict[bytes, bytes]:
    with _open_parquet(output, path, block_size=1 << 17) as file:
        return dict(file.metadata.metadata or {})


def read_ledger(output: Output, table_name: str, version: str, shard: str) -> pa.Table:
    """The chunks that a slot's table holds for a shard, off the footers: schema LEDGER and `path`."""
    files = list_parquet(output, partition(table_name, version, shard))
    if len(files) < _READERS:
        tables = [read_footer(output, path) for path in files]
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            tables = list(pool.map(lambda path: read_footer(output, path), files))
    ledger = pa.concat_tables([LEDGER.append(_PATH).empty_table(), *tables])
    return ledger.unify_dictionaries() if len(tables) > 1 else ledger


def read_footer(output: Output, path: str) -> pa.Table:
    """The chunks that one file of a slot's table holds: schema LEDGER and `path`.

    Raises:
        OutputError: the file was not written by Faceatlas.
    """
    footer = _footer(output, path)
    if CHUNKS_KEY not in footer:
        raise OutputError(f"{output.path(path)} was not written by Faceatlas: its footer lists no chunks; move it away")
    table = _of_this_build(pa.ipc.open_stream(base64.b64decode(footer[CHUNKS_KEY])).read_all())
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int32)), pa.array([path]))
    return table.append_column(_PATH, names)


def _of_this_build(ledger: pa.Table) -> pa.Table:
    """A ledger whose `video` has all fields: those that the build which wrote it did not know are null."""
    if ledger.schema == LEDGER:
        return ledger
    video = ledger["video"].combine_chunks()
    known = {field.name: field for field in video.type}
    parts = [
        pc.struct_field(video, item.name) if item.name in known else pa.nulls(len(video), item.type)
        for item in schema.VIDEO
    ]
    whole = pa.StructArray.from_arrays(parts, fields=list(schema.VIDEO), mask=video.is_null())
    return ledger.set_column(ledger.schema.get_field_index("video"), LEDGER.field("video"), whole).cast(LEDGER)


def drop_clips(output: Output, table_name: str, version: str, shard: str, clip_ids: Iterable[str]) -> int:
    """Take clips out of a slot's table, because their bytes changed or because they are erased.

    A file that holds other clips too is replaced, under its name, by what remains of it: in one step, so that no
    reader and no crash ever sees those chunks missing or twice.

    Returns:
        Rows that are gone.
    """
    gone = pa.array(sorted(set(clip_ids)), pa.string())
    ledger = read_ledger(output, table_name, version, shard)
    lost = 0
    for path in ledger.filter(pc.is_in(ledger["clip_id"], gone))["path"].unique().to_pylist():
        lost += keep_rows(output, path, lambda table: pc.invert(pc.is_in(table["clip_id"], gone)))
    return lost


def keep_rows(output: Output, path: str, wanted: Callable[[pa.Table], pa.Array]) -> int:
    """Replace a file of a slot's table by the rows and the chunks that are wanted; without chunks, remove it.

    Args:
        output: where.
        path: of the file, relative to the output.
        wanted: gives the mask, for the rows of the table and for those of its ledger.

    Returns:
        Rows that are gone.
    """
    rows = read_file(output, path)
    ledger = read_footer(output, path).select(LEDGER.names)
    kept = rows.filter(wanted(rows))
    replace_chunks(output, path, kept, ledger.filter(wanted(ledger)))
    return rows.num_rows - kept.num_rows


def replace_chunks(output: Output, path: str, rows: pa.Table, ledger: pa.Table) -> None:
    """Replace a file of a slot's table under its name, in one step; one without chunks is removed."""
    if ledger.num_rows:
        write_parquet(output, path, rows, {CHUNKS_KEY: _encode_ledger(ledger)})
    else:
        output.fs.rm_file(output.path(path))


def read_file(output: Output, path: str) -> pa.Table:
    """One Parquet file of the output, without the columns of its folder names."""
    with _open_parquet(output, path) as file:
        return file.read(use_threads=False)


def read_columns(output: Output, path: str, columns: pa.Schema) -> pa.Table:
    """Columns of a file: of those it lacks, folder names (`shard=...`) fill some and nulls the rest."""
    folders = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
    with _open_parquet(output, path) as file:
        names = set(file.schema_arrow.names)
        rows = file.read([name for name in columns.names if name in names], use_threads=False)
    n = file.metadata.num_rows
    arrays = [
        rows[field.name].cast(field.type)
        if field.name in names
        else pa.repeat(pa.scalar(folders.get(field.name), field.type), n)
        for field in columns
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


# -- current versions -------------------------------------------------------------------------------------------------


def read_current(output: Output) -> dict[str, str]:
    """Table -> current version; empty for a new output.

    Raises:
        OutputError: a newer Faceatlas wrote the output, or `current.json` is damaged.
    """
    return _read_current_json(output)[1]


def require_current(output: Output) -> dict[str, str]:
    """Table -> current version of an output that must be there.

    Raises:
        OutputError: it holds no tables, or see `read_current`.
    """
    current = read_current(output)
    if not current:
        raise OutputError(
            f"{output.root} holds no Faceatlas tables (there is no current.json); give the OUT of an annotate run"
        )
    return current


def _read_current_json(output: Output) -> tuple[int, dict[str, str]]:
    """Format of `current.json`, and table -> version."""
    try:
        text = output.fs.cat_file(output.path("current.json"))
    except FileNotFoundError:
        return CURRENT_FORMAT, {}
    try:
        content = json.loads(text)
        number = content.get("format", 1)
        if number == 1:
            return 1, dict(content)
        if number <= CURRENT_FORMAT:
            return number, dict(content["tables"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(
            f"{output.path('current.json')} is damaged ({error!r}); restore it from a copy, or annotate into a new OUT"
        ) from error
    raise OutputError(
        f"{output.root} was written by a newer Faceatlas: its current.json has format {number}, this one reads up to "
        f"{CURRENT_FORMAT}; upgrade Faceatlas (pip install -U faceatlas)"
    )


def promote(output: Output, versions: Mapping[str, str]) -> None:
    """Make versions current, all of them in one replacement of `current.json`.

    Tables that are not named keep their version, unless `faces` changes: their rows belong to the old faces, so they
    are no longer current (they stay on disk).
    """
    number, before = _read_current_json(output)
    same_faces = versions.get("faces", before.get("faces")) == before.get("faces")
    after = {**(before if same_faces else {}), **versions}
    if after != before or number < CURRENT_FORMAT:
        content = {"format": CURRENT_FORMAT, "tables": after}
        write_bytes(output, "current.json", (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def table_versions(output: Output, table_name: str) -> list[str]:
    """All versions of a table in the output."""
    try:
        entries = output.fs.ls(output.path(table_name), detail=False)
    except FileNotFoundError:
        return []
    names = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)
    return sorted(name.removeprefix("version=") for name in names if name.startswith("version="))


def read_version(
    output: Output, name: str, version: str, columns: Sequence[str] | None = None, shard: str | None = None
) -> pa.Table:
    """All rows of one version of a table, or of one shard of it; see `read_table`."""
    table = schema.table_schema(name)
    if name not in schema.WHOLE_TABLES and "shard" not in table.names:
        table = table.append(schema.field("shard", pa.string(), "partition of the corpus"))
    if columns is not None and (unknown := [column for column in columns if column not in table.names]):
        raise KeyError(f"table {name!r} has no column {', '.join(unknown)}; it has {', '.join(table.names)}")
    files = list_parquet(output, partition(name, version, shard))
    if not files:
        return table.empty_table() if columns is None else table.empty_table().select(columns)
    wanted = table if columns is None else pa.schema([table.field(name) for name in columns], table.metadata)
    with ThreadPoolExecutor(_READERS) as readers:
        return pa.concat_tables(readers.map(lambda file: read_columns(output, file, wanted), files))


def read_table(
    out: str, name: str, columns: Sequence[str] | None = None, storage_options: Mapping[str, Any] | None = None
) -> pa.Table:
    """The current version of a table.

    Args:
        out: output folder, any fsspec URI.
        name: `faces`, `landmarks`, `pose`, `action_units`, `emotions`, `embeddings`, `gaze`, `clips`, `quarantine`,
            `tracks`, `identities`, `ambiguous_pairs` or `lineage`.
        columns: the columns wanted; None: all, `shard` (the partition) among them.
        storage_options: given to fsspec.

    Returns:
        Arrow table; units and coordinate space are in each column's metadata (pipeline/schema.py). It has no rows if
        the table was never written.

    Raises:
        OutputError: `out` is no output of Faceatlas.
        KeyError: no such table or column; the message lists those there are.
    """
    schema.table_schema(name)
    output = open_output(out, storage_options)
    return read_version(output, name, require_current(output).get(name, "none"), columns)
