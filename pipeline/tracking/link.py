"""Linking the faces of a clip into tracks: one track is one face through one clip.

    faces (+ embeddings, poses)  sorted and joined by (clip_id, frame, face)      faces.read_faces
        |  frame by frame: a face goes on the live track that it fits best        link_frames
        |  by overlap, and by the cosine to what the track has looked like
        |  a track whose person changes in a few blended frames is cut there      split_switches
        |  one row per track: id, span, pooled embedding, face that shows it best _summarize_track
    tracks

Everything is decided in the order of the keys: the order in which the rows come has no effect.
Letters: N faces of a clip, F faces of a frame, T live tracks, M faces of a track, D width of the embedding (0: none).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import linear_sum_assignment

from pipeline.config.models import TracksConfig
from pipeline.geometry import box_iou
from pipeline.schema import TRACKS
from pipeline.tracking.faces import FaceArrays, read_faces, split_clips

#: Below this quality an embedding says little, and a low cosine does not break a track.
GOOD_QUALITY = 0.25
#: `TracksConfig.switch_cosine` where neither the user nor the model's entry states one: the strangers of embeddings
#: that were trained on many people lie around 0.
SWITCH_COSINE = 0.1
#: A change of person is looked for between windows of good faces, at least so many, a few blended ones between them.
SWITCH_WINDOW, SWITCH_LEAST, SWITCH_BLEND = 8, 5, 4
#: Faces this many robust standard deviations below their track's median cosine are left out of its embedding.
OUTLIER_DEVIATIONS = 3.0
#: So much of a track's faces must lie in the box of a clip's subject.
_LEAST_INSIDE = 0.5


def link_faces(
    faces: pa.Table, embeddings: pa.Table | None, shard: str, config: TracksConfig, stride: int | None = None
) -> pa.Table:
    """Link the faces of one clip into tracks.

    Args and result as `link_shard`.

    Raises:
        ValueError: the faces are of more than one clip.
    """
    if pc.count_distinct(faces["clip_id"]).as_py() > 1:
        raise ValueError("link_faces takes the faces of one clip, found several clip_id; link_shard takes many clips")
    return link_shard(faces, embeddings, shard, config, stride)


def link_shard(
    faces: pa.Table,
    embeddings: pa.Table | None,
    shard: str,
    config: TracksConfig,
    stride: int | None = None,
    poses: pa.Table | None = None,
    boxes: Mapping[str, Sequence[float]] | None = None,
) -> pa.Table:
    """Link the faces of each clip of a shard into tracks.

    Args:
        faces: rows of `schema.slot_schema("face")`, any order, other columns ignored; score, time and
            sharpness may be null.
        embeddings: rows of `schema.slot_schema("embeddings")`, any order, as the model gives them; faces without a row,
            or whose row is null, not finite or zero, are linked by position alone. None: all are.
        shard: value of the `shard` column.
        config: thresholds; `max_gap` counts sampled frames.
        stride: frames of the video from one sampled frame to the next; None: per clip the smallest distance of two
            frames that hold faces.
        poses: rows of `schema.slot_schema("pose")`, any order; a face that looks away counts less. None, or a face
            without a row: nothing is known.
        boxes: clip -> left, top, right, bottom in pixels of its subject, as the corpus gives it; of other clips
            `subject` is null.

    Returns:
        `schema.TRACKS`, `identity_id` null, sorted by clip_id, first_frame and the first face's number. Every face is
        in exactly one track, and a track has at most one face per frame.
    """
    shard_faces = read_faces(faces, embeddings, poses)
    boxes = boxes or {}
    clips = split_clips(shard_faces)
    tables = [_link_clip(clip, shard, config, stride, boxes.get(clip.clip_ids[0])) for clip in clips]
    return pa.concat_tables([TRACKS.empty_table(), *tables]).combine_chunks()


# -- linking ----------------------------------------------------------------------------------------------------------


class _Live:
    """The T tracks that may still go on, as parallel arrays: when, where and with which looks each was seen."""

    def __init__(self, width: int) -> None:
        self.track_T = np.empty(0, np.int64)
        self.seen_T = np.empty(0, np.int64)
        self.box_T4 = np.empty((0, 4), np.float32)
        self.sum_TD = np.empty((0, width), np.float32)
        self.last_TD = np.empty((0, width), np.float32)
        self.embedded_T = np.empty(0, bool)
        self.good_T = np.empty(0, bool)

    def drop_older(self, ordinal: int) -> None:
        """Drop the tracks whose last face is older than the sampled frame `ordinal`."""
        keep_T = self.seen_T >= ordinal
        if not keep_T.all():
            for name, values in vars(self).items():
                setattr(self, name, values[keep_T])

    def start(self, num: int, first_track: int) -> np.ndarray:
        """Append `num` tracks without a face yet; returns their rows."""
        begin = len(self.track_T)
        for name, values in vars(self).items():
            setattr(self, name, np.concatenate([values, np.zeros((num, *values.shape[1:]), values.dtype)]))
        self.track_T[begin:] = np.arange(first_track, first_track + num)
        return np.arange(begin, begin + num)


def link_frames(faces: FaceArrays, config: TracksConfig, stride: int | None = None) -> np.ndarray:
    """Give each face of one clip its track, frame by frame.

    A face may go on a track if it overlaps the track's last face and does not look like another person, or if it looks
    like the track wherever it is (across a cut). Among the allowed pairs of a frame the sum of overlap and cosine is
    greatest (linear assignment), so two people who cross keep their own track.

    Returns:
        int64 (N,): tracks from 0 in the order of their first faces.
    """
    frames_U, begin_U = np.unique(faces.frame, return_index=True)
    end_U = np.append(begin_U[1:], len(faces.frame))
    if stride is None:
        stride = int(np.diff(frames_U).min()) if len(frames_U) > 1 else 1
    ordinal_U = np.rint((frames_U - frames_U[:1]) / stride).astype(np.int64)
    good_N = faces.embedded & (faces.quality >= GOOD_QUALITY)
    track_N = np.empty(len(faces.frame), np.int64)
    live, num_tracks = _Live(faces.unit.shape[1]), 0
    for ordinal, begin, end in zip(ordinal_U, begin_U, end_U, strict=True):
        live.drop_older(ordinal - config.max_gap - 1)
        here = slice(begin, end)
        row_F = _match(faces, here, good_N[here], live, config)
        new_F = row_F < 0
        row_F[new_F] = live.start(int(new_F.sum()), num_tracks)
        num_tracks += int(new_F.sum())
        track_N[here] = live.track_T[row_F]
        live.seen_T[row_F] = ordinal
        live.box_T4[row_F] = faces.box[here]
        embedded_F = faces.embedded[here]
        row_E = row_F[embedded_F]
        unit_ED = faces.unit[here][embedded_F]
        live.sum_TD[row_E] += faces.quality[here][embedded_F, None] * unit_ED
        live.last_TD[row_E] = unit_ED
        live.embedded_T[row_E] = True
        live.good_T[row_F] |= good_N[here]
    return track_N


def _match(faces: FaceArrays, here: slice, good_F: np.ndarray, live: _Live, config: TracksConfig) -> np.ndarray:
    """Row of the live track that each face of the frame goes on, -1 for none: int64 (F,)."""
    row_F = np.full(here.stop - here.start, -1, np.int64)
    if len(live.track_T) == 0:
        return row_F
    iou_FT = box_iou(faces.box[here, None], live.box_T4)
    unit_FD = faces.unit[here]
    looks_FT = unit_FD @ (live.sum_TD / np.maximum(np.linalg.norm(live.sum_TD, axis=1, keepdims=True), 1e-6)).T
    # a head that turns drifts away from its mean look but not from its last one
    cosine_FT = np.maximum(looks_FT, unit_FD @ live.last_TD.T)
    known_FT = faces.embedded[here][:, None] & live.embedded_T
    alike_FT = known_FT & (cosine_FT >= config.min_cosine)
    other_FT = good_F[:, None] & live.good_T & (looks_FT < switch_below(config))
    allowed_FT = alike_FT | ((iou_FT >= config.min_iou) & ~other_FT)
    gain_FT = np.where(allowed_FT, 1e-6 + iou_FT + np.where(known_FT, np.maximum(cosine_FT, 0), 0), 0)
    face, row = linear_sum_assignment(gain_FT, maximize=True)
    linked = allowed_FT[face, row]
    row_F[face[linked]] = row[linked]
    return row_F


def switch_below(config: TracksConfig) -> float:
    """The cosine below which a good face is another person: as configured, else what holds for most models."""
    return SWITCH_COSINE if config.switch_cosine is None else config.switch_cosine


def split_switches(track_N: np.ndarray, faces: FaceArrays, config: TracksConfig) -> np.ndarray:
    """Cut the tracks where a few blended frames lead from one person to another, each alike to the one before.

    A track is cut, as often as needed, where the mean looks of the good faces before and after have a cosine below
    `switch_below(config)`.

    Returns:
        int64 (N,): tracks, not numbered without gaps.
    """
    track_N, next_track = track_N.copy(), int(track_N.max(initial=-1)) + 1
    good_N = faces.embedded & (faces.quality >= GOOD_QUALITY)
    todo = _rows_of_tracks(track_N)
    while todo:
        rows_M = todo.pop()
        good_G = rows_M[good_N[rows_M]]
        if len(good_G) < 2 * SWITCH_LEAST + SWITCH_BLEND:
            continue
        sum_GD = np.concatenate([np.zeros((1, faces.unit.shape[1])), np.cumsum(faces.unit[good_G], axis=0)])
        end_P = np.arange(SWITCH_LEAST, len(good_G) - SWITCH_LEAST - SWITCH_BLEND + 1)
        begin_P = end_P + SWITCH_BLEND
        before_PD = sum_GD[end_P] - sum_GD[np.maximum(end_P - SWITCH_WINDOW, 0)]
        after_PD = sum_GD[np.minimum(begin_P + SWITCH_WINDOW, len(good_G))] - sum_GD[begin_P]
        length_P = np.linalg.norm(before_PD, axis=1) * np.linalg.norm(after_PD, axis=1)
        cosine_P = (before_PD * after_PD).sum(axis=1) / np.maximum(length_P, 1e-6)
        worst = int(cosine_P.argmin())
        if cosine_P[worst] < switch_below(config):
            cut = int(np.searchsorted(rows_M, good_G[end_P[worst] + SWITCH_BLEND // 2]))
            track_N[rows_M[cut:]] = next_track
            next_track += 1
            todo += [rows_M[:cut], rows_M[cut:]]
    return track_N


# -- one row per track ------------------------------------------------------------------------------------------------


def pool_embeddings(unit_MD: np.ndarray, quality_M: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Quality-weighted mean of unit embeddings without outliers.

    Args:
        unit_MD: float32 unit vectors, (M, D), M >= 1.
        quality_M: weights above 0, (M,).

    Returns:
        The mean at unit length, float32 (D,), or None if the vectors cancel out; and each face's cosine to it, (M,).
    """
    weight_M = quality_M
    center_D, cosine_M = _center(unit_MD, weight_M)
    if len(unit_MD) > 2:
        median = np.median(cosine_M)
        deviation = max(1.4826 * float(np.median(np.abs(cosine_M - median))), 0.02)
        weight_M = np.where(cosine_M >= median - OUTLIER_DEVIATIONS * deviation, quality_M, 0)
        center_D, cosine_M = _center(unit_MD, weight_M)
    return (center_D if np.linalg.norm(center_D) > 0.5 else None), cosine_M


def _center(unit_MD: np.ndarray, weight_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sum_D = weight_M @ unit_MD
    length = np.linalg.norm(sum_D)
    center_D = (sum_D / length if length > 1e-6 else np.zeros_like(sum_D)).astype(np.float32)
    return center_D, unit_MD @ center_D


def _link_clip(
    faces: FaceArrays, shard: str, config: TracksConfig, stride: int | None, box: Sequence[float] | None
) -> pa.Table:
    track_N = split_switches(link_frames(faces, config, stride), faces, config)
    tracks = _rows_of_tracks(track_N)
    subjects = find_subjects([(faces.frame[rows_M], faces.box[rows_M]) for rows_M in tracks], box)
    rows = [
        {"shard": shard, **_summarize_track(faces, rows_M), "subject": subject}
        for rows_M, subject in zip(tracks, subjects, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=TRACKS)


def find_subjects(
    tracks: Sequence[tuple[np.ndarray, np.ndarray]], box: Sequence[float] | None
) -> list[bool] | list[None]:
    """Which tracks of a clip are the person in a box.

    The track whose faces fill most of the box, summed over its frames, with at least half of their area in it; and
    those that do so in other frames, as a person may be lost and found again.

    Args:
        tracks: of each, its frames, (M,), and the boxes of its faces in pixels, (M, 4).
        box: left, top, right, bottom in pixels; None: nobody is asked for.
    """
    if box is None:
        return [None] * len(tracks)
    box_4 = np.asarray(box, np.float64)
    filled = []
    for _, box_M4 in tracks:
        side_M2 = np.minimum(box_M4[:, 2:], box_4[2:]) - np.maximum(box_M4[:, :2], box_4[:2])
        inside_M = np.maximum(side_M2, 0).prod(axis=1)
        area = np.maximum(box_M4[:, 2:] - box_M4[:, :2], 0).prod(axis=1).sum()
        filled.append(float(inside_M.sum()) if area and inside_M.sum() >= _LEAST_INSIDE * area else 0.0)
    subjects, seen = [False] * len(tracks), np.empty(0, np.int64)
    for track in np.argsort(-np.array(filled), kind="stable"):
        frame_M = tracks[track][0]
        if filled[track] and not np.isin(frame_M, seen).any():
            subjects[track], seen = True, np.concatenate([seen, frame_M])
    return subjects


def _rows_of_tracks(track_N: np.ndarray) -> list[np.ndarray]:
    """The rising rows of each track, the track that begins first coming first."""
    order_N = np.argsort(track_N, kind="stable")
    rows_of_track = np.split(order_N, np.flatnonzero(np.diff(track_N[order_N])) + 1)
    return sorted(rows_of_track, key=lambda rows_M: int(rows_M[0]))


def _summarize_track(faces: FaceArrays, rows_M: np.ndarray) -> dict[str, Any]:
    """Columns of `schema.TRACKS` of the faces in `rows_M`, which are in the order of their frames."""
    frame_M, face_M, quality_M = faces.frame[rows_M], faces.face[rows_M], faces.quality[rows_M]
    score_M, time_M = faces.score[rows_M], faces.time[rows_M]
    embedded_M = faces.embedded[rows_M]
    embedding, merit_M = None, quality_M
    if embedded_M.any():
        embedding, cosine_E = pool_embeddings(faces.unit[rows_M[embedded_M]], quality_M[embedded_M])
        merit_M = np.zeros(len(rows_M))
        merit_M[embedded_M] = quality_M[embedded_M] * np.maximum(cosine_E, 0)
    best = int(merit_M.argmax())
    clip_id = faces.clip_ids[0]
    founder = f"{clip_id}/{frame_M[0]}/{face_M[0]}"
    return {
        "track_id": hashlib.blake2b(founder.encode(), digest_size=8).hexdigest(),
        "clip_id": clip_id,
        "identity_id": None,
        "first_frame": int(frame_M[0]),
        "last_frame": int(frame_M[-1]),
        "first_time": _or_none(time_M[0]),
        "last_time": _or_none(time_M[-1]),
        "faces": len(rows_M),
        "mean_score": _or_none(score_M[~np.isnan(score_M)].mean()) if not np.isnan(score_M).all() else None,
        "mean_size": float(faces.size[rows_M].mean()),
        # many faces average out what one face shows by chance; a handful does most of it
        "quality": float(quality_M.mean() * len(rows_M) / (len(rows_M) + 2)),
        "embedding": embedding,
        "frames": frame_M,
        "members": face_M.astype(np.int32),
        "representative_frame": int(frame_M[best]),
        "representative_face": int(face_M[best]),
    }


def _or_none(value: np.floating) -> float | None:
    return None if np.isnan(value) else float(value)
