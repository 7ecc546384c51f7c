"""What happens on the faces of one clip over time, small enough to travel in a page."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import ClipError
from pipeline.report import frames as pictures
from pipeline.tables.clip_reader import ClipTables, name_of

_POINTS = 600  # of a track; more than a screen has pixels for
_PEOPLE = 12  # tracks of a clip that are drawn; the longest ones
_THUMBNAILS, _THUMBNAIL_WIDTH = 48, 320

#: group -> column -> (label, factor to the unit shown)
SERIES: dict[str, dict[str, tuple[str, float]]] = {
    "emotions": {name: (name, 1.0) for name in schema.EMOTIONS},
    "action units": {f"AU{n:02d}": (f"AU{n:02d}", 1.0) for n in schema.AU_NUMBERS},
    "pose": {f"pose_{name}": (f"{name} °", 180 / math.pi) for name in ("pitch", "roll", "yaw")},
    "gaze": {f"gaze_{name}": (f"{name} °", 180 / math.pi) for name in ("pitch", "yaw")},
}
_SLOTS = {"emotions": "emotions", "action units": "action_units", "pose": "pose", "gaze": "gaze"}


def describe_clip(
    tables: ClipTables,
    clip: Mapping[str, Any],
    names: Mapping[str, str],
    with_pictures: bool,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The timeline of a clip.

    Args:
        tables: where it is stored.
        clip: row of `clips`.
        names: identity_id -> what people call it.
        with_pictures: also decode some frames of the video.
        options: for fsspec.

    Returns:
        Plain values: `people`, each with `frames`, `times` and `series` (group -> label -> values at these frames,
        three decimals, None where not computed), and `thumbs` (frame, picture). Of a long track every k-th face.
    """
    faces = tables.rows("face", clip)
    rows = {group: tables.rows(slot, clip) for group, slot in _SLOTS.items() if slot in tables.slots}
    time_of = dict(zip(faces["frame"].to_pylist(), faces["time"].to_pylist(), strict=True))
    tracks = tables.tracks(clip)
    people = [
        _person(track, names, rows, time_of)
        for track in sorted(tracks, key=lambda track: -len(track["frames"]))[:_PEOPLE]
    ]
    people.sort(key=lambda person: person["frames"][0])
    thumbs, problem = _thumbnails(clip, options) if with_pictures else ([], None)
    return {
        **{key: clip[key] for key in ("clip_id", "width", "height", "fps", "frames", "sampled", "faces")},
        "key": name_of(clip),
        "tracks": len(tracks),
        "people": people,
        "thumbs": thumbs,
        "problem": problem,
    }


def _person(
    track: Mapping[str, Any],
    names: Mapping[str, str],
    rows: Mapping[str, pa.Table],
    time_of: Mapping[int, float | None],
) -> dict[str, Any]:
    step = math.ceil(len(track["frames"]) / _POINTS)
    frames, members = track["frames"][::step], track["members"][::step]
    series = {}
    for group, table in rows.items():
        place = _places(table, frames, members)
        series[group] = {
            label: _thin(table[column], place, factor) for column, (label, factor) in SERIES[group].items()
        }
    identity = track["identity_id"]
    return {
        "track_id": track["track_id"],
        "identity_id": identity,
        "name": names.get(identity, identity[:8]) if identity else "not clustered",
        "first": track["first_frame"],
        "last": track["last_frame"],
        "frames": frames,
        "times": _times(time_of, frames),
        "series": series,
    }


def _times(time_of: Mapping[int, float | None], frames: list[int]) -> list[float | None]:
    times = [time_of.get(frame) for frame in frames]
    return [None if time is None else round(time, 3) for time in times]


def _places(table: pa.Table, frames: list[int], members: list[int]) -> pa.Array:
    """The row of each face in a slot's table; null where it has none."""
    # a frame holds fewer than 2^20 faces
    keys = pc.add(pc.multiply(table["frame"], 1 << 20), table["face"].cast(pa.int64()))
    mine = np.array(frames, np.int64) * (1 << 20) + np.array(members, np.int64)
    return pc.index_in(pa.array(mine), value_set=keys.combine_chunks())


def _thin(column: pa.ChunkedArray, place: pa.Array, factor: float) -> list[float | None]:
    values = column.take(place).to_pylist()
    return [None if v is None or not math.isfinite(v) else round(v * factor, 3) for v in values]


def _thumbnails(clip: Mapping[str, Any], options: Mapping[str, Any] | None) -> tuple[list[list[Any]], str | None]:
    """[frame, picture] of frames at even distances, and why there are not more."""
    count = clip["frames"] or 0
    shown = min(_THUMBNAILS, count)
    wanted = {round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)}
    thumbs: list[list[Any]] = []
    # in a time range indices do not begin at 0; those outside it are just not seen
    try:
        for index, frame in pictures.read_frames(clip, wanted, options):
            thumbs.append([index, pictures.data_uri(pictures.thumbnail(frame, _THUMBNAIL_WIDTH), 60)])
    except ClipError as error:
        return thumbs, str(error)
    return thumbs, None
