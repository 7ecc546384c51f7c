"""The last aggregation: tracks of every shard (Ray tasks), then identities over the whole corpus.

`tracks` and `identities` are snapshots: each aggregation writes a version of its own, and `current.json` switches to
both at once, so that no reader ever sees tracks of one clustering beside identities of another.
"""

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, store
from pipeline.chunks import Job
from pipeline.config import Config
from pipeline.identities import cluster_tracks
from pipeline.tracks import link_shard


def aggregate(
    out: str,
    versions: Mapping[str, str],
    config: Config,
    same_person_cosine: float | None,
    start_ray: Callable[[], None],
) -> tuple[int, int]:
    """Make tracks and identities of all done clips, unless this very snapshot is there already.

    Args:
        out: output folder.
        versions: of the slots and of `clips`, `tracks`, `identities`.
        config: settings.
        same_person_cosine: of the embedding model; None: tracks by overlap, no identities.
        start_ray: called before the first task.

    Returns:
        Number of tracks and of identities.
    """
    job = Job(out, config, versions)
    output = job.open()
    identities_path = f"{store.partition('identities', versions['identities'])}/identities.parquet"
    if not output.exists(identities_path):
        import ray  # not before it is needed: a run without work does not wait for it to load

        start_ray()
        clips = store.read_version(output, "clips", versions["clips"], ["clip_id", "shard", "status"])
        done = clips.filter(pc.equal(clips["status"], "done"))
        shards = sorted(done["shard"].unique().to_pylist())
        link = ray.remote(num_cpus=1)(link_one_shard)
        parts = [link.remote(job, shard, _ids(done, shard)) for shard in shards]
        tracks = pa.concat_tables([schema.TRACKS.empty_table(), *ray.get(parts)])
        identities = schema.IDENTITIES.empty_table()
        if same_person_cosine is not None:
            of_track, identities = cluster_tracks(tracks, same_person_cosine, config.identities)
            column = tracks.column_names.index("identity_id")
            tracks = tracks.set_column(column, schema.TRACKS.field("identity_id"), of_track)
        for shard in shards:
            rows = tracks.filter(pc.equal(tracks["shard"], shard))
            store.write_shard(output, "tracks", versions["tracks"], shard, rows)
        # written last: its presence says that the snapshot is whole
        store.write_parquet(output, identities_path, identities)
    return (
        store.read_version(output, "tracks", versions["tracks"], ["track_id"]).num_rows,
        store.read_version(output, "identities", versions["identities"], ["identity_id"]).num_rows,
    )


def _ids(done: pa.Table, shard: str) -> pa.Array:
    return done.filter(pc.equal(done["shard"], shard))["clip_id"].combine_chunks()


def link_one_shard(job: Job, shard: str, clip_ids: pa.Array) -> pa.Table:
    """Tracks of the done clips of one shard, schema.TRACKS; a Ray task."""
    output = job.open()
    faces = store.read_version(output, "faces", job.versions["face"], shard=shard)
    faces = faces.filter(pc.is_in(faces["clip_id"], clip_ids))
    embeddings = None
    if "embeddings" in job.versions:
        embeddings = store.read_version(output, "embeddings", job.versions["embeddings"], shard=shard)
        embeddings = embeddings.filter(pc.is_in(embeddings["clip_id"], clip_ids))
    return link_shard(faces, embeddings, shard, job.config.tracks)


def drop_old_snapshots(output: store.Output, keep: set[str]) -> None:
    """Remove snapshots of tracks and identities other than those to keep (the new one and the one before)."""
    for name in ("tracks", "identities"):
        for version in store.table_versions(output, name):
            if version not in keep:
                output.fs.rm(output.path(store.partition(name, version)), recursive=True)
