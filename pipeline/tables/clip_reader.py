"""All that the tables in force say of one clip, for readers that go clip by clip."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import ConfigError, OutputError
from pipeline.storage.output import Output
from pipeline.tables import parquet

_BY_FRAME = [("frame", "ascending"), ("face", "ascending")]


class ClipTables:
    """The tables in force of an output; keeps the ledgers and tracks of one shard, so ask shard by shard.

    Attributes:
        output: where.
        current: table -> version in force.
    """

    def __init__(self, output: Output) -> None:
        """Read which versions are in force.

        Raises:
            OutputError: there are no tables.
        """
        self.output = output
        self.current = parquet.read_current(output)
        if "faces" not in self.current or "clips" not in self.current:
            raise OutputError(f"{output.root} holds no Faceatlas tables; give the OUT of an annotate run")
        self._shard = ""
        self._ledgers: dict[str, pa.Table] = {}
        self._tracks: pa.Table | None = None

    @property
    def slots(self) -> list[str]:
        """Slots whose table is there."""
        return [slot for slot in schema.SLOTS if schema.TABLE_OF_SLOT[slot] in self.current]

    def clips(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The table `clips`."""
        return parquet.read_version(self.output, "clips", self.current["clips"], columns)

    def whole(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A table in force; without rows if it was never written."""
        return parquet.read_version(self.output, name, self.current.get(name, "none"), columns)

    def rows(self, slot: str, clip: Any) -> pa.Table:
        """The rows of a clip (a row of `clips`) in a slot's table, sorted by frame and face."""
        self._enter(clip["shard"])
        table = schema.TABLE_OF_SLOT[slot]
        if table not in self.current:
            return schema.slot_schema(slot).empty_table()
        if slot not in self._ledgers:
            self._ledgers[slot] = parquet.read_ledger(self.output, table, self.current[table], clip["shard"])
        ledger = self._ledgers[slot]
        mine = ledger.filter(pc.equal(ledger["clip_id"], clip["clip_id"]))
        parts = [parquet.read_file(self.output, path) for path in dict.fromkeys(mine["path"].to_pylist())]
        parts = [part.filter(pc.equal(part["clip_id"], clip["clip_id"])) for part in parts]
        rows = pa.concat_tables([*parts]) if parts else schema.slot_schema(slot).empty_table()
        return rows.sort_by(_BY_FRAME)

    def tracks(self, clip: Any) -> list[dict[str, Any]]:
        """The clip's tracks: identity, frames and members, by first frame and number of the first face."""
        self._enter(clip["shard"])
        if self._tracks is None:
            columns = ["track_id", "clip_id", "identity_id", "first_frame", "last_frame", "frames", "members"]
            version = self.current.get("tracks", "none")
            self._tracks = parquet.read_version(self.output, "tracks", version, columns, shard=clip["shard"])
        mine = self._tracks.filter(pc.equal(self._tracks["clip_id"], clip["clip_id"]))
        return sorted(mine.to_pylist(), key=lambda track: (track["first_frame"], track["members"][0]))

    def identity_of_face(self, clip: Any) -> dict[tuple[int, int], str | None]:
        """(frame, face) -> identity_id, None where the track is in no identity."""
        of_face: dict[tuple[int, int], str | None] = {}
        for track in self.tracks(clip):
            of_face.update(dict.fromkeys(zip(track["frames"], track["members"], strict=True), track["identity_id"]))
        return of_face

    def faces(self, clip: Any, slots: Sequence[str]) -> list[dict[str, Any]]:
        """The clip's faces by frame and number: columns of `face` and of other slots, and `identity_id`.

        Columns of a slot that has no row for a face are left out.
        """
        identity_of = self.identity_of_face(clip)
        others = [{(row["frame"], row["face"]): row for row in self.rows(slot, clip).to_pylist()} for slot in slots]
        faces = self.rows("face", clip).to_pylist()
        for face in faces:
            place = (face["frame"], face["face"])
            for rows in others:
                face |= rows.get(place, {})
            face["identity_id"] = identity_of.get(place)
        return faces

    def _enter(self, shard: str) -> None:
        if shard != self._shard:
            self._shard, self._ledgers, self._tracks = shard, {}, None


def name_of(clip: Any) -> str:
    """What people call a clip."""
    return str(clip["key"] or clip["clip_id"])


def choose_clips(clips: pa.Table, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The done clips by shard and key; or those whose id, key or uri is named, in that order.

    Raises:
        ConfigError: no such clip, or one that is not done.
    """
    done = clips.filter(pc.equal(clips["status"], "done"))
    order = [("shard", "ascending"), ("key", "ascending"), ("clip_id", "ascending")]
    if not names:
        return done.sort_by(order).to_pylist()
    wanted = pa.array(list(names), pa.string())
    masks = [pc.is_in(clips[column], value_set=wanted) for column in ("clip_id", "key", "uri")]
    found = clips.filter(pc.or_(pc.or_(masks[0], masks[1]), masks[2])).sort_by(order).to_pylist()
    known = {row[column] for row in found for column in ("clip_id", "key", "uri")}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no clip with the id, key or uri {', '.join(unknown)}")
    if other := [row for row in found if row["status"] != "done"]:
        raise ConfigError(f"clip {name_of(other[0])} has no faces to show: it is {other[0]['status']}")
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    return sorted(found, key=lambda row: min(place[row[c]] for c in ("clip_id", "key", "uri") if row[c] in place))
