"""The accounts of a run: which chunks of which clips are committed, which clips and shards are finished.

Only clips in work, and ended clips of shards that have not ended, are Python objects. What was up to date before the
run stays in Arrow.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.intervals import ClipState
from pipeline.planning.plan import Plan
from pipeline.planning.shard_diff import box_in_fractions, no_frame
from pipeline.planning.versions import SlotVersions, TableVersions
from pipeline.storage.output import Output
from pipeline.tables.shard_file import are_closed_early, read_shard, write_shard


@dataclass
class RunLedger:
    """Keeps the states of a plan's clips up to date and writes a shard's `clips` file when its last clip has ended.

    Attributes:
        output: where the tables are.
        plan: of the run.
        slots: versions of the models.
        tables: versions of the tables, `clips` and `quarantine` among them.
        frames, faces: sampled frames and faces that this run has committed to `faces`.
    """

    output: Output
    plan: Plan
    slots: SlotVersions
    tables: TableVersions
    frames: int = 0
    faces: int = 0
    _row_of: dict[str, int] = field(default_factory=dict)  # clips that have not ended -> row of plan.clips
    _left: Counter[str] = field(default_factory=Counter)  # shard -> such clips
    _rows: dict[str, list[dict]] = field(default_factory=dict)  # shard -> rows of `clips` of those that have
    _quarantine: dict[str, list[dict]] = field(default_factory=dict)
    _outcomes: Counter[str] = field(default_factory=Counter)
    _ended: list[str] = field(default_factory=list)
    error_classes: Counter[str] = field(default_factory=Counter)  # of clips that were quarantined in this run

    def __post_init__(self) -> None:
        self._outcomes.update(self.plan.outcomes)
        for rows in self.plan.ended.values():
            counts = pc.value_counts(rows["status"]).to_pylist()
            self._outcomes.update({item["values"]: item["counts"] for item in counts})
        ids = pa.concat_arrays([self.plan.work["clip_id"].combine_chunks(), pa.array(self.plan.states, pa.string())])
        places = pc.index_in(ids.unique(), value_set=self.plan.clips["clip_id"].combine_chunks())
        shards = self.plan.clips["shard"].take(places)
        self._row_of = dict(zip(ids.unique().to_pylist(), places.to_pylist(), strict=True))
        self._left.update({item["values"]: item["counts"] for item in pc.value_counts(shards).to_pylist()})
        for clip_id in list(self.plan.states):
            self._close_if_ended(clip_id)
        for shard in self.plan.ended:
            if not self._left[shard]:
                self._write_shard(shard)

    @property
    def ended(self) -> list[str]:
        """Clips that have ended since the plan was made."""
        return self._ended

    @property
    def clips_ended(self) -> int:
        """Clips of the manifest whose outcome is known."""
        return self._outcomes.total()

    @property
    def outcomes(self) -> dict[str, int]:
        """Clips that are done, empty and quarantined; and forgotten, if there are any."""
        named = ("done", "empty", "quarantined")
        return {status: self._outcomes[status] for status in (*named, *sorted(set(self._outcomes) - set(named)))}

    @property
    def missing(self) -> list[str]:
        """Clips that have not ended: at the end of a run there must be none."""
        return sorted(self._row_of)

    def add(self, accounts: pa.Table) -> None:
        """Take in committed chunks: rows of write.ACCOUNT."""
        for account in accounts.to_pylist():
            clip_id = account["clip_id"]
            if clip_id not in self._row_of:
                continue  # it has ended, by an error for example: a chunk that was still in flight changes nothing
            state = self.plan.states.setdefault(clip_id, ClipState())
            if account["error"] is not None:
                state.error = account["error"]
            for slot in account["slots"]:
                # an account with an error ends the clip for this run, though not in the ledger, for later runs
                state.add(slot, account)
            if "face" in account["slots"] and account["error"] is None:
                self.frames += account["count"]
                self.faces += account["faces"]
            if (shard := self._close_if_ended(clip_id)) and not self._left[shard]:
                self._write_shard(shard)

    def _close_if_ended(self, clip_id: str) -> str | None:
        """The shard of a clip that has just ended; its state then becomes rows."""
        state = self.plan.states[clip_id]
        if not state.ended(list(self.slots)):
            return None
        clip = self.plan.clips.slice(self._row_of.pop(clip_id), 1).to_pylist()[0]
        del self.plan.states[clip_id]
        row = _clip_row(clip, state)
        self._rows.setdefault(clip["shard"], []).append(row)
        if state.error is not None:
            self.error_classes[state.error["error_class"]] += 1
            self._quarantine.setdefault(clip["shard"], []).append(_quarantine_row(clip, state.error))
        self._outcomes[row["status"]] += 1
        self._left[clip["shard"]] -= 1
        self._ended.append(clip_id)
        return clip["shard"]

    def _write_shard(self, shard: str) -> None:
        """Write `quarantine`, then `clips`, of a finished shard; rows of clips that this corpus does not name stay.

        One goes: the row of a tar as a whole, which says why its members could not be listed, once they are listed.
        """
        ended = self.plan.ended[shard]
        rows = [ended, pa.Table.from_pylist(self._rows.pop(shard, []), schema=schema.CLIPS)]
        worked = pa.concat_tables(rows)["clip_id"].combine_chunks()
        before, complete_for = read_shard(self.output, "clips", self.tables["clips"], shard)
        before = before.filter(pc.invert(are_closed_early(before)))
        named = self.plan.clips.filter(pc.equal(self.plan.clips["shard"], shard))
        mine = named["clip_id"].combine_chunks()
        tars = named.filter(pc.is_valid(named["member"]))["uri"].combine_chunks()
        kept = _without(before, worked, mine, tars)
        others = kept.filter(pc.invert(pc.is_in(kept["clip_id"], value_set=mine)))
        slots = dict(self.slots)
        # others may be complete for other versions; then the file covers none, and plans read the footers
        vouched = slots if not others.num_rows or complete_for == slots else {}

        known, _ = read_shard(self.output, "quarantine", self.tables["quarantine"], shard)
        known = _without(known, worked, mine, tars)
        new = pa.Table.from_pylist(self._quarantine.pop(shard, []), schema=schema.QUARANTINE)
        self._write("quarantine", shard, [known, new], {})
        self._write("clips", shard, [kept, *rows], vouched)

    def _write(self, name: str, shard: str, parts: list[pa.Table], vouched: Mapping[str, str]) -> None:
        table = pa.concat_tables(parts).sort_by("clip_id").cast(schema.table_schema(name))
        write_shard(self.output, name, self.tables[name], shard, table, vouched)


def _without(rows: pa.Table, worked: pa.Array, named: pa.Array, tars: pa.Array) -> pa.Table:
    """Rows of the table before without the clips that were worked on, and without tars whose members are listed now."""
    whole_tar = pc.and_(pc.is_null(rows["member"]), pc.is_in(rows["uri"], value_set=tars))
    listed = pc.and_(whole_tar, pc.invert(pc.is_in(rows["clip_id"], value_set=named)))
    return rows.filter(pc.invert(pc.or_(pc.is_in(rows["clip_id"], value_set=worked), listed)))


def _clip_row(clip: Mapping, state: ClipState) -> dict:
    status, reason, error_class = "done" if state.end else "empty", None, None
    if state.error is not None:
        status, reason, error_class = "quarantined", state.error["message"], state.error["error_class"]
    elif status == "empty":
        reason = no_frame((state.video or {}).get("length"))
    facts = {"status": status, "reason": reason, "error_class": error_class, "faces": state.faces}
    video = state.video or {}
    box = box_in_fractions(clip["bbox"], video.get("width"), video.get("height"))
    return {**clip, **video, **facts, "bbox": box}


def _quarantine_row(clip: Mapping, error: Mapping) -> dict:
    named = {name: clip[name] for name in ("clip_id", "uri", "member", "shard", "fingerprint")}
    return {**named, **error, "attempts": error.get("attempts") or 1}
