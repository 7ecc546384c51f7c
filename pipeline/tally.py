"""The accounts of a run: which chunks of which clips are committed, which clips and shards are finished."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import schema, store
from pipeline.plan import ClipState, Plan
from pipeline.store import Output


@dataclass
class Tally:
    """Keeps the states of a plan's clips up to date and writes a shard's `clips` file when its last clip has ended.

    Attributes:
        output: where the tables are.
        plan: what the run set out to do.
        versions: slot or table -> version, `clips` and `quarantine` among them.
        frames, faces: sampled frames and faces that this run has committed to `faces`.
    """

    output: Output
    plan: Plan
    versions: Mapping[str, str]
    frames: int = 0
    faces: int = 0
    _open: dict[str, set[str]] = field(default_factory=dict)
    _rows: dict[str, list[dict]] = field(default_factory=dict)
    _shard_of: dict[str, str] = field(default_factory=dict)
    _outcomes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for clip in self.plan.clips.to_pylist():
            self._rows.setdefault(clip["shard"], []).append(clip)
            self._shard_of[clip["clip_id"]] = clip["shard"]
            self._open.setdefault(clip["shard"], set()).add(clip["clip_id"])
        for clip_id, row in self.plan.settled.items():
            self._outcomes[clip_id] = row["status"]
            self._open[self._shard_of[clip_id]].discard(clip_id)
        for shard in list(self._open):
            untouched = not self._open[shard]  # its clips file says all this already
            for clip_id in list(self._open[shard]):
                self._close_if_ended(clip_id)
            if not self._open[shard] and not untouched:
                self._write_shard(shard)

    @property
    def slots(self) -> list[str]:
        """The wanted slots."""
        return [slot for slot in self.versions if slot in schema.SLOTS]

    @property
    def ended(self) -> list[str]:
        """Clips of the manifest whose outcome is known."""
        return list(self._outcomes)

    @property
    def clips_ended(self) -> int:
        """Clips of the manifest whose outcome is known."""
        return len(self._outcomes)

    @property
    def outcomes(self) -> dict[str, int]:
        """Clips that are done, empty and quarantined."""
        counts = Counter(self._outcomes.values())
        return {status: counts[status] for status in ("done", "empty", "quarantined")}

    @property
    def unaccounted(self) -> list[str]:
        """Clips that have not ended: at the end of a run there must be none."""
        return sorted(clip_id for clips in self._open.values() for clip_id in clips)

    def add(self, accounts: pa.Table) -> None:
        """Take in committed chunks: rows of chunks.ACCOUNT."""
        for account in accounts.to_pylist():
            clip_id = account["clip_id"]
            state = self.plan.states[clip_id]
            for slot in account["slots"]:
                # an account with an error ends the clip for this run, though the ledger does not believe in that end
                state.add(slot, account)
            if account["error"] is not None:
                state.error = account["error"]
            if "face" in account["slots"] and account["error"] is None:
                self.frames += account["count"]
                self.faces += account["faces"]
            self._close_if_ended(clip_id)
            shard = self._shard_of[clip_id]
            if not self._open[shard] and clip_id in self._outcomes:
                self._write_shard(shard)

    def _close_if_ended(self, clip_id: str) -> None:
        state = self.plan.states[clip_id]
        if state.ended(self.slots):
            self._outcomes[clip_id] = _status(state)
            self._open[self._shard_of[clip_id]].discard(clip_id)

    def _write_shard(self, shard: str) -> None:
        """Write `quarantine`, then `clips`, of a finished shard; rows of clips that this corpus does not name stay."""
        mine = {clip["clip_id"] for clip in self._rows[shard]}
        before, complete_for = store.read_shard(self.output, "clips", self.versions["clips"], shard)
        others = [row for row in before.to_pylist() if row["clip_id"] not in mine]
        slots = {slot: self.versions[slot] for slot in self.slots}
        # others may be complete for other versions; then the file vouches for none, and plans read the footers
        vouched = slots if not others or complete_for == slots else {}
        rows = [self.plan.settled.get(clip["clip_id"]) or self._clip_row(clip) for clip in self._rows[shard]]
        kept, _ = store.read_shard(self.output, "quarantine", self.versions["quarantine"], shard)
        known = {row["clip_id"]: row for row in kept.to_pylist()}
        quarantined = [row for row in known.values() if row["clip_id"] not in mine]
        for clip, row in zip(self._rows[shard], rows, strict=True):
            if row["status"] == "quarantined":
                quarantined.append(self._quarantine_row(clip, known.get(clip["clip_id"])))
        self._write("quarantine", shard, quarantined, {})
        self._write("clips", shard, [*others, *rows], vouched)

    def _write(self, name: str, shard: str, rows: list[dict], vouched: Mapping[str, str]) -> None:
        rows = sorted(rows, key=lambda row: row["clip_id"])
        table = pa.Table.from_pylist(rows, schema=schema.table_schema(name))
        store.write_shard(self.output, name, self.versions[name], shard, table, vouched)

    def _clip_row(self, clip: Mapping) -> dict:
        state = self.plan.states[clip["clip_id"]]
        status = _status(state)
        reason = None
        if state.error is not None:
            reason = state.error["message"]
        elif status == "empty":
            reason = "the video has no frame in the wanted time range"
        error_class = state.error["error_class"] if state.error else None
        facts = {"status": status, "reason": reason, "error_class": error_class, "faces": state.faces}
        return {**clip, **(state.video or {}), **facts}

    def _quarantine_row(self, clip: Mapping, known: Mapping | None) -> dict:
        state = self.plan.states.get(clip["clip_id"])
        if state is None or state.error is None:
            return dict(known or {**clip, "stage": None, "error_class": None, "message": None, "attempts": None})
        return {
            **{name: clip[name] for name in ("clip_id", "uri", "member", "shard", "fingerprint")},
            **state.error,
            "attempts": state.error.get("attempts") or 1,
        }


def _status(state: ClipState) -> str:
    if state.error is not None:
        return "quarantined"
    return "done" if state.end else "empty"
