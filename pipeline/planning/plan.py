"""The difference between the desired and the stored annotations, which a run carries out.

    desired (clips x slots at their versions)  -  present (clips files, else footers)  =  plan

A corpus may hold a million clips and its tables thirty million chunks, so a shard is compared as a whole, with Arrow
(pipeline/planning/shard_diff.py). Only clips of which something but not all is stored become Python objects.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.intervals import ClipState, complement
from pipeline.planning.shard_diff import FORGOTTEN, QUARANTINED, Desired, ShardState, read_shard_state
from pipeline.planning.versions import SlotVersions, TableVersions
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.tombstones import erased_pseudonyms

_SHARDS_AT_ONCE = 4  # reading footers is waiting on storage, comparing them is work

#: one row per clip and set of missing slots
WORK = pa.schema(
    [
        *schema.CLIP,
        schema.field("slots", pa.list_(pa.string()), "slots to compute"),
        schema.field(
            "have",
            pa.list_(pa.struct([("first", pa.int64()), ("count", pa.int64())])),
            "intervals of sampled frames that this row leaves out",
        ),
        schema.field("end_known", pa.bool_(), "the clip's last chunk is stored: its end need not be reported again"),
        schema.field(
            "stored",
            pa.list_(pa.struct([("slot", pa.string()), ("paths", pa.list_(pa.string()))])),
            "slots whose stored results serve as input, and the files that hold them",
        ),
    ]
)

#: one row per shard, slot, state and reason
SUMMARY = pa.schema(
    [
        schema.field("shard", pa.string(), "partition of the corpus"),
        schema.field("slot", pa.string(), "slot of the bundle"),
        schema.field("state", pa.string(), "present, missing, stale, quarantined or forgotten"),
        schema.field("reason", pa.string(), "why it is missing or stale; null for the others"),
        schema.field("clips", pa.int64(), "clips of which this is so"),
        schema.field("frames", pa.int64(), "sampled frames to annotate in those of them whose length is known"),
        schema.field("chunks", pa.int64(), "chunks that these frames make"),
        schema.field("unknown", pa.int64(), "clips whose length is not known yet"),
    ]
)


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        work: schema WORK.
        clips: all clips of the corpus, schema.CLIP, sorted by shard.
        states: stored parts of the clips that are stored in part.
        ended: shard -> rows of `clips` of which all is stored, though no `clips` file says so; of every shard whose
            `clips` file must be written, perhaps without rows.
        outcomes: status -> clips that are up to date by a `clips` file, or forgotten.
        stale: shard -> clips whose bytes have changed: their chunks must go.
        summary: schema SUMMARY.
        reasons: why a clip has work -> clips.
    """

    work: pa.Table
    clips: pa.Table
    states: dict[str, ClipState]
    ended: dict[str, pa.Table]
    outcomes: Counter[str]
    stale: dict[str, list[str]]
    summary: pa.Table
    reasons: Counter[str]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Slot -> clips that are present, missing or stale; those in quarantine or forgotten count as present."""
        counts: dict[str, dict[str, int]] = {}
        for row in self.summary.select(["slot", "state", "clips"]).to_pylist():
            slot = counts.setdefault(row["slot"], {"present": 0, "missing": 0, "stale": 0})
            slot["present" if row["state"] in (QUARANTINED, FORGOTTEN) else row["state"]] += row["clips"]
        return counts


def make_plan(
    corpus: Corpus,
    output: Output,
    slots: SlotVersions,
    tables: TableVersions,
    needs: Mapping[str, Sequence[str]],
    chunk_frames: int = 32,
) -> Plan:
    """Compare the corpus with the output.

    Args:
        corpus: the clips to annotate.
        output: where the tables are.
        slots: desired versions of the models.
        tables: desired versions of the tables, `clips` among them.
        needs: slot -> slots whose results it reads.
        chunk_frames: frames of a chunk, for the estimate of the work alone.
    """
    there = {slot: set(parquet.table_versions(output, schema.TABLE_OF_SLOT[slot])) for slot in slots}
    desired = Desired(slots, tables["clips"], parquet.read_current(output).get("clips"), there, chunk_frames)
    clips = corpus.clips.take(pc.sort_indices(corpus.clips, [("shard", "ascending")])).combine_chunks()
    tombstones = erased_pseudonyms(output)
    plan = Plan(WORK.empty_table(), clips, {}, {}, Counter(), {}, SUMMARY.empty_table(), Counter())
    work: list[pa.Table] = [plan.work]
    summaries: list[pa.Table] = [plan.summary]
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        parts = pool.map(lambda part: read_shard_state(output, part[0], part[1], desired, tombstones), _by_shard(clips))
        for state in parts:
            plan.outcomes.update(state.outcomes)
            plan.reasons.update(state.reasons)
            summaries.append(pa.Table.from_pylist(state.summary, schema=SUMMARY))
            if state.ended is not None:
                plan.ended[state.shard] = state.ended
            if state.stale:
                plan.stale[state.shard] = state.stale
            plan.states.update(state.states)
            work += [_unprocessed_work(state, list(slots))] if state.unprocessed.num_rows else []
            work += [_partial_work(state, needs)] if state.states else []
    return Plan(
        pa.concat_tables(work),
        clips,
        plan.states,
        plan.ended,
        plan.outcomes,
        plan.stale,
        pa.concat_tables(summaries),
        plan.reasons,
    )


def _by_shard(clips: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The slices of a table that is sorted by shard."""
    begin = 0
    for run in pc.value_counts(clips["shard"]).to_pylist():
        yield run["values"], clips.slice(begin, run["counts"])
        begin += run["counts"]


def _unprocessed_work(state: ShardState, slots: Sequence[str]) -> pa.Table:
    """Work rows of clips of which nothing is stored: all slots, from the start to the end."""
    clips = state.unprocessed
    num = clips.num_rows
    constant = {"slots": list(slots), "have": [], "end_known": False, "stored": []}
    columns = [pa.repeat(pa.scalar(value, WORK.field(name).type), num) for name, value in constant.items()]
    return pa.table([*clips.select(schema.CLIP.names).columns, *columns], schema=WORK)


def _partial_work(state: ShardState, needs: Mapping[str, Sequence[str]]) -> pa.Table:
    """Work rows of clips of which something is stored."""
    rows = []
    for clip in state.partial.to_pylist():
        there = state.states[clip["clip_id"]]
        for group, intervals in state.missing[clip["clip_id"]].items():
            stored = {need for slot in group for need in needs[slot]} - set(group)
            rows.append(
                {
                    **clip,
                    "slots": list(group),
                    "have": [{"first": first, "count": count} for first, count in complement(intervals)],
                    "end_known": there.end is not None,
                    "stored": [{"slot": s, "paths": sorted(there.paths.get(s, ()))} for s in sorted(stored)],
                }
            )
    return pa.Table.from_pylist(rows, schema=WORK)
