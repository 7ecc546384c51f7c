"""The last stage: tracks of every shard (Ray tasks), then identities over the whole corpus.

A shard whose faces are those of the previous snapshot keeps its tracks: they are read, not linked again.

`tracks`, `identities`, `ambiguous_pairs` and `lineage` are snapshots: each aggregation writes a version of its own, and
`current.json` switches to all at once, so that no reader ever sees tracks of one clustering beside identities of
another.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.config.models import IdentitiesConfig
from pipeline.identity.lineage import write_lineage
from pipeline.identity.overrides import digest_overrides, read_overrides
from pipeline.identity.version import AGGREGATE_ALGORITHM
from pipeline.planning.versions import digest_values
from pipeline.runs.context import RunContext
from pipeline.storage.output import Output
from pipeline.tables import parquet
from pipeline.tables.shard_file import read_shard, write_shard

#: what one aggregation writes, all of one version
TABLES = ("tracks", "identities", "ambiguous_pairs", "lineage")
_LOCAL_CLIPS = 16  # so few are linked by the driver itself: a task would first wait seconds for its process to load
_HISTORY_KEY = b"faceatlas.clustering"
#: columns of `clips` beside the id that decide whether a clip's tracks must be linked again
_CLIP = ["fingerprint", "faces", "bbox", "width", "height"]
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
    linked = _link_shards(context, output)
    if same_person_cosine is None:
        identified = _no_identities(linked.tracks)
    else:
        identified = _identify(context, version, output, linked.tracks, same_person_cosine)
    _write_snapshot(context, version, output, linked, identified)


# -- tracks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linked:
    """The tracks of all shards.

    Attributes:
        whole: shard -> its tracks with their lists of faces, and what they were made of; for a large corpus a
            reference to them: they stay with the tasks, and the driver sees what is needed to cluster, 2 kB per track.
        tracks: columns _SLIM of all tracks.
        by_tasks: whether shards are linked and written by Ray tasks.
    """

    whole: Mapping[str, Any]
    tracks: pa.Table
    by_tasks: bool


def _link_shards(context: RunContext, output: Output) -> _Linked:
    """Link the done clips of each shard, or take the tracks of the current snapshot."""
    clips = parquet.read_version(output, "clips", context.tables["clips"], ["clip_id", "shard", "status", *_CLIP])
    done = clips.filter(pc.equal(clips["status"], "done"))
    clips_of = {shard: _of_shard(done, shard) for shard in sorted(done["shard"].unique().to_pylist())}
    current = parquet.read_current(output).get("tracks", "none")
    by_tasks = done.num_rows > _LOCAL_CLIPS
    link: Any = _link_in_two
    if by_tasks:
        import ray  # not before it is needed: a run without work does not wait for Ray to load

        link = ray.remote(num_cpus=1, num_returns=2)(_link_in_two).remote
    parts = {shard: link(context, shard, clips, current) for shard, clips in clips_of.items()}
    slim = [part for part, _ in parts.values()]
    tracks = pa.concat_tables([schema.TRACKS.empty_table().select(_SLIM), *(ray.get(slim) if by_tasks else slim)])
    return _Linked({shard: whole for shard, (_, whole) in parts.items()}, tracks, by_tasks)


def _of_shard(done: pa.Table, shard: str) -> pa.Table:
    return done.filter(pc.equal(done["shard"], shard)).select(["clip_id", *_CLIP]).sort_by("clip_id")


def _link_in_two(
    context: RunContext, shard: str, clips: pa.Table, current: str
) -> tuple[pa.Table, tuple[pa.Table, str]]:
    """Tracks of a shard without the lists of faces, and with them and what they were made of; a Ray task.

    The tracks of the current snapshot (its version) are taken again if they were made of the same faces.
    """
    origin = _origin(context, shard, clips)
    whole, written = read_shard(context.open(), "tracks", current, shard)
    if written.get(_ORIGIN) == origin:
        whole = _with_identities(whole, pa.nulls(whole.num_rows, pa.string()))
    else:
        whole = link_one_shard(context, shard, clips["clip_id"].combine_chunks(), _boxes_of(clips))
    return whole.select(_SLIM), (whole, origin)


def _origin(context: RunContext, shard: str, clips: pa.Table) -> str:
    """Digest of what the tracks of a shard follow from: its clips, the files of their faces, and the settings."""
    output, slots = context.open(), [slot for slot in ("face", "embeddings", "pose") if slot in context.slots]
    folders = [parquet.partition(schema.TABLE_OF_SLOT[slot], context.slots[slot], shard) for slot in slots]
    # a file whose faces are detected again, or in part erased, keeps its name but hardly its size
    files = [
        (path, output.fs.size(output.path(path))) for name in folders for path in parquet.list_parquet(output, name)
    ]
    return digest_values(
        "tracks", AGGREGATE_ALGORITHM, context.config.tracks.model_dump(mode="json"), files, clips.to_pylist()
    )


def _boxes_of(clips: pa.Table) -> dict[str, list[float]]:
    """Clip -> the box that the corpus gives for its subject, in pixels."""
    return {
        clip["clip_id"]: [side * clip["height" if i % 2 else "width"] for i, side in enumerate(clip["bbox"])]
        for clip in clips.to_pylist()
        if clip["bbox"] is not None and clip["width"] and clip["height"]
    }


def link_one_shard(
    context: RunContext, shard: str, clip_ids: pa.Array, boxes: Mapping[str, Sequence[float]] | None = None
) -> pa.Table:
    """Tracks of the done clips of one shard, schema.TRACKS; `boxes` as in `link_shard`."""
    output = context.open()
    faces = parquet.read_version(output, "faces", context.slots["face"], shard=shard)
    faces = faces.filter(pc.is_in(faces["clip_id"], clip_ids))
    others = {}
    for slot in ("embeddings", "pose"):
        if slot in context.slots:
            rows = parquet.read_version(output, schema.TABLE_OF_SLOT[slot], context.slots[slot], shard=shard)
            others[slot] = rows.filter(pc.is_in(rows["clip_id"], clip_ids))
    from pipeline.tracking.link import link_shard  # with scipy, which a run whose snapshot is there need not load

    poses = others.get("pose")
    return link_shard(faces, others.get("embeddings"), shard, context.config.tracks, poses=poses, boxes=boxes)


def _with_identities(tracks: pa.Table, identity_of_track: pa.Array) -> pa.Table:
    column = tracks.column_names.index("identity_id")
    return tracks.set_column(column, schema.TRACKS.field("identity_id"), identity_of_track)


# -- identities -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Identified:
    """The identities of a corpus.

    Attributes:
        identity_of_track: of each track, in their order.
        tables: name -> table, of those in TABLES that hold no tracks.
        history: how they were made; kept in the metadata of `identities`.
    """

    identity_of_track: pa.Array
    tables: Mapping[str, pa.Table]
    history: Mapping[str, str | int]


def _no_identities(tracks: pa.Table) -> _Identified:
    tables = {name: schema.table_schema(name).empty_table() for name in TABLES[1:]}
    return _Identified(tracks["identity_id"].combine_chunks(), tables, {})


def _identify(
    context: RunContext, version: str, output: Output, tracks: pa.Table, same_person_cosine: float
) -> _Identified:
    """Cluster the tracks, carry over the ids of the current snapshot, and write down how its identities changed."""
    from pipeline.identity.knn_tasks import search_by_tasks  # with Ray

    config, overrides = context.config.identities, read_overrides(output)
    previous = _read_previous(output)
    history: dict[str, str | int] = {
        "model": context.slots.get("embeddings", "none"),
        "rule": digest_values(same_person_cosine, config.of_versions()),
        "decisions": digest_overrides(overrides),
    }
    frozen = _may_freeze(previous.history, history, tracks.num_rows, config)
    history["afresh"] = previous.history["afresh"] if frozen else tracks.num_rows
    from pipeline.identity.assign import PreviousSnapshot, cluster_tracks  # with scipy and numba, as above

    found = cluster_tracks(
        tracks,
        same_person_cosine,
        config,
        previous=PreviousSnapshot(previous.identity_of_track, frozenset(_every_id(previous.lineage)), frozen),
        overrides=overrides,
        search=partial(search_by_tasks, exact_up_to=config.exact_up_to, local_up_to=config.local_up_to),
    )
    now = dict(zip(tracks["track_id"].to_pylist(), found.identity_of_track.to_pylist(), strict=True))
    cause = _cause_of_change(previous.history, history)
    changes = write_lineage(now, previous.identity_of_track, version, cause)
    tables = {
        "identities": found.identities,
        "ambiguous_pairs": found.ambiguous_pairs,
        "lineage": pa.concat_tables([previous.lineage, changes]),
    }
    return _Identified(found.identity_of_track, tables, history)


@dataclass(frozen=True)
class _Previous:
    """The current snapshot, which the new one replaces; empty if there is none.

    Attributes:
        identity_of_track: track id -> identity_id, of tracks that are in an identity.
        lineage: schema.LINEAGE.
        history: how it was made.
    """

    identity_of_track: Mapping[str, str]
    lineage: pa.Table
    history: Mapping[str, Any]


def _read_previous(output: Output) -> _Previous:
    version = parquet.read_current(output).get("identities", "none")
    path = _path("identities", version)
    if not output.exists(path):
        return _Previous({}, schema.LINEAGE.empty_table(), {})
    lineage = parquet.read_version(output, "lineage", version).select(schema.LINEAGE.names)
    tracks = parquet.read_version(output, "tracks", version, ["track_id", "identity_id"])
    named = tracks.filter(pc.is_valid(tracks["identity_id"]))
    history = json.loads((parquet.read_file(output, path).schema.metadata or {}).get(_HISTORY_KEY, b"{}"))
    of_track = dict(zip(named["track_id"].to_pylist(), named["identity_id"].to_pylist(), strict=True))
    return _Previous(of_track, lineage, history)


def _cause_of_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The `cause` of lineage rows: a new model, else new overrides, else new tracks and settings."""
    if old.get("model") != new["model"]:
        return "model"
    return "decision" if old.get("decisions") != new["decisions"] else "clustering"


def _every_id(lineage: pa.Table) -> set[str]:
    return {i for name in ("from_id", "to_id") for i in lineage[name].to_pylist() if i is not None}


def _may_freeze(old: Mapping, new: Mapping, num_tracks: int, config: IdentitiesConfig) -> bool:
    """Whether new tracks are only added: a large corpus, clustered in the same way, that has grown little since."""
    alike = all(old.get(name) == new[name] for name in ("model", "rule", "decisions"))
    last = old.get("afresh", 0)
    return alike and num_tracks > config.recluster_up_to and num_tracks <= last * (1 + config.recluster_growth)


# -- writing ----------------------------------------------------------------------------------------------------------


def _write_snapshot(
    context: RunContext, version: str, output: Output, linked: _Linked, identified: _Identified
) -> None:
    """Write the tracks shard by shard; then the other tables, `identities` last: it marks the snapshot complete."""
    write: Any = _write_shard
    if linked.by_tasks:
        import ray

        write = ray.remote(num_cpus=1)(_write_shard).remote
    shard_of_track = linked.tracks["shard"].combine_chunks()
    written = [
        write(context, version, shard, whole, identified.identity_of_track.filter(pc.equal(shard_of_track, shard)))
        for shard, whole in linked.whole.items()
    ]
    if linked.by_tasks:
        ray.get(written)
    metadata = {_HISTORY_KEY: json.dumps(identified.history).encode()}
    for name in ("lineage", "ambiguous_pairs", "identities"):
        table = identified.tables[name]
        parquet.write_parquet(output, _path(name, version), table, metadata if name == "identities" else None)


def _path(name: str, version: str) -> str:
    return f"{parquet.partition(name, version)}/{name}.parquet"


def _write_shard(
    context: RunContext, version: str, shard: str, part: tuple[pa.Table, str], identity_of_track: pa.Array
) -> None:
    """Write the tracks of a shard with their identities; a Ray task."""
    tracks, origin = part
    rows = _with_identities(tracks, identity_of_track)
    write_shard(context.open(), "tracks", version, shard, rows, {_ORIGIN: origin})


def drop_old_snapshots(output: Output, keep: set[str]) -> None:
    """Remove snapshots other than those to keep (the new one and the previous one)."""
    for name in TABLES:
        for version in parquet.table_versions(output, name):
            if version not in keep:
                output.fs.rm(output.path(parquet.partition(name, version)), recursive=True)
