"""The faces of one clip, joined with the other slots, tracks and identities: for readers that go clip by clip.

Only files whose ledger names the clip are read. In memory are the rows of one clip and, of each slot that is asked
for, the last file that was read: clips that follow each other in a shard often share it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.arrays import join_faces
from pipeline.errors import ConfigError, OutputError
from pipeline.storage import fs
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.shard_file import are_closed_early

_BY_FRAME = [("frame", "ascending"), ("face", "ascending")]
_OF_TRACKS = ["clip_id", "track_id", "identity_id", "subject", "frames", "members"]


class ClipReader:
    """The current tables of an output; keeps the ledgers and tracks of one shard, so ask shard by shard.

    Attributes:
        output: where.
        current: table -> current version.
    """

    def __init__(self, output: Output, subject: bool = False) -> None:
        """Read which versions are current.

        Args:
            output: where.
            subject: give no faces but those of tracks that are their clip's subject.

        Raises:
            OutputError: there are no tables, or not those of faces and clips yet.
        """
        self.output, self._subject = output, subject
        self.current = parquet.require_current(output)
        if "faces" not in self.current or "clips" not in self.current:
            raise OutputError(f"{output.root} has no table faces or clips yet; run `faceatlas annotate`")
        self._shard = ""
        self._ledgers: dict[str, pa.Table] = {}
        self._files: dict[str, tuple[str, pa.Table]] = {}
        self._tracks: pa.Table | None = None

    @property
    def slots(self) -> list[str]:
        """Slots that have a current table."""
        return [slot for slot in schema.SLOTS if schema.TABLE_OF_SLOT[slot] in self.current]

    def clips(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The table `clips`."""
        return self.whole("clips", columns)

    def whole(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a current table; none if it was never written."""
        return parquet.read_version(self.output, name, self.current.get(name, "none"), columns)

    def faces(self, clip: Mapping[str, Any], slots: Sequence[str] = ()) -> pa.Table:
        """A clip's faces, one row each, sorted by frame and face.

        Args:
            clip: row of `clips`; `clip_id` and `shard` are read.
            slots: other slots whose columns are wanted.

        Returns:
            `schema.slot_schema("face")`, the columns of the slots in the order given (null where a slot has no row for
            a face), `track_id` and `identity_id` (null: in no track, in no identity).
        """
        if clip["shard"] != self._shard:
            self._shard, self._ledgers, self._files, self._tracks = clip["shard"], {}, {}, None
        faces = self._rows("face", clip["clip_id"]).sort_by(_BY_FRAME)
        for slot in slots:
            if slot != "face":
                faces = join_faces(faces, self._rows(slot, clip["clip_id"]))
        if self._tracks is None:
            version = self.current.get("tracks", "none")
            self._tracks = parquet.read_version(self.output, "tracks", version, _OF_TRACKS, shard=self._shard)
        tracks = _of_clip(self._tracks, clip["clip_id"])
        faces = join_faces(faces, track_members(tracks.drop_columns(["subject"])))
        if self._subject:
            subjects = tracks.filter(pc.equal(tracks["subject"], True))["track_id"]
            faces = faces.filter(pc.is_in(faces["track_id"], value_set=subjects.combine_chunks()))
        return faces

    def _rows(self, slot: str, clip_id: str) -> pa.Table:
        """The rows of a clip in a slot's table, in no order."""
        table, rows_schema = schema.TABLE_OF_SLOT[slot], schema.slot_schema(slot)
        if table not in self.current:
            return rows_schema.empty_table()
        if slot not in self._ledgers:
            self._ledgers[slot] = parquet.read_ledger(self.output, table, self.current[table], self._shard)
        paths = _of_clip(self._ledgers[slot], clip_id)["path"].to_pylist()
        parts = [_of_clip(self._file(slot, path), clip_id) for path in dict.fromkeys(paths)]
        return pa.concat_tables([rows_schema.empty_table(), *parts])

    def _file(self, slot: str, path: str) -> pa.Table:
        if slot not in self._files or self._files[slot][0] != path:
            self._files.pop(slot, None)  # freed before the next one is read
            self._files[slot] = path, parquet.read_columns(self.output, path, schema.slot_schema(slot))
        return self._files[slot][1]


def _of_clip(table: pa.Table, clip_id: str) -> pa.Table:
    return table.filter(pc.equal(table["clip_id"], clip_id))


def track_members(tracks: pa.Table) -> pa.Table:
    """The faces of tracks, one row each, in the order of the tracks.

    Args:
        tracks: `frames` and `members` of `schema.TRACKS`, and any other columns.

    Returns:
        The other columns, repeated for each face, and `frame` and `face`.
    """
    tracks = tracks.combine_chunks()
    row_F = np.repeat(np.arange(tracks.num_rows), pc.list_value_length(tracks["frames"]).to_numpy())
    members = tracks.drop_columns(["frames", "members"]).take(pa.array(row_F))
    for name, lists in (("frame", tracks["frames"]), ("face", tracks["members"])):
        members = members.append_column(name, pc.list_flatten(lists))
    return members


def name_of(clip: Mapping[str, Any]) -> str:
    """The user's name of a clip, else its id."""
    return str(clip["key"] or clip["clip_id"])


def choose_clips(clips: pa.Table, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The done clips by shard and key; or those whose id, key, uri or local path is named, in that order.

    A clip that an earlier build closed early is not done: it has a part of its frames, and no facts of its video.

    Raises:
        ConfigError: no such clip, or one that is not done.
    """
    status = pc.if_else(are_closed_early(clips), "closed early (annotate again to complete it)", clips["status"])
    clips = clips.set_column(clips.column_names.index("status"), "status", status)
    done = clips.filter(pc.equal(clips["status"], "done"))
    order = [("shard", "ascending"), ("key", "ascending"), ("clip_id", "ascending")]
    if not names:
        return done.sort_by(order).to_pylist()
    full = {name: fs.normalise_uri(name) for name in names}
    wanted = pa.array([*names, *full.values()], pa.string())
    masks = [pc.is_in(clips[column], value_set=wanted) for column in ("clip_id", "key", "uri")]
    found = clips.filter(pc.or_(pc.or_(masks[0], masks[1]), masks[2])).sort_by(order).to_pylist()
    known = {row[column] for row in found for column in ("clip_id", "key", "uri")}
    if unknown := [name for name in names if known.isdisjoint((name, full[name]))]:
        some = ", ".join(name_of(row) for row in done.sort_by(order).slice(0, 3).to_pylist()) or "none that is done"
        raise ConfigError(
            f"there is no clip with the id, key or uri {', '.join(unknown)}; there is, for example: {some}"
        )
    if other := [row for row in found if row["status"] != "done"]:
        raise ConfigError(f"clip {name_of(other[0])} has no faces to show: it is {other[0]['status']}")
    place = {text: i for i, name in reversed(list(enumerate(names))) for text in (full[name], name)}
    return sorted(found, key=lambda row: min(place[row[c]] for c in ("clip_id", "key", "uri") if row[c] in place))
