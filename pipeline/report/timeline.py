"""The faces of one clip over time, thinned so that they fit into a page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.errors import ClipError
from pipeline.report import frames as pictures
from pipeline.tables.clip_reader import ClipReader, name_of

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
    tables: ClipReader,
    clip: Mapping[str, Any],
    names: Mapping[str, str],
    with_pictures: bool,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The timeline of a clip.

    Args:
        tables: where it is stored.
        clip: row of `clips`.
        names: identity_id -> its name.
        with_pictures: also decode some frames of the video.
        options: for fsspec.

    Returns:
        Plain values: `people`, each with `frames`, `times` and `series` (group -> label -> values at these frames,
        three decimals, None where not computed), and `thumbs` (frame, picture). Of a long track every k-th face.
    """
    groups = {group: slot for group, slot in _SLOTS.items() if slot in tables.slots}
    faces = tables.faces(clip, list(groups.values()))
    tracks = _split_tracks(faces)
    longest = sorted(tracks, key=lambda track: -track.num_rows)[:_PEOPLE]
    people = [_person(track, names, list(groups)) for track in longest]
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


def _split_tracks(faces: pa.Table) -> list[pa.Table]:
    """The faces of each track, by the track's first face."""
    track_N = faces["track_id"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    return [faces.take(np.flatnonzero(track_N == track)) for track in range(track_N.max(initial=-1) + 1)]


def _person(track: pa.Table, names: Mapping[str, str], groups: Sequence[str]) -> dict[str, Any]:
    thin = track.take(np.arange(0, track.num_rows, math.ceil(track.num_rows / _POINTS)))
    track_id, identity = (thin[name][0].as_py() for name in ("track_id", "identity_id"))
    return {
        "track_id": track_id,
        "identity_id": identity,
        "name": names.get(identity, identity[:8]) if identity else "not clustered",
        "first": track["frame"][0].as_py(),
        "last": track["frame"][-1].as_py(),
        "frames": thin["frame"].to_pylist(),
        "times": _rounded(thin["time"]),
        "series": {
            group: {label: _rounded(thin[column], factor) for column, (label, factor) in SERIES[group].items()}
            for group in groups
        },
    }


def _rounded(column: pa.ChunkedArray, factor: float = 1.0) -> list[float | None]:
    return [None if v is None or not math.isfinite(v) else round(v * factor, 3) for v in column.to_pylist()]


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
