"""Tombstones: the clips and faces that were erased and must not come back.

    OUT/tombstones/<name>.parquet

A tombstone holds a pseudonym of the clip, a hash of its id, never the id: a search of the output for the id finds
nothing, but a plan, which has the id from the manifest, recognizes it. For an erased source it holds a hash of the URI,
so that clips that a later manifest cuts out of it are recognized too. For a person in a clip that stays, it holds the
boxes of their faces: faces found there again are not written. Boxes carry no likeness.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.geometry import box_iou
from pipeline.storage.output import Output
from pipeline.tables import parquet

FOLDER = "tombstones"
SAME_FACE_IOU = 0.5  # a face that overlaps an erased one by this much is that face again
_NO_BOXES = np.empty((0, 4), np.float32)

TOMBSTONES = pa.schema(
    [
        schema.field(
            "clip", pa.string(), "16 hex digits of BLAKE2b over the clip_id or the source's URI", nullable=False
        ),
        schema.field("frame", pa.int64(), "frame of a face; null: the whole clip"),
        schema.field("box", pa.list_(pa.float32(), 4), "x1 y1 x2 y2 of the face", "px"),
    ]
)


def pseudonymize(identifier: str) -> str:
    """The pseudonym of a clip, source or identity in tombstones and audit files: 16 hex digits of BLAKE2b."""
    return hashlib.blake2b(identifier.encode(), digest_size=8, person=b"faceatlas.forget").hexdigest()


def erased_pseudonyms(output: Output) -> frozenset[str]:
    """Pseudonyms of the clips and sources that are erased as a whole."""
    table = read_tombstones(output)
    return frozenset(table.filter(table["frame"].is_null())["clip"].to_pylist())


def write_tombstones(output: Output, clips: Iterable[str], faces: Iterable[tuple[str, int, Sequence[float]]]) -> None:
    """Leave tombstones of clips or sources (ids, URIs) and of faces (clip_id, frame, box); repeating is harmless."""
    rows: list[dict[str, Any]] = [{"clip": pseudonymize(clip), "frame": None, "box": None} for clip in sorted(clips)]
    rows += [{"clip": pseudonymize(clip), "frame": frame, "box": list(box)} for clip, frame, box in sorted(faces)]
    name = hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()
    parquet.write_parquet(output, f"{FOLDER}/{name}.parquet", pa.Table.from_pylist(rows, schema=TOMBSTONES))


def drop_erased_faces(rows: pa.Table, output: Output) -> pa.Table:
    """Chunks (schema.FLOW) without the faces found in this run that lie on an erased one."""
    tombstones = read_tombstones(output)
    tombstones = tombstones.filter(tombstones["frame"].is_valid())
    pseudonyms = [pseudonymize(clip_id) for clip_id in rows["clip_id"].to_pylist()]
    mine = tombstones.filter(pc.is_in(tombstones["clip"], value_set=pa.array(pseudonyms, pa.string()))).to_pylist()
    if not mine:
        return rows
    stones: dict[tuple[str, int], list[list[float]]] = {}
    for stone in mine:
        stones.setdefault((stone["clip"], stone["frame"]), []).append(stone["box"])
    boxes = {place: np.array(found, np.float32) for place, found in stones.items()}
    changed = []
    for row, name in zip(rows.to_pylist(), pseudonyms, strict=True):
        if row["face"] and row["face_number"] is None:
            frames = [row["frames"][i] for i in row["face_index"]]
            faces = np.array(row["face"], np.float32).reshape(len(frames), -1)
            keep = [
                not (box_iou(faces[i, :4], boxes.get((name, frame), _NO_BOXES)) >= SAME_FACE_IOU).any()
                for i, frame in enumerate(frames)
            ]
            for column in ("face_index", *schema.SLOTS):
                if row[column] is not None:
                    row[column] = np.array(row[column]).reshape(len(frames), -1)[keep].ravel()
        changed.append(row)
    return pa.Table.from_pylist(changed, schema=rows.schema)


def read_tombstones(output: Output) -> pa.Table:
    """All tombstones, schema TOMBSTONES."""
    tables = [parquet.read_file(output, path) for path in parquet.list_parquet(output, FOLDER)]
    return pa.concat_tables([TOMBSTONES.empty_table(), *(table.cast(TOMBSTONES) for table in tables)])


def are_erased(clips: pa.Table, tombstones: Collection[str]) -> np.ndarray:
    """Mask of the clips (schema.CLIP) that are erased as a whole, or whose source is."""
    erased = np.zeros(clips.num_rows, bool)
    for column in ("clip_id", "uri") if tombstones else ():
        pseudonyms = pa.array([pseudonymize(name) for name in clips[column].to_pylist()], pa.string())
        erased |= pc.is_in(pseudonyms, value_set=pa.array(sorted(tombstones))).to_numpy(zero_copy_only=False)
    return erased
