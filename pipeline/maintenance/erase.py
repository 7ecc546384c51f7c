"""Erasing clips, sources or a person from an output, permanently.

    1. tombstones/pending.json   all that is to go, resolved once: from here on, the next erasure or run finishes it
    2. tombstones                a run does not bring it back (pipeline/tables/tombstones.py)
    3. tables of the slots       every version; those that depend on faces first, `faces` last
    4. tracks, identities        the current snapshot; older ones are removed
    5. clips, quarantine, and other files that name a clip: run records, reports
    6. audit/<time>.json         what was done, by pseudonyms; then pending.json is removed

Each file is replaced in one step and each step may be repeated, so a crash anywhere leaves work that the next
erasure or run finishes, and no reader sees a row of a face that `faces` lacks.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.arrays import FACE_KEY, columns_to_matrix, match_faces, pair_faces, to_matrix
from pipeline.errors import ConfigError
from pipeline.geometry import box_iou
from pipeline.identity.overrides import erase_tracks
from pipeline.runs.history import faces_versions
from pipeline.storage import fs
from pipeline.storage.output import Output, write_bytes
from pipeline.tables import parquet
from pipeline.tables.clip_reader import track_members
from pipeline.tables.shard_file import read_shard, remove_rows, rewrite_shard
from pipeline.tables.tombstones import FOLDER, SAME_FACE_IOU, pseudonymize, write_tombstones
from pipeline.tracking.faces import unit_embeddings

PENDING = f"{FOLDER}/pending.json"

Key = tuple[str, int, int]  # clip_id, frame, face
_KEYS = pa.schema([(name, schema.slot_schema("face").field(name).type) for name in FACE_KEY])
_BOX = ("box_x1", "box_y1", "box_x2", "box_y2")


@dataclass
class Removal:
    """All that is to be removed.

    Attributes:
        kind: clip, source or identity.
        clips: whole clips.
        identifiers: texts that name them: ids, uris, members.
        identity: person, with `faces` (clip_id, frame, box), `keys` (table -> version -> faces) and `tracks`.
        totals: clip_id -> faces that the clip keeps.
        sources: URIs of which nothing is to come back.
    """

    kind: str
    clips: list[str] = field(default_factory=list)
    identifiers: list[str] = field(default_factory=list)
    identity: str | None = None
    faces: list[tuple[str, int, list[float]]] = field(default_factory=list)
    keys: dict[str, dict[str, list[Key]]] = field(default_factory=dict)
    tracks: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)


def find_clip(output: Output, name: str) -> str:
    """The clip_id of the clip that a user names by its id, key or uri.

    An id that no table holds is taken as it is: its clip may come in later, and is then left out.

    Raises:
        ConfigError: several clips have this key or uri, or none has and `name` is no id.
    """
    uri = fs.normalise_uri(name)
    ids = {row["clip_id"] for row in _clip_rows(output) if name in (row["clip_id"], row["key"]) or row["uri"] == uri}
    if len(ids) > 1:
        raise ConfigError(f"{len(ids)} clips have the key or uri {name}: {', '.join(sorted(ids))}; name one by its id")
    if ids:
        return ids.pop()
    if name in _stored_clips(output) or fs.is_clip_id(name):
        return name
    raise ConfigError(f"there is no clip with the id, key or uri {name}; see the table clips. Nothing was erased")


def erase_clip(output: Output, clip_id: str) -> dict[str, Any]:
    """Erase one clip; returns the audit record. The caller holds the lease."""
    rows = _clip_rows(output)
    return _begin(output, Removal("clip", [clip_id], _identifiers(rows, {clip_id})))


def erase_source(output: Output, uri: str, corpus: pa.Table | None = None) -> dict[str, Any]:
    """Erase all clips of a video file or tar shard, also those that a later manifest cuts out of it.

    The caller holds the lease.

    Args:
        output: where.
        uri: of the file.
        corpus: clips (schema.CLIP) that the output was made from; without it, clips are known by their sources only
            when their shard is finished.

    Returns:
        The audit record.

    Raises:
        ConfigError: without a corpus, if chunks are stored of clips whose source is not known.
    """
    full = fs.normalise_uri(uri)
    rows = _clip_rows(output) + ([] if corpus is None else corpus.select(["clip_id", "uri", "member"]).to_pylist())
    clips = {row["clip_id"] for row in rows if row["uri"] == full} | {fs.clip_id(full, None, None, None)}
    unknown = _stored_clips(output) - {row["clip_id"] for row in rows} - clips
    if unknown and corpus is None:
        raise ConfigError(
            f"{output.root} holds chunks of {len(unknown)} clips of unfinished shards, whose sources only the corpus "
            "names; some may be of this one. Give --corpus, or let `annotate` finish first."
        )
    return _begin(output, Removal("source", sorted(clips), sorted({*_identifiers(rows, clips), full}), sources=[full]))


def erase_identity(output: Output, identity_id: str) -> dict[str, Any]:
    """Erase the faces of one person; returns the audit record. The caller holds the lease.

    The clips stay, with the other people in them. In clips that come later the person is a new one: nothing is kept
    by which to recognize them.

    Raises:
        ConfigError: no such identity.
    """
    current = parquet.read_current(output)
    tracks = parquet.read_version(output, "tracks", current.get("tracks", "none"))
    tracks = tracks.filter(pc.equal(tracks["identity_id"], identity_id))
    if not tracks.num_rows:
        raise ConfigError(f"no current track belongs to identity {identity_id!r}; see the table identities")
    members = track_members(tracks.select(["clip_id", "frames", "members"]))
    clips = sorted(pc.unique(members["clip_id"]).to_pylist())
    stored = _boxes(output, current["faces"], clips)
    faces = stored.take(match_faces(members, stored).drop_null())
    removal = Removal(
        "identity", identifiers=[identity_id], identity=identity_id, tracks=tracks["track_id"].to_pylist()
    )
    removal.faces = list(zip(*(faces[name].to_pylist() for name in ("clip_id", "frame", "box")), strict=True))
    lost = Counter(faces["clip_id"].to_pylist())
    removal.totals = {clip: count - lost[clip] for clip, count in Counter(stored["clip_id"].to_pylist()).items()}
    of_version = {v: _same_faces(output, v, clips, faces) for v in parquet.table_versions(output, "faces")}
    for slot, table in schema.TABLE_OF_SLOT.items():
        for version in parquet.table_versions(output, table):
            known = {version} if slot == "face" else faces_versions(output, slot, version) & set(of_version)
            # a table whose faces version is unknown loses all faces of these frames: rather too many than too few
            found = {key for v in known for key in of_version[v]} if known else _faces_of_frames(removal, 1 << 8)
            removal.keys.setdefault(table, {})[version] = sorted(found)
    return _begin(output, removal)


def finish_erasure(output: Output) -> dict[str, Any] | None:
    """Finish a removal that was cut off; returns its audit record, if there is one. The caller holds the lease."""
    try:
        pending = json.loads(output.fs.cat_file(output.path(PENDING)))
    except FileNotFoundError:
        return None
    if "words" in pending:  # as 0.1 named it
        pending["identifiers"] = pending.pop("words")
    return _carry_out(output, Removal(**pending))


def _begin(output: Output, removal: Removal) -> dict[str, Any]:
    finish_erasure(output)
    write_bytes(output, PENDING, json.dumps(asdict(removal)).encode())
    return _carry_out(output, removal)


def _carry_out(output: Output, removal: Removal) -> dict[str, Any]:
    write_tombstones(
        output, [*removal.clips, *removal.sources], [(clip, frame, box) for clip, frame, box in removal.faces]
    )
    gone: Counter[str] = Counter()
    for slot in reversed(schema.SLOTS):
        table = schema.TABLE_OF_SLOT[slot]
        for version in parquet.table_versions(output, table):
            gone[f"{table}/{version}"] += _clean_slot(output, table, version, removal)
    _clean_snapshots(output, removal, gone)
    clips, current = pa.array(removal.clips, pa.string()), parquet.read_current(output)
    for name in ("quarantine", "clips"):
        for version in parquet.table_versions(output, name):
            for shard in _shards(output, name, version):
                gone[f"{name}/{version}"] += remove_rows(output, name, version, shard, clips)
                if name == "clips" and removal.totals and version == current.get("clips"):
                    _count_again(output, version, shard, removal.totals)
    others = _clean_documents(output, removal)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    audit = {
        "time": now,
        "kind": removal.kind,
        "clips": [pseudonymize(clip_id) for clip_id in removal.clips],
        "identity": pseudonymize(removal.identity) if removal.identity else None,
        "rows": {name: rows for name, rows in sorted(gone.items()) if rows},
        "documents": others,
    }
    write_bytes(output, f"audit/{now}.json", (json.dumps(audit, indent=2) + "\n").encode())
    output.fs.rm_file(output.path(PENDING))
    return audit


# -- what is to go ----------------------------------------------------------------------------------------------------


def _clip_rows(output: Output) -> list[dict]:
    versions = parquet.table_versions(output, "clips")
    tables = [
        parquet.read_version(output, "clips", version, ["clip_id", "uri", "member", "key"]) for version in versions
    ]
    return [row for table in tables for row in table.to_pylist()]


def _stored_clips(output: Output) -> set[str]:
    """Ids of all clips of which a version of `faces` holds chunks."""
    ids: set[str] = set()
    for version in parquet.table_versions(output, "faces"):
        for shard in _shards(output, "faces", version):
            ids.update(parquet.read_ledger(output, "faces", version, shard)["clip_id"].unique().to_pylist())
    return ids


def _identifiers(rows: Iterable[dict], clips: set[str]) -> list[str]:
    """Texts that name these clips and no other."""
    rows = list(rows)
    shared = {row["uri"] for row in rows if row["clip_id"] not in clips}
    mine = [row for row in rows if row["clip_id"] in clips]
    members = {row["member"] for row in mine if row["member"]}
    return sorted({*clips, *members, *({row["uri"] for row in mine} - shared)})


def _boxes(output: Output, version: str, clips: list[str]) -> pa.Table:
    """FACE_KEY and `box` (x1 y1 x2 y2) of all faces of some clips in a version of `faces`."""
    rows = parquet.read_version(output, "faces", version, [*FACE_KEY, *_BOX])
    rows = rows.filter(pc.is_in(rows["clip_id"], value_set=pa.array(clips)))
    corners = pa.array(columns_to_matrix(rows, _BOX).ravel())
    return rows.select(FACE_KEY).append_column("box", pa.FixedSizeListArray.from_arrays(corners, 4))


def _same_faces(output: Output, version: str, clips: list[str], faces: pa.Table) -> list[Key]:
    """The faces of a version of `faces` that lie on the given ones (FACE_KEY, `box`)."""
    stored = _boxes(output, version, clips)
    row_P, other_P = pair_faces(stored, faces)
    iou_P = box_iou(to_matrix(stored["box"])[row_P], to_matrix(faces["box"])[other_P])
    same = stored.take(pa.array(np.unique(row_P[iou_P >= SAME_FACE_IOU])))
    return list(zip(*(same[name].to_pylist() for name in FACE_KEY), strict=True))


def _faces_of_frames(removal: Removal, most: int) -> set[Key]:
    return {(clip, frame, face) for clip, frame, _ in removal.faces for face in range(most)}


# -- tables -----------------------------------------------------------------------------------------------------------


def _shards(output: Output, name: str, version: str) -> list[str]:
    paths = parquet.list_parquet(output, parquet.partition(name, version))
    return sorted({path.split("/shard=")[1].split("/")[0] for path in paths if "/shard=" in path})


def _clean_slot(output: Output, table: str, version: str, removal: Removal) -> int:
    gone = 0
    named = removal.keys.get(table, {}).get(version, [])
    keys = pa.Table.from_pylist([dict(zip(FACE_KEY, key, strict=True)) for key in named], schema=_KEYS)
    clips_of_keys = pc.unique(keys["clip_id"])
    for shard in _shards(output, table, version):
        if removal.clips:
            gone += parquet.drop_clips(output, table, version, shard, removal.clips)
        if keys.num_rows:
            ledger = parquet.read_ledger(output, table, version, shard)
            for path in ledger.filter(pc.is_in(ledger["clip_id"], clips_of_keys))["path"].unique().to_pylist():
                gone += _drop_faces(output, path, keys)
    return gone


def _drop_faces(output: Output, path: str, keys: pa.Table) -> int:
    rows = parquet.read_file(output, path)
    out = match_faces(rows, keys).is_valid()
    lost = Counter(rows["clip_id"].filter(out).to_pylist())
    if not lost:
        return 0
    ledger = parquet.read_footer(output, path).select(parquet.LEDGER.names).to_pylist()
    for entry in ledger:  # a plan sums the faces of a clip; how they are spread over its chunks it does not ask
        less = min(entry["faces"], lost[entry["clip_id"]])
        entry["faces"] -= less
        lost[entry["clip_id"]] -= less
    parquet.replace_chunks(
        output, path, rows.filter(pc.invert(out)), pa.Table.from_pylist(ledger, schema=parquet.LEDGER)
    )
    return pc.sum(out).as_py()


def _clean_snapshots(output: Output, removal: Removal, gone: Counter[str]) -> None:
    """The current tracks and identities lose what is to go; other snapshots are removed."""
    current = parquet.read_current(output)
    for name in ("tracks", "identities", "ambiguous_pairs", "lineage"):
        for version in parquet.table_versions(output, name):
            if version != current.get(name):
                output.fs.rm(output.path(parquet.partition(name, version)), recursive=True)
    if "tracks" not in current:
        return
    files_of_tracks = parquet.list_parquet(output, parquet.partition("tracks", current["tracks"]))
    parts = {path: parquet.read_file(output, path) for path in files_of_tracks}
    outs = {path: _is_out(rows, removal) for path, rows in parts.items()}
    # overrides name tracks alone, so they are cleaned while the tracks can still be found
    erase_tracks(output, {t for path, rows in parts.items() for t in rows["track_id"].filter(outs[path]).to_pylist()})
    for path, rows in parts.items():
        if pc.any(outs[path]).as_py():
            parquet.write_parquet(output, path, rows.filter(pc.invert(outs[path])))
            gone[f"tracks/{current['tracks']}"] += pc.sum(outs[path]).as_py()
    tracks = {row["track_id"]: row for row in parquet.read_version(output, "tracks", current["tracks"]).to_pylist()}
    for path in parquet.list_parquet(output, parquet.partition("identities", current["identities"])):
        table = parquet.read_file(output, path)
        if "members" not in table.column_names:
            continue
        rows = [_identity_without(row, tracks) for row in table.to_pylist()]
        kept = [row for row in rows if row is not None]
        living = {row["identity_id"] for row in kept}
        kept = [row if row["next_identity_id"] in living else {**row, **_NO_NEXT} for row in kept]
        if kept != table.to_pylist():
            parquet.write_parquet(output, path, pa.Table.from_pylist(kept, schema=table.schema))
            gone[f"identities/{current['identities']}"] += len(rows) - len(kept)
    there = parquet.read_version(output, "identities", current["identities"], ["identity_id"])
    known = set(there["identity_id"].to_pylist())
    for name, (one, other) in {
        "ambiguous_pairs": ("identity_a", "identity_b"),
        "lineage": ("from_id", "to_id"),
    }.items():
        for path in parquet.list_parquet(output, parquet.partition(name, current.get(name, "none"))):
            table = parquet.read_file(output, path)
            # a lineage may name identities that are no more, a pair only those there are
            kept_rows = [
                row
                for row in table.to_pylist()
                if ({row[one], row[other]} <= known if name == "ambiguous_pairs" else True)
                and (removal.identity is None or removal.identity not in (row[one], row[other]))
            ]
            if len(kept_rows) < table.num_rows:
                parquet.write_parquet(output, path, pa.Table.from_pylist(kept_rows, schema=table.schema))
                gone[f"{name}/{current[name]}"] += table.num_rows - len(kept_rows)


def _is_out(tracks: pa.Table, removal: Removal) -> pa.Array:
    return pc.or_(
        pc.is_in(tracks["clip_id"], value_set=pa.array(removal.clips, pa.string())),
        pc.is_in(tracks["track_id"], value_set=pa.array(removal.tracks, pa.string())),
    )


_NO_NEXT = dict.fromkeys(("next_identity_id", "next_cosine", "margin"))


def _identity_without(row: dict, tracks: dict[str, dict]) -> dict | None:
    """An identity described by the tracks that are left; None if there are none. The next run describes it again."""
    members = [tracks[name] for name in row["members"] if name in tracks]
    if len(members) == len(row["members"]):
        return row
    if not members:
        return None
    from pipeline.identity.summary import describe_members  # with numba, which takes a second to load

    embedding = pa.chunked_array([pa.array([t["embedding"] for t in members], schema.TRACKS.field("embedding").type)])
    unit_MD, _ = unit_embeddings(embedding)
    quality_M = np.nan_to_num(np.array([t["quality"] or 0.0 for t in members], np.float32))
    # which of them are too weak for the center, only a clustering knows
    center_D, cohesion, best = describe_members(unit_MD, quality_M, np.ones(len(members), bool))
    return {
        **row,
        **_NO_NEXT,
        "members": [t["track_id"] for t in members],
        "tracks": len(members),
        "clips": len({t["clip_id"] for t in members}),
        "faces": sum(t["faces"] for t in members),
        "embedding": center_D.tolist(),
        "cohesion": cohesion,
        "representative_clip_id": members[best]["clip_id"],
        "representative_frame": members[best]["representative_frame"],
        "representative_face": members[best]["representative_face"],
    }


def _count_again(output: Output, version: str, shard: str, totals: dict[str, int]) -> None:
    rows, complete_for = read_shard(output, "clips", version, shard)
    faces = [totals.get(c, n) for c, n in zip(rows["clip_id"].to_pylist(), rows["faces"].to_pylist(), strict=True)]
    if faces != rows["faces"].to_pylist():
        place = rows.column_names.index("faces")
        rows = rows.set_column(place, schema.CLIPS.field("faces"), pa.array(faces, pa.int64()))
        rewrite_shard(output, "clips", version, shard, rows, complete_for)


# -- everything else --------------------------------------------------------------------------------------------------


def _clean_documents(output: Output, removal: Removal) -> dict[str, str]:
    """Run records lose the identifiers; other text that names them, and files of killed writers, are removed."""
    identifiers = [text.encode() for text in removal.identifiers]
    done: dict[str, str] = {}
    for full in map(str, output.fs.find(output.root)):
        path = full[len(output.root) + 1 :]
        left_behind = path.rsplit("/", 1)[-1].startswith(".")
        if (path.endswith(".parquet") and not left_behind) or path.split("/")[0] in (FOLDER, "audit", "lease"):
            continue
        data = output.fs.cat_file(full)
        if not left_behind and not any(text in data for text in identifiers):
            continue
        if path.startswith("runs/"):
            cleaned = _without_identifiers(json.loads(data), removal.identifiers)
            write_bytes(output, path, (json.dumps(cleaned, indent=2) + "\n").encode())
            done[path] = "cleaned"
        else:
            output.fs.rm_file(full)
            done[path] = "removed"
    return done


def _without_identifiers(value: Any, identifiers: list[str]) -> Any:
    """A JSON value in which no text names them: items of lists are left out, other texts become `erased`."""
    if isinstance(value, dict):
        return {key: _without_identifiers(item, identifiers) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_identifiers(item, identifiers) for item in value if not _is_named(item, identifiers)]
    return "erased" if _is_named(value, identifiers) else value


def _is_named(value: Any, identifiers: list[str]) -> bool:
    return isinstance(value, str) and any(identifier in value for identifier in identifiers)
