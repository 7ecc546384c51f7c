"""The difference between what is wanted and what is there: the whole job is to do it.

wanted (clips x slots at their versions) - present (clips files and footers) = plan.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, store
from pipeline.errors import TRIED_AGAIN
from pipeline.sources import Corpus
from pipeline.store import Output

END = 1 << 62  # beyond any frame count: "to the end of the clip"

Interval = tuple[int, int]  # first sampled frame, count

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


@dataclass
class ClipState:
    """What is there of one clip. A run keeps it up to date as chunks are committed.

    Attributes:
        held: slot -> intervals of sampled frames whose results are stored.
        paths: slot -> files that hold them, relative to the output.
        end: sampled frames of the whole clip; None while unknown.
        video: facts that came with the last chunk (schema.VIDEO).
        faces: faces in the stored chunks.
        error: stage, error_class, message; the clip is quarantined.
        stale: it was annotated, but its bytes have changed since.
    """

    held: dict[str, list[Interval]] = field(default_factory=dict)
    paths: dict[str, set[str]] = field(default_factory=dict)
    end: int | None = None
    video: dict | None = None
    faces: int = 0
    error: dict | None = None
    stale: bool = False

    def missing(self, slots: Sequence[str]) -> dict[tuple[str, ...], list[Interval]]:
        """Sets of slots -> the intervals in which exactly these are missing; the last may reach to END."""
        end = END if self.end is None else self.end
        cuts = {0, end}
        for intervals in self.held.values():
            cuts.update(edge for first, count in intervals for edge in (first, first + count))
        edges = sorted(edge for edge in cuts if edge <= end)
        holds = {slot: _covered(self.held.get(slot, []), edges) for slot in slots}
        result: dict[tuple[str, ...], list[Interval]] = {}
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            if missing := tuple(slot for slot in slots if not holds[slot][i]):
                result.setdefault(missing, []).append((low, high - low))
        return result

    def add(self, slot: str, entry: Mapping) -> None:
        """Take in a committed chunk of one slot: a row of store.LEDGER, with its `path` if that is known."""
        if entry["count"]:
            self.held.setdefault(slot, []).append((entry["first"], entry["count"]))
            self.paths.setdefault(slot, set()).update([entry["path"]] if "path" in entry else [])
        if slot == "face":
            self.faces += entry["faces"]
        if entry["last"]:
            self.end = entry["first"] + entry["count"]
            self.video = entry["video"]

    def ended(self, slots: Sequence[str]) -> bool:
        """Whether nothing of the clip is left to compute."""
        return self.end is not None and not self.missing(slots)


def _covered(intervals: Sequence[Interval], edges: Sequence[int]) -> list[bool]:
    """For each pair of neighbouring edges, whether an interval covers it; edges include those of the intervals."""
    place = {edge: i for i, edge in enumerate(edges)}
    covered = [False] * max(0, len(edges) - 1)
    for first, count in intervals:
        for i in range(place.get(first, len(edges)), place.get(first + count, len(edges) - 1)):
            covered[i] = True
    return covered


def complement(intervals: Iterable[Interval]) -> list[Interval]:
    """The intervals of sampled frames, from 0 without end, that the given ones leave out."""
    gaps, end = [], 0
    for first, count in sorted(intervals):
        if first > end:
            gaps.append((end, first - end))
        end = max(end, first + count)
    return [*gaps, (end, END - end)] if end < END else gaps


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        work: schema WORK.
        clips: all wanted clips, schema.CLIP.
        settled: rows of `clips` that need no work: clip_id -> row.
        states: state of every other wanted clip.
        counts: slot -> clips that are present, missing or stale.
        reasons: clip_id -> why it has work.
    """

    work: pa.Table
    clips: pa.Table
    settled: dict[str, dict]
    states: dict[str, ClipState]
    counts: dict[str, dict[str, int]]
    reasons: dict[str, str]


def make_plan(corpus: Corpus, output: Output, versions: Mapping[str, str], needs: Mapping[str, Sequence[str]]) -> Plan:
    """Compare the corpus with the output.

    Args:
        corpus: the wanted clips.
        output: where the tables are.
        versions: table or slot -> wanted version: every slot of the bundle, and `clips`.
        needs: slot -> slots whose results it reads.
    """
    slots = [slot for slot in versions if slot in schema.SLOTS]
    work: list[dict] = []
    settled: dict[str, dict] = {}
    states: dict[str, ClipState] = {}
    counts = {slot: {"present": 0, "missing": 0, "stale": 0} for slot in slots}
    reasons: dict[str, str] = {}
    shards: dict[str, list[dict]] = {}
    for clip in corpus.clips.to_pylist():
        shards.setdefault(clip["shard"], []).append(clip)
    for shard, clips in sorted(shards.items()):
        rows, open_states = read_shard_state(output, shard, clips, versions)
        settled |= rows
        states |= open_states
        for clip in clips:
            clip_id = clip["clip_id"]
            if clip_id in rows:
                for slot in slots:
                    counts[slot]["present"] += 1
                continue
            state = open_states[clip_id]
            missing = state.missing(slots)
            lacking = {slot for group in missing for slot in group}
            for slot in slots:
                counts[slot]["stale" if state.stale else "missing" if slot in lacking else "present"] += 1
            if missing:
                reasons[clip_id] = _reason(state, slots, lacking)
            for group, intervals in missing.items():
                stored = {need for slot in group for need in needs[slot]} - set(group)
                work.append(
                    {
                        **clip,
                        "slots": list(group),
                        "have": [{"first": first, "count": count} for first, count in complement(intervals)],
                        "end_known": state.end is not None,
                        "stored": [{"slot": s, "paths": sorted(state.paths.get(s, ()))} for s in sorted(stored)],
                    }
                )
    return Plan(pa.Table.from_pylist(work, schema=WORK), corpus.clips, settled, states, counts, reasons)


def _reason(state: ClipState, slots: Sequence[str], lacking: set[str]) -> str:
    if state.stale:
        return "changed bytes"
    if not any(state.held.values()):
        return "new clip"
    absent = [slot for slot in slots if slot in lacking and not state.held.get(slot)]
    return f"new version of {', '.join(absent)}" if absent else "missing chunks"


def read_shard_state(
    output: Output, shard: str, clips: Sequence[Mapping], versions: Mapping[str, str]
) -> tuple[dict[str, dict], dict[str, ClipState]]:
    """What is there of a shard: settled rows off its `clips` file; the state of all other clips off the footers."""
    fingerprints = {clip["clip_id"]: clip["fingerprint"] for clip in clips}
    slots = [slot for slot in versions if slot in schema.SLOTS]
    rows, complete_for = store.read_shard(output, "clips", versions["clips"], shard)
    recorded = {row["clip_id"]: row for row in rows.to_pylist() if row["clip_id"] in fingerprints}
    same = {i: row for i, row in recorded.items() if row["fingerprint"] == fingerprints[i]}
    complete = all(complete_for.get(slot) == versions[slot] for slot in slots)
    settled = {i: row for i, row in same.items() if row["status"] == "quarantined" or complete}
    # a quarantined clip stays so whatever models are wanted, for its bytes are wrong; unless we or the storage were
    settled = {i: row for i, row in settled.items() if row["error_class"] not in TRIED_AGAIN}
    states = {i: ClipState(stale=i in recorded and i not in same) for i in fingerprints if i not in settled}
    if not states:
        return settled, states

    wanted = pa.array(list(states), pa.string())
    for slot in slots:
        ledger = store.read_ledger(output, schema.TABLE_OF_SLOT[slot], versions[slot], shard)
        for entry in ledger.filter(pc.is_in(ledger["clip_id"], wanted)).to_pylist():
            state = states[entry["clip_id"]]
            if entry["fingerprint"] != fingerprints[entry["clip_id"]]:
                state.stale = True
            else:
                state.add(slot, entry)
    for clip_id, state in states.items():
        if state.stale:  # whatever chunks of the new bytes there are go with the old ones
            states[clip_id] = ClipState(stale=True)
    return settled, states
