"""The part of a plan that concerns one shard: its clips compared with its `clips` file and its footers, all at once.

Letters: N clips of the shard, M those of them that are not up to date by a `clips` file, E entries of a ledger.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import RETRYABLE
from pipeline.intervals import END, ClipState, Interval
from pipeline.planning.versions import SlotVersions
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.shard_file import are_closed_early, read_shard
from pipeline.tables.tombstones import are_erased

PRESENT, MISSING, STALE, QUARANTINED, FORGOTTEN = "present", "missing", "stale", "quarantined", "forgotten"
NEW_CLIP, CHANGED, NEW_SAMPLING = "new clip", "changed bytes", "new sampling"
NEW_VERSION, MISSING_CHUNKS, RETRIED = "new model version", "missing chunks", "quarantined, tried again"
CLOSED_EARLY = "closed before its end"
_LARGEST_FRACTION = 2.0  # a box may reach beyond its frame
NO_FRAME = "the video has no frame in the wanted time range"


@dataclass(frozen=True)
class Desired:
    """What a plan asks of every shard.

    Attributes:
        slots: desired versions of the models.
        clips: desired version of `clips`.
        current_clips: current version of `clips`, None for a new output.
        there: slot -> versions of its table that lie in the output.
        chunk_frames: frames of a chunk, for estimates.
    """

    slots: SlotVersions
    clips: str
    current_clips: str | None
    there: Mapping[str, Collection[str]]
    chunk_frames: int


@dataclass
class ShardState:
    """A shard's part of a plan; see `plan.Plan`.

    Attributes:
        unprocessed: clips of which nothing (valid) is stored, schema.CLIP.
        partial: clips with a state in `states`, schema.CLIP.
        missing: of these, what ClipState.missing says.
        ended: rows of `clips` to be written, schema.CLIPS; None if the `clips` file says all already.
        summary: rows of plan.SUMMARY.
    """

    shard: str
    unprocessed: pa.Table
    partial: pa.Table
    ended: pa.Table | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    states: dict[str, ClipState] = field(default_factory=dict)
    missing: dict[str, dict[tuple[str, ...], list[Interval]]] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    summary: list[dict] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def read_shard_state(
    output: Output, shard: str, clips: pa.Table, desired: Desired, tombstones: Collection[str]
) -> ShardState:
    """Compare the corpus's clips of a shard (schema.CLIP) with what the output holds of it."""
    recorded, complete_for = read_shard(output, "clips", desired.clips, shard)
    complete = all(complete_for.get(slot) == version for slot, version in desired.slots.items())
    at = pc.index_in(clips["clip_id"], value_set=recorded["clip_id"].combine_chunks()).combine_chunks()
    found = recorded.select(["fingerprint", "status", "error_class", "sampled", "frames"]).take(at)
    known_N = _mask(at.is_valid())
    same_N = known_N & _equal(found["fingerprint"], clips["fingerprint"])
    forgotten_N = are_erased(clips, tombstones)
    in_quarantine_N = same_N & _mask(pc.equal(found["status"], "quarantined")) & ~forgotten_N
    # a quarantined clip stays so whatever models are desired: its bytes are bad, unless Faceatlas or the storage failed
    retried_N = in_quarantine_N & _mask(pc.is_in(found["error_class"], value_set=pa.array(sorted(RETRYABLE))))
    early_N = same_N & _mask(are_closed_early(found))
    up_to_date_N = same_N & (complete | in_quarantine_N) & ~retried_N & ~early_N & ~forgotten_N
    open_N = ~up_to_date_N & ~forgotten_N

    state = ShardState(shard, clips.slice(0, 0), clips.slice(0, 0))
    state.outcomes.update(_counts(found["status"].filter(pa.array(up_to_date_N))))
    state.outcomes.update({"forgotten": int(forgotten_N.sum())} if forgotten_N.any() else {})
    totals = _Totals(shard, desired)
    quarantined = int((in_quarantine_N & ~retried_N).sum())
    for slot in desired.slots:
        totals.add(slot, PRESENT, None, int(up_to_date_N.sum()) - quarantined)
        totals.add(slot, QUARANTINED, None, quarantined)
        totals.add(slot, FORGOTTEN, None, int(forgotten_N.sum()))
    if open_N.any():
        mask = pa.array(open_N)
        sampled_M = found["sampled"].filter(mask).fill_null(-1).to_numpy()
        sampled_M = np.where(same_N[open_N], sampled_M, -1)
        before = {
            RETRIED: retried_N[open_N],
            CLOSED_EARLY: early_N[open_N],
            NEW_VERSION: (same_N & ~early_N)[open_N],
            CHANGED: (known_N & ~same_N)[open_N],
        }
        _compare_with_footers(state, output, clips.filter(mask), desired, before, sampled_M, totals)
    state.summary = totals.rows()
    return state


def _compare_with_footers(
    state: ShardState,
    output: Output,
    clips: pa.Table,
    desired: Desired,
    before: Mapping[str, np.ndarray],
    sampled_M: np.ndarray,
    totals: "_Totals",
) -> None:
    ids = clips["clip_id"].combine_chunks()
    num = len(ids)
    stale_M = before[CHANGED].copy()
    ledgers: dict[str, tuple[np.ndarray, pa.Table]] = {}
    for slot, version in desired.slots.items():
        ledger = parquet.read_ledger(output, schema.TABLE_OF_SLOT[slot], version, state.shard)
        clip = pc.index_in(ledger["clip_id"], value_set=ids).combine_chunks()
        if clip.null_count:
            ledger, clip = ledger.filter(clip.is_valid()), clip.drop_null()
        clip_E = clip.to_numpy()
        same_E = _equal(ledger["fingerprint"], clips["fingerprint"].take(pa.array(clip_E)))
        stale_M[clip_E[~same_E]] = True
        ledgers[slot] = clip_E, ledger

    touched_M, ends_M = np.zeros(num, bool), np.full(num, -1, np.int64)
    tiled: dict[str, np.ndarray] = {}
    for slot, (clip_E, ledger) in ledgers.items():
        first_E, count_E = ledger["first"].to_numpy(), ledger["count"].to_numpy()
        touched_M[clip_E] = True
        last_E = _mask(ledger["last"]) & _mask(ledger["video"].is_valid())
        ends_M[clip_E[last_E]] = (first_E + count_E)[last_E]
        tiled[slot] = tiled_ends(clip_E, first_E, count_E, num)
    ended_M = (ends_M >= 0) & ~stale_M
    for ends in tiled.values():
        ended_M &= ends == ends_M
    unprocessed_M = stale_M | ~touched_M  # of a stale clip, chunks of the new bytes go with those of the old
    partial_M = ~ended_M & ~unprocessed_M

    state.stale = ids.filter(pa.array(stale_M)).to_pylist()
    state.unprocessed = clips.filter(pa.array(unprocessed_M))
    state.partial = clips.filter(pa.array(partial_M))
    state.ended = _ended_rows(clips, ended_M, ends_M, ledgers)
    state.states = _states(state.partial["clip_id"].to_pylist(), partial_M, ledgers)
    state.missing = {clip_id: there.missing(list(desired.slots)) for clip_id, there in state.states.items()}
    for slot in desired.slots:
        totals.add(slot, PRESENT, None, int(ended_M.sum()))
    reasons = {
        CHANGED: stale_M,
        RETRIED: before[RETRIED],
        CLOSED_EARLY: before[CLOSED_EARLY],
        NEW_VERSION: before[NEW_VERSION],
        NEW_SAMPLING: _were_sampled_otherwise(output, desired, state.shard, ids),
        NEW_CLIP: np.ones(num, bool),
    }
    _sum_up_unprocessed(state, desired, reasons, unprocessed_M, np.where(stale_M, -1, sampled_M), totals)
    chosen = {name: mask[partial_M] for name, mask in before.items()}
    _sum_up_partial(state, desired, chosen, sampled_M[partial_M], totals)


def tiled_ends(clip_E: np.ndarray, first_E: np.ndarray, count_E: np.ndarray, num: int) -> np.ndarray:
    """For each clip the frame up to which its intervals tile it from 0 on; -1 if they leave a gap or overlap.

    Args:
        clip_E: number of the clip of each interval, in any order.
        first_E: first sampled frame.
        count_E: frames; intervals without any do not count.
        num: clips.
    """
    ends = np.zeros(num, np.int64)
    held = count_E > 0
    order = np.lexsort((first_E[held], clip_E[held]))
    clip, first = clip_E[held][order], first_E[held][order]
    end = first + count_E[held][order]
    if len(clip):
        new = np.concatenate([[True], clip[1:] != clip[:-1]])
        expected = np.where(new, 0, np.concatenate([[0], end[:-1]]))
        tail = np.concatenate([new[1:], [True]])
        ends[clip[tail]] = end[tail]
        ends[clip[first != expected]] = -1
    return ends


def _ended_rows(
    clips: pa.Table, ended_M: np.ndarray, ends_M: np.ndarray, ledgers: Mapping[str, tuple[np.ndarray, pa.Table]]
) -> pa.Table:
    """Rows of `clips` for clips whose chunks are all stored."""
    chosen = np.flatnonzero(ended_M)
    place_M = np.full(len(clips), -1, np.int64)
    videos, seen = [], 0
    for clip_E, ledger in ledgers.values():
        told = _mask(ledger["last"]) & _mask(ledger["video"].is_valid())
        place_M[clip_E[told]] = seen + np.arange(told.sum())
        videos.append(ledger["video"].filter(pa.array(told)))
        seen += int(told.sum())
    video = pa.chunked_array([chunk for column in videos for chunk in column.chunks], schema.VIDEO).combine_chunks()
    places = place_M[chosen]
    facts = video.take(pa.array(places, mask=places < 0))
    clip_E, faces = ledgers["face"]
    faces_M = np.bincount(clip_E, weights=faces["faces"].to_numpy(), minlength=len(clips)).astype(np.int64)
    empty = pa.array(ends_M[chosen] == 0)
    columns = {name: clips[name].take(pa.array(chosen)) for name in schema.CLIP.names}
    columns |= {
        "status": pc.if_else(empty, "empty", "done"),
        "reason": pc.if_else(empty, _no_frame(pc.struct_field(facts, "length")), pa.scalar(None, pa.string())),
        "error_class": pa.nulls(len(chosen), pa.string()),
        "faces": pa.array(faces_M[chosen]),
        **{item.name: pc.struct_field(facts, item.name) for item in schema.VIDEO},
    }
    sizes = zip(*(columns[name].to_pylist() for name in ("bbox", "width", "height")), strict=True)
    columns["bbox"] = pa.array([box_in_fractions(*size) for size in sizes], schema.CLIP.field("bbox").type)
    return pa.table([columns[name] for name in schema.CLIPS.names], schema=schema.CLIPS)


def _no_frame(length: pa.Array) -> pa.Array:
    return pa.array([no_frame(seconds) for seconds in length.to_pylist()], pa.string())


def no_frame(length: float | None) -> str:
    """Why a clip is empty, in words; `length` of the whole video in seconds, None where it is not known."""
    return NO_FRAME if length is None else f"{NO_FRAME}; it is {length:.2f} s long"


def box_in_fractions(box: Sequence[float] | None, width: int | None, height: int | None) -> list[float] | None:
    """A box that a corpus gives, in fractions of the frame; one in pixels is told by a side far beyond 1.

    None where it is in pixels of a frame whose size is not known.
    """
    if box is None or max(map(abs, box)) <= _LARGEST_FRACTION:
        return None if box is None else list(box)
    if not width or not height:
        return None
    return [side / size for side, size in zip(box, (width, height, width, height), strict=True)]


def _states(
    ids: Sequence[str], partial_M: np.ndarray, ledgers: Mapping[str, tuple[np.ndarray, pa.Table]]
) -> dict[str, ClipState]:
    states = {clip_id: ClipState() for clip_id in ids}
    for slot, (clip_E, ledger) in ledgers.items() if states else ():
        for entry in ledger.filter(pa.array(partial_M[clip_E])).drop_columns(["fingerprint"]).to_pylist():
            states[entry["clip_id"]].add(slot, entry)
    return states


# -- the summary -------------------------------------------------------------------------------------------------------


class _Totals:
    """Adds up the rows of a shard's summary."""

    def __init__(self, shard: str, desired: Desired) -> None:
        self.shard, self.desired = shard, desired
        self.sums: dict[tuple[str, str, str | None], list[int]] = {}

    def add(self, slot: str, state: str, reason: str | None, clips: int, *work: int) -> None:
        """Count clips; `work` is frames, chunks and clips of unknown length."""
        if clips:
            sums = self.sums.setdefault((slot, state, reason), [0, 0, 0, 0])
            for i, amount in enumerate((clips, *work)):
                sums[i] += amount

    def rows(self) -> list[dict]:
        names = ("clips", "frames", "chunks", "unknown")
        return [
            {
                "shard": self.shard,
                "slot": slot,
                "state": state,
                "reason": reason,
                **dict(zip(names, sums, strict=True)),
            }
            for (slot, state, reason), sums in self.sums.items()
        ]


def _sum_up_unprocessed(
    state: ShardState,
    desired: Desired,
    reasons: Mapping[str, np.ndarray],
    unprocessed_M: np.ndarray,
    sampled_M: np.ndarray,
    totals: _Totals,
) -> None:
    rest_M = unprocessed_M.copy()
    for reason, holds_M in reasons.items():
        mine_M = rest_M & holds_M
        rest_M &= ~holds_M
        clips = int(mine_M.sum())
        lengths = sampled_M[mine_M & (sampled_M >= 0)]
        chunks = -(-lengths // desired.chunk_frames)
        work = int(lengths.sum()), int(chunks.sum()), clips - len(lengths)
        for slot in desired.slots:
            totals.add(slot, STALE if reason == CHANGED else MISSING, reason, clips, *work)
        state.reasons.update({reason: clips} if clips else {})


def _were_sampled_otherwise(output: Output, desired: Desired, shard: str, ids: pa.Array) -> np.ndarray:
    """Mask of clips that the current version of `clips` names, if that is another one."""
    if desired.current_clips in (None, desired.clips):
        return np.zeros(len(ids), bool)
    before, _ = read_shard(output, "clips", desired.current_clips or "", shard)
    return _mask(pc.is_in(ids, value_set=before["clip_id"].combine_chunks()))


def _sum_up_partial(
    state: ShardState, desired: Desired, before: Mapping[str, np.ndarray], sampled: np.ndarray, totals: _Totals
) -> None:
    for i, (clip_id, there) in enumerate(state.states.items()):
        open_for = RETRIED if before[RETRIED][i] else CLOSED_EARLY if before[CLOSED_EARLY][i] else MISSING_CHUNKS
        lacking: dict[str, list[Interval]] = {}
        for group, intervals in state.missing[clip_id].items():
            for slot in group:
                lacking.setdefault(slot, []).extend(intervals)
        new = []
        for slot, version in desired.slots.items():
            if slot not in lacking:
                totals.add(slot, PRESENT, None, 1)
                continue
            others = any(other != version for other in desired.there[slot])
            reason = open_for
            if not there.held.get(slot) and (others or before[NEW_VERSION][i]):
                reason = NEW_VERSION
                new.append(slot)
            totals.add(slot, MISSING, reason, 1, *_amount(lacking[slot], int(sampled[i]), desired.chunk_frames))
        if lacking:
            state.reasons[f"new version of {', '.join(new)}" if new else open_for] += 1


def _amount(intervals: Sequence[Interval], sampled: int, chunk_frames: int) -> tuple[int, int, int]:
    """Frames and chunks of the missing intervals, and 1 if their end is unknown, from earlier runs too."""
    frames = chunks = unknown = 0
    for first, count in intervals:
        if first + count >= END:
            unknown = int(sampled < 0)
            count = max(0, sampled - first)
        frames += count
        chunks += -(-count // chunk_frames)
    return frames, chunks, unknown


# -- Arrow to numpy ---------------------------------------------------------------------------------------------------


def _mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Whether two columns of strings agree, null with null."""
    return _mask(pc.equal(pc.fill_null(one, ""), pc.fill_null(other, "")))


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(values).to_pylist()}
