"""Versions of what is not a model: which frames are decoded, and how tracks and identities are made."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from pipeline.config.models import Config, DecodeConfig
from pipeline.identity.overrides import digest_decisions, read_decisions
from pipeline.tables import parquet
from pipeline.tables.parquet import Output

DECODE_ALGORITHM = 1  # raised when decoding gives other pixels, indices or times
AGGREGATE_ALGORITHM = 4  # raised when the same faces give other tracks or identities


def digest(*content: Any) -> str:
    """12 hex digits of BLAKE2b over plain values."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()


def clips_version(decode: DecodeConfig) -> str:
    """Version of `clips` and `quarantine`; every model's version depends on it. Chunk sizes do not enter."""
    return digest("decode", DECODE_ALGORITHM, decode.every, decode.fps, decode.max_pixels)


def aggregate_version(
    output: Output, versions: Mapping[str, str], config: Config, same_person_cosine: float | None
) -> str:
    """Version of `tracks` and `identities`: it follows from all that they are made of, the clips among it."""
    clips = parquet.read_version(output, "clips", versions["clips"], ["clip_id", "fingerprint", "status"])
    done = clips.filter(pc.equal(clips["status"], "done")).sort_by("clip_id")
    corpus = hashlib.blake2b(digest_size=8)
    for clip_id, fingerprint in zip(done["clip_id"].to_pylist(), done["fingerprint"].to_pylist(), strict=True):
        corpus.update(f"{clip_id} {fingerprint}\n".encode())
    return digest(
        "aggregate",
        AGGREGATE_ALGORITHM,
        versions["face"],
        versions.get("embeddings"),
        versions.get("pose"),
        config.tracks.model_dump(mode="json"),
        config.identities.model_dump(mode="json"),
        same_person_cosine,
        corpus.hexdigest(),
        digest_decisions(read_decisions(output)),
    )
