"""The version of a snapshot of tracks and identities: it follows from all that they are made of."""

import hashlib

import pyarrow.compute as pc

from pipeline.identity.overrides import digest_overrides, read_overrides
from pipeline.planning.versions import digest_values
from pipeline.runs.context import RunContext
from pipeline.tables import parquet

AGGREGATE_ALGORITHM = 5  # raised when the same faces give other tracks or identities


def aggregate_version(context: RunContext, same_person_cosine: float | None) -> str:
    """Version of `tracks` and `identities`: it follows from all that they are made of, the clips among it."""
    output, config, slots = context.open(), context.config, context.slots
    clips = parquet.read_version(output, "clips", context.tables["clips"], ["clip_id", "fingerprint", "status"])
    done = clips.filter(pc.equal(clips["status"], "done")).sort_by("clip_id")
    corpus = hashlib.blake2b(digest_size=8)
    for clip_id, fingerprint in zip(done["clip_id"].to_pylist(), done["fingerprint"].to_pylist(), strict=True):
        corpus.update(f"{clip_id} {fingerprint}\n".encode())
    return digest_values(
        "aggregate",
        AGGREGATE_ALGORITHM,
        slots["face"],
        slots.get("embeddings"),
        slots.get("pose"),
        config.tracks.model_dump(mode="json"),
        config.identities.of_versions(),
        same_person_cosine,
        corpus.hexdigest(),
        digest_overrides(read_overrides(output)),
    )
