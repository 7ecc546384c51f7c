"""The last aggregation: tracks of every shard (Ray tasks), then identities over the whole corpus.

A shard whose faces are those of the snapshot before keeps its tracks: they are read, not linked again.

`tracks`, `identities`, `ambiguous_pairs` and `lineage` are snapshots: each aggregation writes a version of its own, and
`current.json` switches to all at once, so that no reader ever sees tracks of one clustering
beside identities of another.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.config.models import IdentitiesConfig
from pipeline.identity.assign import PreviousSnapshot, cluster_tracks
from pipeline.identity.lineage import write_lineage
from pipeline.identity.overrides import digest_overrides, read_overrides
from pipeline.identity.version import AGGREGATE_ALGORITHM
from pipeline.planning.versions import digest_values
from pipeline.runs.context import RunContext
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.shard_file import read_shard, write_shard
from pipeline.tracking.link import link_shard

#: what one aggregation writes, all of one version
TABLES = ("tracks", "identities", "ambiguous_pairs", "lineage")
_HERE_CLIPS = 16  # so few are linked by the driver itself: a task would first wait seconds for its process to load
_HISTORY_KEY = b"faceatlas.clustering"
#: columns of `clips` beside the id that say when a clip's tracks must be made again
_CLIP = ["fingerprint", "faces"]
_ORIGIN = "origin"
_SLIM = [name for name in schema.TRACKS.names if name not in ("frames", "members")]


def aggregate(
    context: RunContext, version: str, same_person_cosine: float | None, start_ray: Callable[[], None]
) -> tuple[int, int]:
    """Make tracks and identities of all done clips, unless this very snapshot is there already.

    Args:
        context: the run.
        version: of the snapshot, see `aggregate_version`.
        same_person_cosine: of the embedding model; None: tracks by overlap, no identities.
        start_ray: called before the first task.

    Returns:
        Number of tracks and of identities.
    """
    output = context.open()
    if not output.exists(_path("identities", version)):
        start_ray()
        _make_snapshot(context, version, output, same_person_cosine)
    return (
        parquet.read_version(output, "tracks", version, ["track_id"]).num_rows,
        parquet.read_version(output, "identities", version, ["identity_id"]).num_rows,
    )


def _make_snapshot(context: RunContext, version: str, output: Output, same_person_cosine: float | None) -> None:
    # not before they are needed: a run without work does not wait for Ray to load
    import ray

    from pipeline.identity.knn_tasks import search_by_tasks

    config = context.config.identities
    clips = parquet.read_version(output, "clips", context.tables["clips"], ["clip_id", "shard", "status", *_CLIP])
    done = clips.filter(pc.equal(clips["status"], "done"))
    shards = sorted(done["shard"].unique().to_pylist())
    here = done.num_rows <= _HERE_CLIPS
    link: Any = _link_in_two
    write: Any = _write_shard
    fetch: Any = list
    if not here:
        # the lists of faces stay with the tasks: the driver sees what is needed to cluster, 2 kB per track
        link = ray.remote(num_cpus=1, num_returns=2)(_link_in_two).remote
        write = ray.remote(num_cpus=1)(_write_shard).remote
        fetch = ray.get
    in_force = parquet.read_current(output).get("tracks", "none")
    parts = [link(context, shard, _of_shard(done, shard), in_force) for shard in shards]
    slim = schema.TRACKS.empty_table().select(_SLIM)
    tracks = pa.concat_tables([slim, *fetch([part for part, _ in parts])])
    identity_of_track = tracks["identity_id"].combine_chunks()
    tables = {name: schema.table_schema(name).empty_table() for name in TABLES[1:]}
    history: dict[str, str | int] = {}
    if same_person_cosine is not None:
        decisions = read_overrides(output)
        rule = digest_values(same_person_cosine, config.of_versions())
        old_version = parquet.read_current(output).get("identities", "none")
        old, old_lineage, before, old_history = _read_before(output, old_version)
        model = context.slots.get("embeddings", "none")
        history = {"model": model, "rule": rule, "decisions": digest_overrides(decisions)}
        frozen = _may_freeze(old_history, history, tracks.num_rows, config)
        history["afresh"] = old_history["afresh"] if frozen else tracks.num_rows
        search = partial(search_by_tasks, exact_up_to=config.exact_up_to, local_up_to=config.local_up_to)
        who = cluster_tracks(
            tracks,
            same_person_cosine,
            config,
            before=PreviousSnapshot(old, frozenset(_every_id(old_lineage)), frozen),
            decisions=decisions,
            search=search,
        )
        identity_of_track = who.identity_of_track
        now = dict(zip(tracks["track_id"].to_pylist(), identity_of_track.to_pylist(), strict=True))
        cause = "clustering"
        if before:
            cause = "model" if old_history.get("model") != model else cause
            cause = "decision" if cause != "model" and old_history.get("decisions") != history["decisions"] else cause
        new = write_lineage(now, old, version, cause)
        tables = {
            "identities": who.identities,
            "ambiguous_pairs": who.ambiguous_pairs,
            "lineage": pa.concat_tables([old_lineage, new]),
        }
    rows_of_shard = {shard: pc.equal(tracks["shard"], shard) for shard in shards}
    fetch(
        [
            write(context, version, shard, whole, identity_of_track.filter(rows_of_shard[shard].combine_chunks()))
            for shard, (_, whole) in zip(shards, parts, strict=True)
        ]
    )
    # identities last: their presence says that the snapshot is whole
    metadata = {_HISTORY_KEY: json.dumps(history).encode()}
    for name in ("lineage", "ambiguous_pairs", "identities"):
        parquet.write_parquet(output, _path(name, version), tables[name], metadata if name == "identities" else None)


def _path(name: str, version: str) -> str:
    return f"{parquet.partition(name, version)}/{name}.parquet"


def _of_shard(done: pa.Table, shard: str) -> pa.Table:
    return done.filter(pc.equal(done["shard"], shard)).select(["clip_id", *_CLIP]).sort_by("clip_id")


def _link_in_two(
    context: RunContext, shard: str, clips: pa.Table, in_force: str
) -> tuple[pa.Table, tuple[pa.Table, str]]:
    """Tracks of a shard without the lists of faces, and with them and what they were made of; a Ray task.

    The tracks of the snapshot in force (its version) are taken again if they were made of the same faces.
    """
    origin = _origin(context, shard, clips)
    whole, written = read_shard(context.open(), "tracks", in_force, shard)
    if written.get(_ORIGIN) == origin:
        whole = _with_identities(whole, pa.nulls(whole.num_rows, pa.string()))
    else:
        whole = link_one_shard(context, shard, clips["clip_id"].combine_chunks())
    return whole.select(_SLIM), (whole, origin)


def _origin(context: RunContext, shard: str, clips: pa.Table) -> str:
    """Digest of what the tracks of a shard follow from: its clips, the files of their faces, and the settings."""
    output, slots = context.open(), [slot for slot in ("face", "embeddings", "pose") if slot in context.slots]
    folders = [parquet.partition(schema.TABLE_OF_SLOT[slot], context.slots[slot], shard) for slot in slots]
    # a file whose faces are detected again, or in part forgotten, keeps its name but hardly its size
    files = [(path, output.fs.size(output.path(path))) for name in folders for path in parquet.list_files(output, name)]
    return digest_values(
        "tracks", AGGREGATE_ALGORITHM, context.config.tracks.model_dump(mode="json"), files, clips.to_pylist()
    )


def link_one_shard(context: RunContext, shard: str, clip_ids: pa.Array) -> pa.Table:
    """Tracks of the done clips of one shard, schema.TRACKS."""
    output = context.open()
    faces = parquet.read_version(output, "faces", context.slots["face"], shard=shard)
    faces = faces.filter(pc.is_in(faces["clip_id"], clip_ids))
    others = {}
    for slot in ("embeddings", "pose"):
        if slot in context.slots:
            rows = parquet.read_version(output, schema.TABLE_OF_SLOT[slot], context.slots[slot], shard=shard)
            others[slot] = rows.filter(pc.is_in(rows["clip_id"], clip_ids))
    return link_shard(faces, others.get("embeddings"), shard, context.config.tracks, poses=others.get("pose"))


def _with_identities(tracks: pa.Table, identity_of_track: pa.Array) -> pa.Table:
    column = tracks.column_names.index("identity_id")
    return tracks.set_column(column, schema.TRACKS.field("identity_id"), identity_of_track)


def _write_shard(
    context: RunContext, version: str, shard: str, part: tuple[pa.Table, str], identity_of_track: pa.Array
) -> None:
    """Write the tracks of a shard with their identities; a Ray task."""
    tracks, origin = part
    rows = _with_identities(tracks, identity_of_track)
    write_shard(context.open(), "tracks", version, shard, rows, {_ORIGIN: origin})


def _read_before(output: Output, version: str) -> tuple[dict[str, str], pa.Table, bool, dict]:
    """Of the snapshot in force: identity of each track, lineage, whether there is one, and how it was made."""
    lineage = parquet.read_version(output, "lineage", version)
    lineage = lineage.select(schema.LINEAGE.names)
    path = _path("identities", version)
    if not output.exists(path):
        return {}, schema.LINEAGE.empty_table(), False, {}
    tracks = parquet.read_version(output, "tracks", version, ["track_id", "identity_id"])
    named = tracks.filter(pc.is_valid(tracks["identity_id"]))
    history = json.loads((parquet.read_file(output, path).schema.metadata or {}).get(_HISTORY_KEY, b"{}"))
    of_track = dict(zip(named["track_id"].to_pylist(), named["identity_id"].to_pylist(), strict=True))
    return of_track, lineage, True, history


def _every_id(lineage: pa.Table) -> set[str]:
    return {i for name in ("from_id", "to_id") for i in lineage[name].to_pylist() if i is not None}


def _may_freeze(old: Mapping, new: Mapping, num_tracks: int, config: IdentitiesConfig) -> bool:
    """Whether new tracks may simply be added: a large corpus, made alike, that has grown little since it was made."""
    alike = all(old.get(name) == new[name] for name in ("model", "rule", "decisions"))
    afresh = old.get("afresh", 0)
    return alike and num_tracks > config.recluster_up_to and num_tracks <= afresh * (1 + config.recluster_growth)


def drop_old_snapshots(output: Output, keep: set[str]) -> None:
    """Remove snapshots other than those to keep (the new one and the one before)."""
    for name in TABLES:
        for version in parquet.table_versions(output, name):
            if version not in keep:
                output.fs.rm(output.path(parquet.partition(name, version)), recursive=True)
