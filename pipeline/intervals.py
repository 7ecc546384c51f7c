"""The stored part of one clip, as intervals of its sampled frames.

A chunk is an interval (first sampled frame, count), not a number, so the chunk size may differ between runs.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

END = 1 << 62  # beyond any frame count: "to the end of the clip"

Interval = tuple[int, int]  # first sampled frame, count


@dataclass
class ClipState:
    """The stored part of one clip. A run updates it as chunks are committed.

    Attributes:
        held: slot -> intervals of sampled frames whose results are stored.
        paths: slot -> files that hold them, relative to the output.
        end: sampled frames of the whole clip; None while unknown.
        video: facts that came with the last chunk (schema.VIDEO).
        faces: faces in the stored chunks.
        error: stage, error_class, message; the clip is quarantined.
    """

    held: dict[str, list[Interval]] = field(default_factory=dict)
    paths: dict[str, set[str]] = field(default_factory=dict)
    end: int | None = None
    video: dict | None = None
    faces: int = 0
    error: dict | None = None

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
        """Take in a committed chunk of one slot: a row of parquet.LEDGER with its `path`, or of stages.write.ACCOUNT.

        Only a row that saw the end of the video, or an error that kept it from being seen, ends the clip.
        """
        if entry["count"]:
            self.held.setdefault(slot, []).append((entry["first"], entry["count"]))
            self.paths.setdefault(slot, set()).update([entry["path"]] if "path" in entry else [])
        if slot == "face":
            self.faces += entry["faces"]
        error = entry.get("error") is not None
        # `last` without facts of the video: builds before 0.2 said so of slots that lagged behind
        if entry["last"] and (error or entry["video"] is not None):
            end = entry["first"] + entry["count"]
            # an error may meet only some slots: the clip then ends there for all, or it would never end
            self.end = min(self.end, end) if self.end is not None and (error or self.error is not None) else end
            self.video = entry["video"] or self.video

    def ended(self, slots: Sequence[str]) -> bool:
        """Whether nothing of the clip is left to compute."""
        return self.end is not None and not self.missing(slots)


def _covered(intervals: Sequence[Interval], edges: Sequence[int]) -> list[bool]:
    """For each pair of neighboring edges, whether an interval covers it; edges include those of the intervals."""
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
