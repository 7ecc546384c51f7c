"""What must not come back: the clips and faces that `faceatlas forget` took out.

    OUT/tombstones/<name>.parquet

A tombstone holds a hash of the clip's id, never the id: who searches the output for the id finds nothing, but a plan,
which has the id from the manifest, recognises it. For a person in a clip that stays, it holds the boxes of that
person's faces: faces found there again are not written. Boxes say where not to look; they carry no likeness.
"""

import hashlib
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, store
from pipeline.store import Output

FOLDER = "tombstones"

TOMBSTONES = pa.schema(
    [
        schema.field("clip", pa.string(), "16 hex digits of BLAKE2b over the clip_id", nullable=False),
        schema.field("frame", pa.int64(), "frame of a face; null: the whole clip"),
        schema.field("box", pa.list_(pa.float32(), 4), "x1 y1 x2 y2 of the face", "px"),
    ]
)


def hide(clip_id: str) -> str:
    """The name of a clip in tombstones and audit files."""
    return hashlib.blake2b(clip_id.encode(), digest_size=8, person=b"faceatlas.forget").hexdigest()


def read_tombstones(output: Output) -> frozenset[str]:
    """Hidden names of the clips that are forgotten as a whole."""
    table = read_all(output)
    return frozenset(table.filter(table["frame"].is_null())["clip"].to_pylist())


def read_all(output: Output) -> pa.Table:
    """All tombstones, schema TOMBSTONES."""
    tables = [store.read_file(output, path) for path in store.list_files(output, FOLDER)]
    return pa.concat_tables([TOMBSTONES.empty_table(), *(table.cast(TOMBSTONES) for table in tables)])


def are_forgotten(clip_ids: pa.ChunkedArray, tombstones: Collection[str]) -> np.ndarray:
    """Mask of the clips that are forgotten as a whole."""
    if not tombstones:
        return np.zeros(len(clip_ids), bool)
    hidden = pa.array([hide(clip_id) for clip_id in clip_ids.to_pylist()], pa.string())
    return pc.is_in(hidden, value_set=pa.array(sorted(tombstones))).to_numpy(zero_copy_only=False)
