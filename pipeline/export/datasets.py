"""The tables as a data set of Hugging Face `datasets`: a folder with a wide row per face.

It works clip by clip: in memory are the rows of one clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.export.dataset_card import dataset_card
from pipeline.storage.output import open_output
from pipeline.tables.clip_reader import ClipReader, choose_clips

Progress = Iterator[tuple[str, int]]


def export_hf(
    out: str, to: str, clips: Sequence[str] = (), options: Mapping[str, Any] | None = None, subject: bool = False
) -> Progress:
    """Write a folder that `datasets.load_dataset` opens: a wide row per face as Parquet, and a data card.

    With `subject`, only faces of the clips' subjects.

    Yields:
        (Parquet file, its rows so far) after each clip.

    Raises:
        OutputError, ConfigError: as `export_coco`.
    """
    tables = ClipReader(open_output(out, options), subject)
    wide = wide_schema(tables.slots)
    folder = Path(to)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows, total, found = 0, 0, 0
    shard, writer = None, None
    place = ""
    try:
        for clip in choose_clips(tables.clips(), clips):
            if clip["shard"] != shard:
                if writer is not None:
                    writer.close()
                shard = clip["shard"]
                place = str(folder / "data" / f"train-{found:05d}.parquet")
                writer, found = pq.ParquetWriter(place, wide, compression="zstd"), found + 1
                rows = 0
            table = tables.faces(clip, tables.slots)
            table = table.append_column("key", pa.repeat(pa.scalar(clip["key"], pa.string()), table.num_rows))
            table = table.select(wide.names).cast(wide)
            assert writer is not None
            writer.write_table(table)
            rows, total = rows + table.num_rows, total + table.num_rows
            yield place, rows
    finally:
        if writer is not None:
            writer.close()
    (folder / "README.md").write_text(dataset_card(tables, total, wide), encoding="utf-8")


def wide_schema(slots: Sequence[str]) -> pa.Schema:
    """One row per face: its key, the clip's name, the person, and the columns of some slots."""
    first = schema.slot_schema("face")
    names = [
        schema.field("key", pa.string(), "the user's name of the clip"),
        schema.field("identity_id", pa.string(), "the person; null: not clustered"),
    ]
    others = [column for slot in slots if slot != "face" for column in schema.SLOT_COLUMNS[slot]]
    return pa.schema([*first, *names, *others])
