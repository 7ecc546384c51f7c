"""The faces of a shard as arrays: sorted, with their embeddings, and how well each shows its person.

Letters: N faces, E rows of embeddings, P of poses, D width of the embedding (0: none).
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import match_faces, to_matrix

#: Crops are shrunk to this side before they are embedded: a larger face shows nothing more.
FULL_SIZE = 112.0
#: A face in full profile still counts this much of one that looks into the camera.
LEAST_FRONTAL = 0.2
#: At this sharpness (`schema.SLOT_COLUMNS`) a face is as good as any: of 750 real ones nine tenths are sharper, and a
#: Gaussian blur of one crop pixel brings their median to 23. The most blurred counts LEAST_SHARP of a sharp one.
FULL_SHARPNESS = 25.0
LEAST_SHARP = 0.3


@dataclass(frozen=True)
class FaceArrays:
    """N faces as parallel arrays, sorted by (clip, frame, face)."""

    clip_ids: list[str]  # sorted
    clip: np.ndarray  # index into clip_ids
    frame: np.ndarray
    face: np.ndarray
    time: np.ndarray  # float64 s, NaN: null
    box: np.ndarray  # float32 (N, 4): left, top, right, bottom in pixels
    score: np.ndarray  # float32, NaN: null
    size: np.ndarray  # square root of the box area in pixels
    quality: np.ndarray  # in (0, 1], score, resolution, sharpness and pose: how well the face shows the person
    unit: np.ndarray  # float32 (N, D) of unit length, zeros where there is no embedding
    embedded: np.ndarray  # bool: there is one


def read_faces(faces: pa.Table, embeddings: pa.Table | None, poses: pa.Table | None = None) -> FaceArrays:
    """Sort the faces by (clip_id, frame, face) and join their embeddings and poses, without a loop over rows."""
    ids = pc.unique(faces["clip_id"]).sort()
    clip = pc.index_in(faces["clip_id"], value_set=ids)
    key_3N = np.stack([column.to_numpy().astype(np.int64) for column in (clip, faces["frame"], faces["face"])])
    order_N = np.lexsort(key_3N[::-1])
    key_3N = key_3N[:, order_N]
    box_N4 = np.stack([_floats(faces, f"box_{c}", np.float32)[order_N] for c in ("x1", "y1", "x2", "y2")], axis=1)
    score_N = _floats(faces, "score", np.float32)[order_N]
    side_N2 = np.maximum(box_N4[:, 2:] - box_N4[:, :2], 0)
    size_N = np.nan_to_num(np.sqrt(side_N2[:, 0] * side_N2[:, 1]))
    quality_N = np.nan_to_num(score_N, nan=1.0) * np.minimum(size_N / FULL_SIZE, 1)
    quality_N *= _sharp(faces)[order_N] * _frontality(faces, poses, order_N)
    unit_ND, embedded_N = _join_embeddings(faces, embeddings, order_N)
    return FaceArrays(
        clip_ids=ids.to_pylist(),
        clip=key_3N[0],
        frame=key_3N[1],
        face=key_3N[2],
        time=_floats(faces, "time", np.float64)[order_N],
        box=box_N4,
        score=score_N,
        size=size_N,
        quality=np.clip(quality_N, 1e-3, 1),
        unit=unit_ND,
        embedded=embedded_N,
    )


def _floats(table: pa.Table, name: str, dtype: Any) -> np.ndarray:
    return table[name].to_numpy().astype(dtype)  # null becomes NaN


def unit_embeddings(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of embeddings, float16 or float32, at unit length.

    Returns:
        float32 (rows, D), zeros where an embedding is null, not finite or zero; and bool (rows,), where it is not.
    """
    unit_ND = to_matrix(column)
    length_N = np.linalg.norm(unit_ND, axis=1)
    embedded_N = np.isfinite(length_N) & (length_N > 0)
    unit_ND[~embedded_N] = 0
    unit_ND[embedded_N] /= length_N[embedded_N, None]
    return unit_ND, embedded_N


def _join_embeddings(
    faces: pa.Table, embeddings: pa.Table | None, order_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`unit_embeddings` of the faces in the order `order_N`."""
    if embeddings is None or embeddings.num_rows == 0 or len(order_N) == 0:
        return np.zeros((len(order_N), 0), np.float32), np.zeros(len(order_N), bool)
    unit_ED, embedded_E = unit_embeddings(embeddings["embedding"])
    face, row = _match(faces, embeddings, order_N)
    unit_ND = np.zeros((len(order_N), unit_ED.shape[1]), np.float32)
    embedded_N = np.zeros(len(order_N), bool)
    unit_ND[face], embedded_N[face] = unit_ED[row], embedded_E[row]
    return unit_ND, embedded_N


def _sharp(faces: pa.Table) -> np.ndarray:
    """How sharp each face is, LEAST_SHARP to 1; 1 where that is not known."""
    return np.nan_to_num(np.clip(_floats(faces, "sharpness", np.float64) / FULL_SHARPNESS, LEAST_SHARP, 1), nan=1.0)


def _frontality(faces: pa.Table, poses: pa.Table | None, order_N: np.ndarray) -> np.ndarray:
    """How much of each face, in the order `order_N`, is turned to the camera: the cosine of its turn aside and up or
    down, at least LEAST_FRONTAL; 1 where the pose is not known.
    """
    frontal_N = np.ones(len(order_N))
    if poses is not None and poses.num_rows and len(frontal_N):
        turned_P = np.cos(_floats(poses, "pose_yaw", np.float64)) * np.cos(_floats(poses, "pose_pitch", np.float64))
        face, row = _match(faces, poses, order_N)
        frontal_N[face] = np.nan_to_num(np.maximum(turned_P[row], LEAST_FRONTAL), nan=1.0)
    return frontal_N


def _match(faces: pa.Table, others: pa.Table, order_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the faces, as places in the order `order_N`, that another table has a row of; and these rows."""
    row_N = pc.fill_null(match_faces(faces, others), -1).to_numpy()[order_N]
    return np.flatnonzero(row_N >= 0), row_N[row_N >= 0]


def split_clips(faces: FaceArrays) -> list[FaceArrays]:
    """The faces of each clip."""
    bounds = np.searchsorted(faces.clip, np.arange(len(faces.clip_ids) + 1))
    clips = []
    for clip_id, (begin, end) in zip(faces.clip_ids, itertools.pairwise(bounds), strict=True):
        columns = {name: values[begin:end] for name, values in vars(faces).items() if name != "clip_ids"}
        clips.append(FaceArrays(clip_ids=[clip_id], **columns))
    return clips
