"""Promotion: versions become current (`current.json`) once no reader loses rows by it."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import SlotVersions, TableVersions
from pipeline.storage.output import Output
from pipeline.tables import parquet


def promote_first_versions(output: Output, tables: TableVersions) -> None:
    """The first version of a table is current from its first file on, so that a first run can be watched."""
    current = parquet.read_current(output)
    if tables["faces"] == current.get("faces", tables["faces"]):
        parquet.promote(output, {table: version for table, version in tables.items() if table not in current})


def count_pending(
    corpus: Corpus, output: Output, slots: SlotVersions, tables: TableVersions, needs: Mapping[str, Sequence[str]]
) -> int:
    """Clips outside the corpus that lack a desired version: promoting it would hide their rows from readers.

    Args:
        corpus: the clips of this run.
        output: where the tables are.
        slots: desired versions of the models.
        tables: desired versions of the tables.
        needs: slot -> slots whose results it reads.
    """
    current = parquet.read_current(output)
    if all(current.get(table, version) == version for table, version in tables.items()):
        return 0
    known = parquet.read_version(output, "clips", current["clips"], [*schema.CLIP.names, "status"])
    there = pc.is_in(known["status"], value_set=pa.array(["done", "empty"]))
    named = pc.is_in(known["clip_id"], value_set=corpus.clips["clip_id"].combine_chunks())
    others = known.filter(pc.and_(there, pc.invert(named))).select(schema.CLIP.names)
    if not others.num_rows:
        return 0
    work = make_plan(Corpus(others.cast(schema.CLIP), []), output, slots, tables, needs).work
    return len(work["clip_id"].unique())
