"""The content of the report, gathered from the tables and the videos as plain JSON values.

Lists are bounded, and the page states how many entries are left out: it works for any corpus.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import ClipError
from pipeline.report import frames as pictures
from pipeline.report.histograms import describe_distributions
from pipeline.report.timeline import describe_clip
from pipeline.runs.history import read_runs
from pipeline.storage.output import open_output
from pipeline.tables.clip_reader import ClipReader, choose_clips, name_of
from pipeline.tables.status import count_clips

_RUNS, _QUARANTINED, _PAIRS = 50, 1000, 1000
_FACE_SIDE = 96


@dataclass(frozen=True)
class ReportLimits:
    """How much goes into a report.

    Attributes:
        people: identities, those with most faces.
        pictures: of them, with a picture.
        clips: with a timeline, where none is named.
    """

    people: int = 20_000
    pictures: int = 240
    clips: int = 3


def gather_report(
    out: str,
    clips: Sequence[str] = (),
    with_faces: bool = True,
    limits: ReportLimits | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        out: output folder, any fsspec URI.
        clips: ids, keys or uris of clips to draw a timeline of; none: the first few with faces.
        with_faces: whether pictures of people go into it.
        limits: of the lists.
        options: for fsspec.

    Raises:
        OutputError: `out` holds no tables.
        ConfigError: no such clip.
    """
    limits = limits or ReportLimits()
    tables = ClipReader(open_output(out, options))
    all_clips = tables.clips()
    chosen = choose_clips(all_clips, clips)
    if not clips:
        chosen = [clip for clip in chosen if clip["faces"]][: limits.clips]
    identities = tables.whole("identities", _PEOPLE_COLUMNS)
    shown = _largest(identities, limits.people)
    faces, problems = _faces(tables, all_clips, shown[: limits.pictures], options) if with_faces else ({}, {})
    names = {row["identity_id"]: row["name"] or f"person {n}" for n, row in enumerate(shown, 1)}
    return {
        "out": out,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "with_faces": with_faces,
        "totals": _totals(tables, all_clips, identities.num_rows),
        "runs": [_run(record) for record in list(read_runs(tables.output))[:_RUNS]],
        "quarantine": _quarantine(tables.whole("quarantine"), all_clips),
        "people": _people(tables, all_clips, shown, faces, names) | {"total": identities.num_rows},
        "picture_problems": dict(Counter(problems.values()).most_common(20)),
        "pairs": _pairs(tables.whole("ambiguous_pairs")),
        "distributions": describe_distributions(tables),
        "clips": [describe_clip(tables, clip, names, with_faces, options) for clip in chosen],
    }


# -- what was done ----------------------------------------------------------------------------------------------------


def _totals(tables: ClipReader, clips: pa.Table, identities: int) -> dict[str, Any]:
    length = pc.sum(pc.divide(clips["frames"].cast(pa.float64()), clips["fps"])).as_py()
    return {
        **count_clips(clips),
        "hours": round((length or 0) / 3600, 4),
        "faces": pc.sum(clips["faces"]).as_py() or 0,
        "tracks": tables.whole("tracks", ["track_id"]).num_rows,
        "identities": identities,
    }


def _run(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run as the page shows it; records of earlier builds lack the cluster."""
    seconds = record.get("seconds", {})
    busy = seconds.get("annotate") or 0
    return {
        **{name: record.get(name) for name in ("run", "bundle", "clips", "wanted", "frames", "faces", "cluster")},
        "seconds": seconds,
        "frames_per_s": round(record["frames"] / busy, 2) if busy and record.get("frames") else None,
        "forecast": record.get("forecast"),
        "models": [
            [slot, model.get("model"), model.get("version"), model.get("license"), bool(model.get("research_only"))]
            for slot, model in record.get("models", {}).items()
        ],
    }


def _quarantine(rows: pa.Table, clips: pa.Table) -> dict[str, Any]:
    keys = dict(zip(clips["clip_id"].to_pylist(), clips["key"].to_pylist(), strict=True))
    counts = Counter(rows["error_class"].to_pylist())
    listed = [
        [keys.get(row["clip_id"]) or row["clip_id"], row["stage"], row["error_class"], row["message"], row["attempts"]]
        for row in rows.slice(0, _QUARANTINED).to_pylist()
    ]
    return {"total": rows.num_rows, "counts": dict(counts.most_common()), "rows": listed}


# -- people -----------------------------------------------------------------------------------------------------------

_PEOPLE_COLUMNS = [name for name in schema.IDENTITIES.names if name not in ("embedding", "members")]


def _largest(identities: pa.Table, limit: int) -> list[dict[str, Any]]:
    order = [("faces", "descending"), ("identity_id", "ascending")]
    return identities.sort_by(order).slice(0, limit).to_pylist()


def _people(
    tables: ClipReader,
    clips: pa.Table,
    shown: Sequence[Mapping[str, Any]],
    faces: Mapping[str, str],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """One list per person, in the order of `columns`; times are those of the clip's own clock."""
    spans = _appearances(tables, clips)
    unknown = (None, None, None, None)
    rows = [
        [
            row["identity_id"],
            names[row["identity_id"]],
            *(row[name] for name in ("tracks", "clips", "faces")),
            *(None if row[name] is None else round(row[name], 3) for name in ("cohesion", "margin")),
            *spans.get(row["identity_id"], unknown),
        ]
        for row in shown
    ]
    columns = ["id", "name", "tracks", "clips", "faces", "cohesion", "margin"]
    return {"columns": [*columns, "first_clip", "first_time", "last_clip", "last_time"], "rows": rows, "faces": faces}


def _appearances(tables: ClipReader, clips: pa.Table) -> dict[str, tuple[Any, Any, Any, Any]]:
    """Per identity_id, clip and time of its first and last appearance, clips in the order of shard and key."""
    tracks = tables.whole("tracks", ["identity_id", "clip_id", "first_time", "last_time"])
    tracks = tracks.filter(pc.is_valid(tracks["identity_id"]))
    if not tracks.num_rows:
        return {}
    ordered = clips.select(["clip_id", "shard", "key"]).sort_by([("shard", "ascending"), ("key", "ascending")])
    place = pc.index_in(tracks["clip_id"], value_set=ordered["clip_id"].combine_chunks()).to_numpy()
    ids, of_track = np.unique(tracks["identity_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    names = [key or clip_id for key, clip_id in zip(*(ordered[c].to_pylist() for c in ("key", "clip_id")), strict=True)]
    ends = []
    for column, sign in (("first_time", 1), ("last_time", -1)):
        time = tracks[column].cast(pa.float64()).to_numpy()
        order = np.lexsort((sign * np.nan_to_num(time), sign * np.nan_to_num(place), of_track))
        _, at = np.unique(of_track[order], return_index=True)
        ends.append([(place[i], time[i]) for i in order[at]])
    return {
        str(identity): tuple(
            value
            for at, time in (first, last)
            for value in (
                None if np.isnan(at) else names[int(at)],
                None if np.isnan(time) else round(float(time), 2),
            )
        )  # type: ignore[misc]
        for identity, first, last in zip(ids, *ends, strict=True)
    }


def _faces(
    tables: ClipReader, clips: pa.Table, shown: Sequence[Mapping[str, Any]], options: Mapping[str, Any] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Pictures of people by identity_id, and why others have none."""
    found: dict[str, str] = {}
    problems: dict[str, str] = {}
    of_clip: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in shown:
        of_clip[row["representative_clip_id"]].append(row)
    mine = clips.filter(pc.is_in(clips["clip_id"], value_set=pa.array(list(of_clip), pa.string())))
    for clip in mine.sort_by([("shard", "ascending"), ("clip_id", "ascending")]).to_pylist():
        people = of_clip[clip["clip_id"]]
        rows = tables.faces(clip)
        wanted = {row["representative_frame"] for row in people}
        boxes = rows.filter(pc.is_in(rows["frame"], value_set=pa.array(sorted(wanted), pa.int64()))).to_pylist()
        box_of = {(r["frame"], r["face"]): tuple(r[f"box_{c}"] for c in ("x1", "y1", "x2", "y2")) for r in boxes}
        try:
            for frame, picture in pictures.read_frames(clip, wanted, options):
                for row in people:
                    box = box_of.get((frame, row["representative_face"]))
                    if row["representative_frame"] != frame or box is None:
                        continue
                    face = pictures.cut_face(picture, box, _FACE_SIDE)
                    if face is not None:
                        found[row["identity_id"]] = pictures.data_uri(face)
        except ClipError as error:
            problems |= {row["identity_id"]: f"{name_of(clip)}: {error}" for row in people}
    return found, problems


def _pairs(rows: pa.Table) -> dict[str, Any]:
    columns = ["identity_a", "identity_b", "score", "threshold", "seen_together", "reason", "tracks_a", "tracks_b"]
    listed = rows.select(columns).slice(0, _PAIRS).to_pylist()
    return {
        "total": rows.num_rows,
        "rows": [[round(v, 3) if isinstance(v, float) else v for v in row.values()] for row in listed],
    }
