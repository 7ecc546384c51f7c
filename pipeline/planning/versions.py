"""Versions of models (by slot) and of rows (by table), and the versions of what is not a model.

slot "face"   version = model, weights, parameters, input     SlotVersions   (a bundle states them)
table "faces" version = that of its slot                      TableVersions  (current.json states them)
table "clips" version = the sampling                          TableVersions
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NewType

from pipeline import schema
from pipeline.config.models import DecodeConfig

DECODE_ALGORITHM = 2  # raised when decoding gives other pixels, indices or times

#: slot -> version of its model
SlotVersions = NewType("SlotVersions", Mapping[str, str])
#: table -> version of its rows
TableVersions = NewType("TableVersions", Mapping[str, str])


def digest_values(*content: Any) -> str:
    """12 hex digits of BLAKE2b over plain values."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()


def clips_version(decode: DecodeConfig) -> str:
    """Version of `clips` and `quarantine`; every model's version depends on it. Chunk sizes do not enter."""
    return digest_values("decode", DECODE_ALGORITHM, decode.every, decode.fps, decode.max_pixels, decode.clock)


def tables_of(slots: SlotVersions, clips: str) -> TableVersions:
    """Versions of the tables that a run fills chunk by chunk and shard by shard: all but those of the snapshot.

    Args:
        slots: versions of the models.
        clips: version of `clips`, which `quarantine` shares.
    """
    tables = {schema.TABLE_OF_SLOT[slot]: version for slot, version in slots.items()}
    return TableVersions({**tables, "clips": clips, "quarantine": clips})
