"""Which versions of the tables readers see: `current.json`, and when a new version comes into it."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.planning.plan import make_plan
from pipeline.storage.output import Output
from pipeline.tables import parquet


def by_table(versions: Mapping[str, str]) -> dict[str, str]:
    """Table -> version, from slot or table -> version."""
    return {schema.TABLE_OF_SLOT.get(name, name): version for name, version in versions.items()}


def promote_first_versions(output: Output, versions: Mapping[str, str]) -> None:
    """A table's first version is in force from its first file on, so that a first run can be watched."""
    current = parquet.read_current(output)
    first = by_table(versions)
    if first["faces"] == current.get("faces", first["faces"]):
        parquet.promote(output, {name: version for name, version in first.items() if name not in current})


def count_pending(
    corpus: Corpus, output: Output, versions: Mapping[str, str], needs: Mapping[str, Sequence[str]]
) -> int:
    """Clips in force that the corpus does not name and that lack a wanted version: a switch would hide their rows.

    Args:
        corpus: the clips of this run.
        output: where the tables are.
        versions: slot or table -> wanted version.
        needs: slot -> slots whose results it reads.
    """
    current = parquet.read_current(output)
    if all(current.get(table, version) == version for table, version in by_table(versions).items()):
        return 0
    known = parquet.read_version(output, "clips", current["clips"], [*schema.CLIP.names, "status"])
    there = pc.is_in(known["status"], value_set=pa.array(["done", "empty"]))
    named = pc.is_in(known["clip_id"], value_set=corpus.clips["clip_id"].combine_chunks())
    others = known.filter(pc.and_(there, pc.invert(named))).select(schema.CLIP.names)
    if not others.num_rows:
        return 0
    work = make_plan(Corpus(others.cast(schema.CLIP), []), output, versions, needs).work
    return len(work["clip_id"].unique())
